"""What checkpoints answered to one problem, side by side."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

from svdjobs.records import Completion, Grade, Outcome, Problem

SIGNS = {
    Outcome.CORRECT: "1",
    Outcome.WRONG: "0",
    Outcome.TRUNCATED: "t",
    Outcome.NO_ANSWER: "n",
}
UNSCORED = "u"


class Parting(NamedTuple):
    """The first token at which a checkpoint's completion leaves after's, with the same seed."""

    token: int
    """Its number, from 0."""
    after: float | None
    """log p of after's token there, under after."""
    other: float | None
    """The same under the checkpoint; both are None if after's completion was not read."""


class Answered(NamedTuple):
    """A completion, its grade, and where it leaves after's."""

    completion: Completion
    grade: Grade
    parting: Parting | None
    """None for after itself, for the same tokens, and for engines that give no tokens."""


class ProblemAnswers(NamedTuple):
    """A problem, and what each checkpoint answered, by sample."""

    problem: Problem
    answers: dict[str, list[Answered]]


def signs(grades: Iterable[Grade]) -> dict[int, str]:
    """The outcomes of each problem, a character per sample: `1` correct, `0` wrong, `t` truncated,
    `n` no answer, `u` unscored."""
    ordered = sorted(grades, key=lambda grade: (grade.idx, grade.sample_index))
    return {
        idx: "".join(SIGNS.get(grade.outcome, UNSCORED) for grade in own)
        for idx, own in groupby(ordered, key=lambda grade: grade.idx)
    }
