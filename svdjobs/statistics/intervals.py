"""Compute means over problems with Student's t intervals.

Standard errors are clustered by problem (Miller 2024, "Adding Error Bars to Evals",
arXiv:2411.00640, sections 2.2 and 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from svdjobs.records import Interval

CONFIDENCE = 0.95
ROUNDING = 1e-12
"""Values are equal up to this relative difference. Scores are ratios of small integers: their
float64 sums and differences are off by about 1e-16, and distinct scores differ by 1/n."""


def mean_interval(problem_scores: Sequence[float]) -> Interval:
    """Return the mean of the problems' scores with its t interval.

    If all problems have equally many completions, the clustered standard error is that of the
    problems' scores, sd/√P. There is no interval for fewer than two problems or for equal scores:
    the data then say nothing about the spread, and an interval of width zero would claim they do.

    Raises:
        ValueError: there are no scores, or a score is not finite.
    """
    if not problem_scores:
        raise ValueError("no scores to average")
    check_finite(problem_scores)
    count = len(problem_scores)
    mean = math.fsum(problem_scores) / count
    if all_equal(problem_scores):
        return Interval(value=mean)
    variance = math.fsum((score - mean) ** 2 for score in problem_scores) / (count - 1)
    return t_interval(mean, math.sqrt(variance / count), count - 1)


def share_interval(problem_shares: Sequence[float]) -> Interval:
    """Return the mean of the problems' shares, each in [0, 1], with an interval within [0, 1].

    The interval is Wilson's (1927, doi:10.1080/01621459.1927.10502953) with t in place of z, and
    with the effective number of independent draws p(1 − p)/se² in place of n; se is the standard
    error clustered by problem. This is the modification for clustered samples of Korn & Graubard
    1998, in the form that Franco et al. 2019 (doi:10.1093/jssam/smy019) recommend. If all shares
    are equal, the number of draws is the number of problems, so 0 of 200 and 200 of 200 have an
    interval too. There is no interval for fewer than two problems.

    Raises:
        ValueError: there are no shares, or a share is not in [0, 1].
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
    """Return the mean of scores − reference over problems, with its paired t interval.

    Pairing by problem removes the differences in difficulty, which are most of the variance, from
    the comparison (Miller 2024, section 4.2).

    Raises:
        ValueError: the numbers of problems differ or are 0, or a score is not finite.
    """
    return mean_interval(differences(scores, reference))


def differences(scores: Sequence[float], reference: Sequence[float]) -> list[float]:
    """Return scores − reference for each problem; exactly 0 if they differ by rounding alone.

    Raises:
        ValueError: the numbers of problems differ, or a score is not finite.
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
    """Refuse NaN and infinite scores: a mean would pass them on as if they were measured.

    Raises:
        ValueError: a score is not finite (it names the first problem, counted from 0).
    """
    for problem, score in enumerate(problem_scores):
        if not math.isfinite(score):
            raise ValueError(f"the score of problem {problem} is {score}, not a finite number")


def all_equal(values: Sequence[float]) -> bool:
    """Whether the values are equal up to rounding; true for a single value."""
    low, high = min(values), max(values)
    return high - low <= ROUNDING * max(abs(low), abs(high))


def t_interval(value: float, standard_error: float, freedom: float) -> Interval:
    """Return the 95 % interval value ± t·se, t with that many degrees of freedom."""
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * standard_error
    return Interval(value=value, low=value - half, high=value + half, standard_error=standard_error)
