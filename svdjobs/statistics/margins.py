"""Has something been lost beyond a margin, or is it shown that it has not?

Two one-sided tests share a margin: of "nothing beyond it was lost", which a regression refutes, and
of "more than it was lost", which non-inferiority refutes (Schuirmann 1987, "A Comparison of the Two
One-Sided Tests Procedure", doi:10.1007/BF01068419). Where neither is refuted, the data do not tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from svdjobs.statistics.comparisons import smallest_detectable
from svdjobs.statistics.intervals import CONFIDENCE, check_finite, mean_interval

KEPT_LEVEL = (1 - CONFIDENCE) / 2
"""Of the test that shows non-inferiority: the lower end of the 95 % interval is its bound."""
FEW_CHANGES = 10
"""Problems that must have changed for their mean to be taken as normal: the textbook's rule for a
share. With one gain in 30 problems the t interval would exclude a loss of one point."""
MOST_PROBLEMS = 1 << 24
"""More problems than any benchmark has."""


def below_p(problem_differences: Sequence[float], bound: float) -> float:
    """One-sided p of "the true mean difference is at least `bound`": small where it is below it.

    The paired t test shifted by the bound: (mean − bound)/se, with P − 1 degrees of freedom
    (Student 1908, "The Probable Error of a Mean", doi:10.1093/biomet/6.1.1). It agrees with the t
    interval: p < 2.5 % exactly where the interval's upper end is below the bound. Sign flips of the
    shifted differences are no alternative: they ask for symmetry about the bound, but most problems
    change by exactly 0, so the shifted differences are a spike on one side, a tail on the other.

    Where all differences are equal there is no spread to divide by, and what is known is that
    scores lie in 0…1: a difference is at most 1, so no more than q = (1 − bound)/(1 − d) of all
    problems can have one of d or less if the mean is `bound` (Markov's inequality), and p = q^P,
    exact. For d = 0 that is the rule of three (Hanley & Lippman-Hand 1983, "If Nothing Goes Wrong,
    Is Everything All Right?", doi:10.1001/jama.1983.03330370053031).

    Deviation: with few problems that change, the mean is not yet normal; rare large differences on
    one side make the test on that side cautious, and the other one bold.

    Raises:
        ValueError: no differences, or one that is not finite or outside −1…1; so is the bound.
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
    """The margin above which these differences show that no more was lost.

    The lower end of their interval, sign turned; without spread, the margin at which `below_p` of
    the differences with their signs turned is 2.5 %. Below 0 where a gain is shown.

    Where fewer than `FEW_CHANGES` problems changed, it is also no less than the upper end of the
    exact interval of the share of problems that lost (Clopper & Pearson 1934,
    doi:10.1093/biomet/26.4.404): none loses more than 1, so no more than that share was lost,
    whatever the distribution. Where none lost, that is the rule of three again.

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
    """Whether too few problems changed for the t interval to be believed alone."""
    return sum(change != 0 for change in problem_differences) < FEW_CHANGES


def problems_needed(problem_differences: Sequence[float], margin: float) -> int | None:
    """How many problems with this spread tell a loss of the margin from none, 4 times in 5.

    The fewest for which `smallest_detectable` is no more than the margin; without spread, those
    that would show non-inferiority if all went on to differ so, and where few have changed, no
    fewer than those that would if none changed. None where no number would.

    Raises:
        ValueError: as `below_p`.
    """
    _check(problem_differences, margin)
    mean = mean_interval(problem_differences)
    if mean.standard_error is None:
        return _alike(mean.value, margin)
    spread = mean.standard_error * math.sqrt(len(problem_differences))

    def enough(problems: int) -> bool:
        found = smallest_detectable(spread, problems)
        return found is not None and found <= margin

    found = _fewest(enough) if margin > 0 else None
    if found is not None and few_changed(problem_differences):
        return max(found, _alike(0, margin) or 0)
    return found


def _alike(difference: float, margin: float) -> int | None:
    """Problems, all with this difference, that show that no more than the margin was lost."""
    if difference <= -margin:
        return None
    share = (1 - margin) / (1 + difference)
    return 1 if share <= KEPT_LEVEL else math.ceil(math.log(KEPT_LEVEL) / math.log(share))


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """The smallest number from 2 on that is enough; None where `MOST_PROBLEMS` are not."""
    high = 2
    while not enough(high):
        if high >= MOST_PROBLEMS:
            return None
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _check(problem_differences: Sequence[float], bound: float) -> None:
    """Refuse what is no difference of scores."""
    if not problem_differences:
        raise ValueError("no differences to judge")
    check_finite(problem_differences)
    if max(map(abs, problem_differences)) > 1:
        raise ValueError("a difference of scores lies in -1…1")
    if not -1 < bound < 1:
        raise ValueError(f"margin {bound} is not in -1…1")
