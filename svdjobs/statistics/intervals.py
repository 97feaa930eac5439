"""Means over problems with Student's t intervals.

Standard errors are clustered by problem (Miller 2024, "Adding Error Bars to Evals",
arXiv:2411.00640, sections 2.2 and 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from svdjobs.records import Interval

CONFIDENCE = 0.95
ROUNDING = 1e-12
"""Values this close, relative to their size, are equal: scores are ratios of small integers, whose
float64 sums and differences are off by about 1e-16, and distinct ones are 1/n apart."""


def mean_interval(problem_scores: Sequence[float]) -> Interval:
    """Mean of problem means with its t interval.

    With equal numbers of completions per problem the clustered standard error is that of the
    problem means, sd/√P. No interval for fewer than two problems or where all scores are equal:
    the data say nothing about spread then, and a width of zero would.

    Raises:
        ValueError: no scores, or one that is not finite.
    """
    if not problem_scores:
        raise ValueError("no scores to average")
    check_finite(problem_scores)
    count = len(problem_scores)
    mean = math.fsum(problem_scores) / count
    if all_equal(problem_scores):
        return Interval(value=mean)
    variance = math.fsum((score - mean) ** 2 for score in problem_scores) / (count - 1)
    return t_interval(mean, math.sqrt(variance / count), count)


def share_interval(problem_shares: Sequence[float]) -> Interval:
    """Mean of shares of problems, each in [0, 1], with an interval that stays in [0, 1].

    Wilson's (1927, doi:10.1080/01621459.1927.10502953) with the effective number of independent
    draws p(1 − p)/se² in place of n, se the standard error clustered by problem, and t in place of
    z: the modification for clustered samples of Korn & Graubard 1998, in the form that Franco et
    al. 2019 (doi:10.1093/jssam/smy019) recommend. Where no problem differs from the others the
    draws are as many as problems, so that 0 of 200 and 200 of 200 have an interval too.

    No interval for fewer than two problems.

    Raises:
        ValueError: no shares, or one that is not in [0, 1].
    """
    from scipy.special import stdtrit

    mean = mean_interval(problem_shares)
    if not all(-ROUNDING <= share <= 1 + ROUNDING for share in problem_shares):
        raise ValueError("a share is not in [0, 1]")
    problems, p = len(problem_shares), min(1.0, max(0.0, mean.value))
    if problems < 2:
        return mean
    error = mean.standard_error
    draws = p * (1 - p) / error**2 if error else float(problems)
    t2 = float(stdtrit(problems - 1, (1 + CONFIDENCE) / 2)) ** 2 / draws
    middle = (p + t2 / 2) / (1 + t2)
    half = math.sqrt(t2 * (p * (1 - p) + t2 / 4)) / (1 + t2)
    return Interval(
        value=mean.value,
        low=max(0.0, middle - half),
        high=min(1.0, middle + half),
        standard_error=error,
    )


def paired_difference(scores: Sequence[float], reference: Sequence[float]) -> Interval:
    """Mean difference of problem means, scores − reference, with its paired t interval.

    Pairing by problem removes the problems' own difficulty, most of the variance, from the
    comparison (Miller 2024, section 4.2).

    Raises:
        ValueError: different numbers of problems, none, or a score that is not finite.
    """
    return mean_interval(differences(scores, reference))


def differences(scores: Sequence[float], reference: Sequence[float]) -> list[float]:
    """scores − reference, problem by problem; exactly 0 where they differ by rounding alone.

    Raises:
        ValueError: different numbers of problems, or a score that is not finite.
    """
    if len(scores) != len(reference):
        raise ValueError(f"{len(scores)} problems cannot be paired with {len(reference)}")
    check_finite(scores)
    check_finite(reference)
    return [
        0.0 if math.isclose(a, b, rel_tol=ROUNDING) else a - b
        for a, b in zip(scores, reference, strict=True)
    ]


def check_finite(problem_scores: Sequence[float]) -> None:
    """Refuse NaN and infinities: an average would pass them on as if they were measured.

    Raises:
        ValueError: a score is not finite (the first problem is named, counted from 0).
    """
    for problem, score in enumerate(problem_scores):
        if not math.isfinite(score):
            raise ValueError(f"the score of problem {problem} is {score}, not a finite number")


def all_equal(values: Sequence[float]) -> bool:
    """Whether the values differ by no more than rounding; true of a single one."""
    low, high = min(values), max(values)
    return high - low <= ROUNDING * max(abs(low), abs(high))


def t_interval(value: float, standard_error: float, clusters: int) -> Interval:
    """The 95 % interval value ± t·se, with clusters − 1 degrees of freedom."""
    from scipy.special import stdtrit

    half = float(stdtrit(clusters - 1, (1 + CONFIDENCE) / 2)) * standard_error
    return Interval(value=value, low=value - half, high=value + half, standard_error=standard_error)
