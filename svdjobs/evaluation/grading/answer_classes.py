"""Equivalence classes of the answers to one problem: what maj@k counts.

Equal strings first, then the grader's own rule against one representative of each class. The rule
is not transitive (rounding), so classes depend on order: first come, first representative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from svdjobs.evaluation.answers.normal_form import MAX_CHARACTERS, normalise
from svdjobs.evaluation.grading.rule import grade_answer
from svdjobs.records import Outcome

# Classes an answer is compared with; beyond that many distinct answers the vote is noise anyway.
MAX_COMPARISONS = 64


def assign_classes(
    answers: Sequence[str], known: Sequence[int] = (), late: Sequence[int] = ()
) -> Iterator[int]:
    """Class ids of the answers after the first `len(known)`, one by one, from 0 in order of use.

    One by one, so that a parent with a clock keeps what it got from a worker it had to kill: it
    asks again with the ids it has (`known`) and the positions that ran out of time (`late`). A late
    answer stays in the class it was given, alone but for equal strings, and represents nothing.
    """
    by_text: dict[str, int] = {}
    representatives: dict[int, str] = {}
    for position, (answer, class_id) in enumerate(zip(answers, known, strict=False)):
        by_text.setdefault(normalise(answer), class_id)
        if position not in late:
            representatives.setdefault(class_id, answer)
    following = max(known, default=-1) + 1
    for answer in answers[len(known) :]:
        class_id = by_text.get(normalise(answer), -1)
        if class_id < 0:
            class_id = _equivalent(answer, representatives)
        if class_id < 0:
            class_id, following = following, following + 1
            representatives[class_id] = answer
        by_text.setdefault(normalise(answer), class_id)
        yield class_id


def _equivalent(answer: str, representatives: dict[int, str]) -> int:
    """First class whose representative equals the answer, -1 if none does."""
    if len(answer) <= MAX_CHARACTERS:
        # A runaway answer overruns its own time here, not that of every answer compared with it.
        grade_answer(answer, f"{answer} ")
    for class_id, representative in list(representatives.items())[:MAX_COMPARISONS]:
        if grade_answer(answer, representative) is Outcome.CORRECT:
            return class_id
    return -1
