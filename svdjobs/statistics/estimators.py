"""Compute avg@n, pass@k and maj@k: one number over all problems from n completions of each.

Each estimate is a mean over problems of a value that is exact for the given completions. Its
interval is clustered by problem and stays in [0, 1]. Errors name a problem by its position, counted
from 0.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from functools import cache
from typing import TYPE_CHECKING

from svdjobs.records import Interval
from svdjobs.statistics.intervals import share_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def avg_at_n(correct: Sequence[Sequence[bool]], n: int) -> Interval:
    """Return the mean share of correct completions. `correct` holds the n grades of each problem.

    Raises:
        ValueError: a problem does not have n grades (it names the first), or there are no problems.
    """
    _check_counts(correct, n)
    return share_interval([sum(outcomes) / n for outcomes in correct])


def pass_at_k(correct: Sequence[Sequence[bool]], n: int, k: int) -> Interval:
    """Return the chance that k completions contain a correct one.

    It is 1 − C(n−c, k)/C(n, k) for c correct completions of n: the unbiased estimator of Chen et
    al. 2021, "Evaluating Large Language Models Trained on Code", arXiv:2107.03374. Deviation: it is
    computed in integers and rounded once; the paper multiplies floats.

    Raises:
        ValueError: as `avg_at_n`, or if k is not in 1…n.
    """
    _check_counts(correct, n, k)
    subsets = math.comb(n, k)
    return share_interval(
        [(subsets - math.comb(n - sum(outcomes), k)) / subsets for outcomes in correct]
    )


def maj_at_k(
    classes: Sequence[Sequence[int | None]], correct: Sequence[Collection[int]], n: int, k: int
) -> Interval:
    """Return the chance that the majority answer of k completions is correct.

    For each problem, `classes` holds the equivalence class of each completion's answer (None: no
    answer), and `correct` holds the correct classes. Votes are counted by class, not by string, so
    1/2 and 0.5 vote together. A completion without an answer has no vote: no answer never wins, and
    k completions without any answer count 0.

    Majority voting is from Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning
    in Language Models", arXiv:2203.11171. The value here is its expectation over all subsets of k
    of the n completions, with ties broken uniformly. It is exact for every k, by convolution over
    classes, without sampling. For k = n it is the vote itself.

    Raises:
        ValueError: as `pass_at_k`, or if `correct` has another length than `classes`.
    """
    _check_counts(classes, n, k)
    if len(classes) != len(correct):
        raise ValueError(f"{len(classes)} problems, but correct classes for {len(correct)}")
    return share_interval(
        [_vote(votes, right, k) for votes, right in zip(classes, correct, strict=True)]
    )


def _check_counts(completions: Sequence[Sequence[object]], n: int, k: int = 1) -> None:
    """Refuse a problem that does not have n completions, and a k that is not in 1…n."""
    for problem, present in enumerate(completions):
        if len(present) != n:
            raise ValueError(
                f"problem {problem} has {len(present)} completions, expected n = {n}; an estimate "
                "from another number would not be comparable"
            )
    if not 1 <= k <= n:
        raise ValueError(f"k = {k} completions cannot be chosen from n = {n}; k must be in 1…{n}")


def _vote(votes: Sequence[int | None], right: Collection[int], k: int) -> float:
    """Return the expected vote of one problem: the sum of the chances of its correct classes."""
    sizes = {answer: votes.count(answer) for answer in set(votes) if answer is not None}
    chances = []
    for answer in sizes.keys() & set(right):
        rivals = sorted(size for other, size in sizes.items() if other != answer)
        chances.append(_win_chance(sizes[answer], tuple(rivals), len(votes), k))
    return math.fsum(chances)


@cache
def _win_chance(own: int, rivals: tuple[int, ...], n: int, k: int) -> float:
    """Return the chance that the class of `own` completions wins the vote of k of n completions.

    Ties are broken uniformly. A random subset of size k is n coin flips with chance k/n, given that
    exactly k succeed. Unlike binomial coefficients, their probabilities neither overflow nor
    cancel. For each number of votes with which the class can win, the flips of the rivals are
    convolved, separately for each number of rivals that tie. Classes too small to tie cannot
    matter; together with completions without an answer they form one pool.
    """
    import numpy as np

    chance = k / n
    total = 0.0
    for votes in range(1, min(own, k) + 1):
        room = k - votes
        large = [size for size in rivals if size >= votes]
        ties_used = np.zeros((room // votes + 1, room + 1))  # [rivals that tie, completions used]
        pool = _binomial(n - own - sum(large), chance)[: room + 1]
        ties_used[0, : len(pool)] = pool
        for size in large:
            flips = _binomial(size, chance)
            before, ties_used = ties_used, np.zeros_like(ties_used)
            for fewer in range(min(votes, room + 1)):
                ties_used[:, fewer:] += flips[fewer] * before[:, : room + 1 - fewer]
            ties_used[1:, votes:] += flips[votes] * before[:-1, : max(0, room + 1 - votes)]
        won = ties_used[:, room] / np.arange(1, len(ties_used) + 1)
        total += float(_binomial(own, chance)[votes] * won.sum())
    return total / float(_binomial(n, chance)[k])


@cache
def _binomial(flips: int, chance: float) -> NDArray[np.float64]:
    """Return the probabilities of 0…flips successes."""
    import numpy as np
    from scipy.special import gammaln, xlog1py, xlogy

    s = np.arange(flips + 1)
    log_ways = gammaln(flips + 1) - gammaln(s + 1) - gammaln(flips - s + 1)
    return np.exp(log_ways + xlogy(s, chance) + xlog1py(flips - s, -chance))
