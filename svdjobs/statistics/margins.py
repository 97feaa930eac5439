"""Test whether more than a margin was lost, and whether it is shown that no more was lost.

Two one-sided tests share the margin (Schuirmann 1987, "A Comparison of the Two One-Sided Tests
Procedure", doi:10.1007/BF01068419). A regression refutes "no more than the margin was lost".
Non-inferiority refutes "more than the margin was lost". If neither is refuted, the data do not
decide.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from svdjobs.statistics.comparisons import smallest_detectable
from svdjobs.statistics.intervals import CONFIDENCE, check_finite, mean_interval
from svdjobs.statistics.power import fewest

KEPT_LEVEL = (1 - CONFIDENCE) / 2
"""Level of the test that shows non-inferiority; its bound is the lower end of the 95 % interval."""
FEW_CHANGES = 10
"""With fewer changed problems than this, the mean is not taken as normal: the textbooks' rule for
shares. With one gain in 30 problems, the t interval would exclude a loss of one point."""


def below_p(problem_differences: Sequence[float], bound: float) -> float:
    """Return the one-sided p of "the true mean difference is at least `bound`".

    A small p shows that it is below. This is the paired t test shifted by the bound:
    (mean − bound)/se, with P − 1 degrees of freedom (Student 1908, "The Probable Error of a Mean",
    doi:10.1093/biomet/6.1.1). It agrees with the t interval: p < 2.5 % exactly if the interval's
    upper end is below the bound. Sign flips of the shifted differences do not work: they require
    symmetry about the bound, but most problems change by exactly 0, so the shifted differences have
    a spike on one side and a tail on the other.

    If all differences are equal to some d, there is no spread to divide by. But a score lies in
    0…1, so a difference is at most 1. If the mean is `bound`, at most q = (1 − bound)/(1 − d) of
    all problems can have a difference of d or less (Markov's inequality). So p = q^P, without an
    approximation. For d = 0 that is the rule of three (Hanley & Lippman-Hand 1983, "If Nothing Goes
    Wrong, Is Everything All Right?", doi:10.1001/jama.1983.03330370053031).

    Deviation: if few problems change, the mean is not yet normal. Rare large differences on one
    side make the test on that side cautious and the other test bold.

    Raises:
        ValueError: there are no differences, a difference is not finite or not in −1…1, or the
            bound is not between −1 and 1.
    """
    _check(problem_differences, bound)
    mean = mean_interval(problem_differences)
    problems = len(problem_differences)
    if mean.standard_error is None:
        if mean.value >= bound:
            return 1.0
        return math.pow((1 - bound) / (1 - mean.value), problems)
    from scipy.special import stdtr

    return float(stdtr(problems - 1, (mean.value - bound) / mean.standard_error))


def passing_margin(problem_differences: Sequence[float]) -> float:
    """Return the margin above which these differences show that no more was lost.

    It is minus the lower end of their interval. Without spread, it is the margin at which `below_p`
    of the negated differences is 2.5 %. It is negative if a gain is shown.

    If fewer than `FEW_CHANGES` problems changed, it is at least the upper end of the exact interval
    of the share of problems that lost (Clopper & Pearson 1934, doi:10.1093/biomet/26.4.404). A
    problem loses at most 1, so no more than that share was lost, whatever the distribution. If no
    problem lost, this is the rule of three again.

    Raises:
        ValueError: as `below_p`.
    """
    _check(problem_differences, 0)
    mean, problems = mean_interval(problem_differences), len(problem_differences)
    if mean.low is None:
        return 1 - (1 + mean.value) * math.pow(KEPT_LEVEL, 1 / problems)
    if not few_changed(problem_differences):
        return -mean.low
    from scipy.special import betaincinv

    losers = sum(change < 0 for change in problem_differences)
    most = 1.0
    if losers < problems:
        most = float(betaincinv(losers + 1, problems - losers, 1 - KEPT_LEVEL))
    return max(-mean.low, most)


def few_changed(problem_differences: Sequence[float]) -> bool:
    """Whether too few problems changed to rely on the t interval alone."""
    return sum(change != 0 for change in problem_differences) < FEW_CHANGES


def problems_needed(problem_differences: Sequence[float], margin: float) -> int | None:
    """Return how many problems with this spread tell a loss of the margin from none, 4 times in 5.

    This is the smallest number for which `smallest_detectable` is at most the margin. Without
    spread, it is the number that would show non-inferiority if all problems differed by as much. If
    few problems changed, it is at least the number that would show it if none changed. None if no
    number is enough.

    Raises:
        ValueError: as `below_p`.
    """
    _check(problem_differences, margin)
    mean = mean_interval(problem_differences)
    if mean.standard_error is None:
        return _needed_if_equal(mean.value, margin)
    spread = mean.standard_error * math.sqrt(len(problem_differences))

    def enough(problems: int) -> bool:
        detectable = smallest_detectable(spread, problems)
        return detectable is not None and detectable <= margin

    needed = fewest(enough) if margin > 0 else None
    if needed is not None and few_changed(problem_differences):
        return max(needed, _needed_if_equal(0, margin) or 0)
    return needed


def _needed_if_equal(difference: float, margin: float) -> int | None:
    """Return how many problems with this difference show that no more than the margin was lost."""
    if difference <= -margin:
        return None
    share = (1 - margin) / (1 + difference)
    return 1 if share <= KEPT_LEVEL else math.ceil(math.log(KEPT_LEVEL) / math.log(share))


def _check(problem_differences: Sequence[float], bound: float) -> None:
    """Refuse differences, or a bound, that scores in 0…1 cannot have."""
    if not problem_differences:
        raise ValueError("there are no differences to test")
    check_finite(problem_differences)
    if max(map(abs, problem_differences)) > 1:
        raise ValueError("a difference of scores is not in -1…1")
    if not -1 < bound < 1:
        raise ValueError(f"margin {bound} is not in -1…1")
