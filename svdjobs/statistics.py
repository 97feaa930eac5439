"""Estimates and their uncertainty. Plain floats in, plain floats out; no randomness.

Problems, not completions, are the independent draws: completions of one problem share its
difficulty, so standard errors are clustered by problem (Miller 2024, "Adding Error Bars to Evals",
arXiv:2411.00640, sections 2.2 and 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

from svdjobs.config import StorageDtype
from svdjobs.records import BlendRecord, Interval

CONFIDENCE = 0.95


def mean_interval(problem_scores: Sequence[float]) -> Interval:
    """Mean of problem means with its t interval.

    With equal numbers of completions per problem the clustered standard error is that of the
    problem means, sd/√P. No interval for fewer than two problems or where all scores are equal:
    the data say nothing about spread then, and a width of zero would.

    Raises:
        ValueError: no scores.
    """
    if not problem_scores:
        raise ValueError("no scores to average")
    count = len(problem_scores)
    mean = math.fsum(problem_scores) / count
    if count < 2:
        return Interval(value=mean)
    variance = math.fsum((score - mean) ** 2 for score in problem_scores) / (count - 1)
    error = math.sqrt(variance / count)
    if error == 0:
        return Interval(value=mean)
    from scipy.stats import t

    half = float(t.ppf((1 + CONFIDENCE) / 2, count - 1)) * error
    return Interval(value=mean, low=mean - half, high=mean + half, standard_error=error)


def paired_difference(scores: Sequence[float], reference: Sequence[float]) -> Interval:
    """Mean difference of problem means, scores − reference, with its paired t interval.

    Pairing by problem removes the problems' own difficulty, most of the variance, from the
    comparison (Miller 2024, section 4.2).

    Raises:
        ValueError: different numbers of problems.
    """
    if len(scores) != len(reference):
        raise ValueError(f"{len(scores)} problems cannot be paired with {len(reference)}")
    return mean_interval([a - b for a, b in zip(scores, reference, strict=True)])


def realised_total(records: Sequence[BlendRecord]) -> dict[str, float | None]:
    """Realised fraction over all tensors by dtype: sum of projections over sum of signals.

    None where there is no signal, as at alpha = 1.
    """
    totals: dict[str, float | None] = {}
    for dtype in get_args(StorageDtype):
        projection = math.fsum(record.casts[dtype].projection for record in records)
        signal = math.fsum(record.casts[dtype].signal for record in records)
        totals[dtype] = projection / signal if signal else None
    return totals
