"""Equivalence classes of the answers to one problem: what maj@k counts.

Answers with equal text share a class; others are compared with one representative of each class by
the grader's rule. The rule is not transitive (rounding), so classes depend on the order of answers:
the first of a class represents it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from svdjobs.evaluation.answers.normal_form import normalise
from svdjobs.evaluation.grading.rule import grade_answer
from svdjobs.records import Outcome

# Classes that an answer is compared with; with more distinct answers the vote is noise anyway.
MAX_COMPARISONS = 64


def assign_classes(
    answers: Sequence[str], class_ids: Sequence[int] = (), incomparable: Sequence[int] = ()
) -> Iterator[int]:
    """Class ids of the answers after the first `len(class_ids)`, one by one, numbered from 0 as
    they appear.

    They come one by one so that a parent can keep the ids it got from a worker that it had to kill:
    it asks again with these `class_ids` and the positions of `incomparable` answers, which timed
    out or failed. Such an answer keeps its class and is never used as a representative; only an
    answer with equal text joins it.
    """
    by_text: dict[str, int] = {}
    representatives: dict[int, str] = {}
    for position, (answer, class_id) in enumerate(zip(answers, class_ids, strict=False)):
        by_text.setdefault(normalise(answer), class_id)
        if position not in incomparable:
            representatives.setdefault(class_id, answer)
    next_id = max(class_ids, default=-1) + 1
    for answer in answers[len(class_ids) :]:
        class_id = by_text.get(normalise(answer), -1)
        if class_id < 0:
            class_id = _equivalent(answer, representatives)
        if class_id < 0:
            class_id, next_id = next_id, next_id + 1
            representatives[class_id] = answer
        by_text.setdefault(normalise(answer), class_id)
        yield class_id


def _equivalent(answer: str, representatives: dict[int, str]) -> int:
    """The first class whose representative equals the answer, or -1."""
    # Graded alone first: a slow answer then times out here, and does not become a representative
    # that slows all later ones.
    grade_answer(answer, "1")
    for class_id, representative in list(representatives.items())[:MAX_COMPARISONS]:
        if grade_answer(answer, representative) is Outcome.CORRECT:
            return class_id
    return -1
