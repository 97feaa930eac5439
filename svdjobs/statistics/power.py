"""How small an effect a design shows, and how many completions or problems an effect needs.

A problem's difference between two checkpoints is its own true difference plus the mean of n
completions' chance. So over P problems the mean difference has the variance (between + within/n)/P:
more completions shrink only the second part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from svdjobs.statistics.comparisons import smallest_detectable

MOST = 1 << 24
"""More problems, or completions of one, than any benchmark has."""


class Spread(NamedTuple):
    """The variance of a difference between two checkpoints, in two parts."""

    between: float
    """Variance of the problems' true differences."""
    within: float
    """Variance of one completion's difference around its problem's."""

    def of_problem(self, n: int) -> float:
        """Standard deviation of a problem's difference with n completions."""
        return math.sqrt(self.between + self.within / n)


ASSUMED_WITHIN = 1 / 8
"""Assumed mean of p(1 − p) over problems, p the share of right completions: half of the largest
possible variance of a completion lies between problems."""


def spread_of(differences: Sequence[Sequence[float]]) -> Spread | None:
    """Estimate both parts from a problem's sequence of differences, one a completion.

    This is the analysis of variance of a random effect with n completions a problem: the problems'
    means vary by between + within/n (Searle, Casella & McCulloch 1992, "Variance Components",
    section 3.6). A negative estimate of `between` becomes 0. None with fewer than two problems, or
    if a problem has one completion: then the parts cannot be told apart.
    """
    import numpy as np

    if len(differences) < 2 or min(len(own) for own in differences) < 2:
        return None
    within = float(np.mean([np.var(own, ddof=1) for own in differences]))
    of_means = float(np.var([np.mean(own) for own in differences], ddof=1))
    shrunk = float(np.mean([np.var(own, ddof=1) / len(own) for own in differences]))
    return Spread(max(0.0, of_means - shrunk), within)


def shown(spread: Spread, problems: int, n: int) -> float | None:
    """The smallest true difference that n completions of each problem show in 4 of 5 tries.

    None if there are fewer than two problems, or no spread.
    """
    return smallest_detectable(spread.of_problem(n), problems)


def completions_to_show(spread: Spread, problems: int, effect: float) -> int | None:
    """Completions per problem that show a difference of `effect` in 4 of 5 tries.

    None if no number does, since the problems themselves differ too much.
    """
    return fewest(lambda n: _is_shown(spread, problems, n, effect), first=1)


def problems_to_show(spread: Spread, n: int, effect: float) -> int | None:
    """Problems with n completions each that show a difference of `effect` in 4 of 5 tries."""
    return fewest(lambda problems: _is_shown(spread, problems, n, effect))


def _is_shown(spread: Spread, problems: int, n: int, effect: float) -> bool:
    found = shown(spread, problems, n)
    return found is not None and found <= effect


def fewest(enough: Callable[[int], bool], *, first: int = 2) -> int | None:
    """The smallest number, from `first` on, that is enough; None if `MOST` are not."""
    if enough(first):
        return first
    low, high = first, 2 * first
    while not enough(high):
        if high >= MOST:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
