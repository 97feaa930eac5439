"""Random scores with fixed seeds, and checks of intervals."""

from __future__ import annotations

import numpy as np

from svdjobs.records import Interval

NAN = float("nan")


def draws(seed: int, problems: int = 60, n: int = 8) -> np.ndarray:
    """Outcomes (problem × completion) on problems of unequal difficulty."""
    rng = np.random.default_rng(seed)
    return rng.random((problems, n)) < rng.beta(1, 1, (problems, 1))


def excludes_zero(interval: Interval) -> bool:
    """Whether a 95 % interval excludes 0, which means that its t test rejects at 5 %."""
    assert interval.low is not None
    assert interval.high is not None
    return not interval.low <= 0 <= interval.high


def no_interval(interval: Interval) -> bool:
    return (interval.low, interval.high, interval.standard_error) == (None, None, None)


def null_scores(
    rng: np.random.Generator, checkpoints: int, problems: int, n: int
) -> list[list[float]]:
    """Scores of equally good checkpoints on problems of unequal difficulty."""
    difficulty = rng.beta(1, 2, problems)
    rows: list[list[float]] = (rng.binomial(n, difficulty, (checkpoints, problems)) / n).tolist()
    return rows
