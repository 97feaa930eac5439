r"""The field's `compute_score`: 1.0 correct, 0.0 wrong, negative for a broken chain of thought.

Same name and arguments as the DAPO/verl reward scripts, same rule as the evaluate stage
(`grading.py`): there is one extractor and one comparison. Unlike those scripts it looks at the
whole text, not at its last 300 characters.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence
from functools import cache

from svdjobs.evaluation.extraction import extract_answer
from svdjobs.evaluation.normal_form import minerva
from svdjobs.evaluation.workers import GradingPool
from svdjobs.records import Completion, Outcome

CORRECT = 1.0
WRONG = 0.0
NO_THINK_END = -0.5
NO_THINK_START = -2.0
TIMEOUT_SECONDS = 5.0


def compute_score(
    solution_str: str,
    ground_truth: str | Sequence[str],
    is_longcot: bool = False,
    is_use_math_verify: bool = True,
) -> float:
    r"""Score of a solution against its gold, or against several any of which will do.

    A long chain of thought (`is_longcot`) must have `<think>` (else -2.0) and `</think>` (else
    -0.5), and only what follows the last `</think>` is looked at. With `is_use_math_verify` the
    answer may be equivalent to the gold; that is decided in a worker process, since the answer may
    be hostile, within 5 seconds (twice). Without, their Minerva forms must be equal.

    0.0 is everything that is not correct, a gold that cannot be read included; `GradingPool` tells
    these apart and is the way to grade many.
    """
    text = solution_str
    if is_longcot:
        if "</think>" not in text:
            return NO_THINK_END
        if "<think>" not in text:
            return NO_THINK_START
        text = text.rpartition("</think>")[2]
    golds = [ground_truth] if isinstance(ground_truth, str) else [str(g) for g in ground_truth]
    answer = extract_answer(text)
    if answer is None:
        return WRONG
    if any(answer.strip() == gold.strip() != "" for gold in golds):
        return CORRECT
    if is_use_math_verify:
        return CORRECT if _outcome(text, golds) is Outcome.CORRECT else WRONG
    return CORRECT if any(minerva(answer) == minerva(gold) != "" for gold in golds) else WRONG


def _outcome(text: str, golds: Sequence[str]) -> Outcome:
    completion = Completion(
        idx=0, sample_index=0, seed=0, text=text, finish_reason="stop", completion_tokens=0
    )
    (grade,) = _pool(os.getpid()).grade([completion], {0: golds})
    return grade.outcome


@cache
def _pool(process_id: int) -> GradingPool:
    """One worker for this process (a forked child must not share its parent's pipes)."""
    pool = GradingPool(TIMEOUT_SECONDS, workers=1).__enter__()
    atexit.register(pool.close)
    return pool
