r"""Drop-in for verl's `compute_score`, graded by the rule of the evaluate stage.

Name, arguments and result are those of `verl/utils/reward_score/math_dapo.py`
(https://github.com/volcengine/verl). Unlike verl's it reads the whole text, not its last 300
characters, and an answer is correct if it is equivalent to the gold, not only if it is equal text.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from functools import cache
from typing import TypedDict

from svdjobs.evaluation.grading.pool import GradingPool
from svdjobs.records import Completion, Grade, Outcome

CORRECT = 1.0
WRONG = -1.0
TIMEOUT_SECONDS = 5.0
# verl looks for a strict box from this many characters before the last pause token.
_BEFORE_PAUSE = 100


class Score(TypedDict):
    """What verl's reward managers read."""

    score: float
    """1.0 or -1.0."""
    acc: bool
    pred: str | None
    """The extracted answer; None if there is none, or none that counts."""


def compute_score(
    solution_str: str,
    ground_truth: str | float | Sequence[str],
    strict_box_verify: bool = False,
    pause_tokens_index: Sequence[int] | None = None,
) -> Score:
    r"""Score of a solution against its gold, or against several golds any of which will do.

    With `strict_box_verify` only an answer in a complete `\boxed{}` counts; with
    `pause_tokens_index` too, only one from 100 characters before the last of these positions.

    Every outcome but correct scores -1.0, even a gold that cannot be read. `GradingPool` keeps the
    outcomes apart and grades many answers at once. The answer may be hostile, so it is graded in a
    worker process, within 5 seconds.
    """
    if strict_box_verify and pause_tokens_index:
        solution_str = solution_str[max(0, pause_tokens_index[-1] - _BEFORE_PAUSE) :]
    golds = [ground_truth] if isinstance(ground_truth, str | int | float) else ground_truth
    grade = _grade(solution_str, [str(gold) for gold in golds])
    counts = grade.boxed is True or not strict_box_verify
    correct = counts and grade.outcome is Outcome.CORRECT
    return Score(
        score=CORRECT if correct else WRONG, acc=correct, pred=grade.answer if counts else None
    )


def _grade(text: str, golds: Sequence[str]) -> Grade:
    completion = Completion(
        idx=0, sample_index=0, seed=0, text=text, finish_reason="stop", completion_tokens=0
    )
    (grade,) = _pool(os.getpid()).grade([completion], {0: golds})
    return grade


@cache
def _pool(process_id: int) -> GradingPool:
    """The pool of this process; a forked child must not share its parent's pipes."""
    pool = GradingPool(TIMEOUT_SECONDS, workers=1).__enter__()
    atexit.register(pool.close)
    return pool
