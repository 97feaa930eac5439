"""Compute two-sided p-values of paired designs, and adjust them for many tests."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from svdjobs.statistics.intervals import ROUNDING

Key = TypeVar("Key", bound=Hashable)

EXACT_UP_TO = 16
"""Up to this many non-zero differences, all sign flips are enumerated: 2^15 sums, a millisecond."""
DRAWS = 9999
"""Monte Carlo sign flips for more differences. With 1 added, p is a multiple of 1/10000."""
_CHUNK = 1000


def sign_flip_p(problem_differences: Sequence[float], seed: int = 0, draws: int = DRAWS) -> float:
    """Return the p of |Σ differences| if the sign of each difference were a fair coin flip.

    This is Fisher's randomisation test (Fisher 1935, "The Design of Experiments", chapter 3). It is
    exact if, without an effect, each problem's difference is as likely as its negative, as when the
    completions of the two checkpoints can be swapped. It does not require normality. A difference
    of 0 stays 0 under a flip and is left out.

    Up to 16 non-zero differences are enumerated. For more, there are `draws` seeded Monte Carlo
    flips, and p = (b+1)/(m+1), which is never 0 and keeps the test's level (Phipson & Smyth 2010,
    "Permutation P-values Should Never Be Zero", doi:10.2202/1544-6115.1585). If all differences are
    0, p is 1.

    Raises:
        ValueError: there are no differences, or a difference is not finite.
    """
    import numpy as np

    values = np.asarray(problem_differences, dtype=np.float64)
    if not values.size or not np.isfinite(values).all():
        raise ValueError("a sign-flip test needs at least one difference, and all must be finite")
    values = values[np.abs(values) > ROUNDING * np.abs(values).max()]
    observed = abs(math.fsum(values)) - ROUNDING * float(np.abs(values).sum())  # ties count
    if len(values) <= EXACT_UP_TO:
        sums = values[:1] if len(values) else np.zeros(1)  # flipping all signs changes nothing
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
        return float((np.abs(sums) >= observed).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, draws, _CHUNK):
        shape = (min(_CHUNK, draws - start), len(values))
        kept = rng.integers(0, 2, shape, dtype=np.int8).astype(np.float64)
        extreme += int((np.abs(2 * (kept @ values) - values.sum()) >= observed).sum())
    return (extreme + 1) / (draws + 1)


def beyond_p(value: float, standard_error: float, problems: int, randoms: Sequence[float]) -> float:
    """Return the p of "this effect is one of a random change", two-sided.

    Under it the effect varies by the spread of random changes' true effects and by its own error.
    The mean square of measured random effects is about the former, slightly too large since it
    has their errors in it. So value/√(se² + mean square) is compared with Student's t; the degrees
    of freedom of the sum are those of Satterthwaite 1946 (doi:10.2307/3002019), P − 1 for the error
    and the number of random changes for their spread. Without random changes it is the t test that
    there is no effect.

    Raises:
        ValueError: the standard error is not above 0, or there are fewer than two problems.
    """
    from scipy.special import stdtr

    if standard_error <= 0 or problems < 2:
        raise ValueError(f"standard error {standard_error} of {problems} problems: nothing to test")
    own = standard_error**2
    random = math.fsum(r**2 for r in randoms) / len(randoms) if randoms else 0.0
    shares = own**2 / (problems - 1) + (random**2 / len(randoms) if randoms else 0.0)
    return 2 * float(stdtr((own + random) ** 2 / shares, -abs(value) / math.sqrt(own + random)))


def unseen_p(difference: float, problems: int, changed: int) -> float:
    """Return the p of "accuracy differs by this", if so few problems changed; one-sided.

    A problem's score changes by at most 1, so a difference d changes at least |d|·P problems on
    average; their number is taken as Poisson's, which is wider than the binomial's. For samples in
    which few problems changed: a test on their differences has no spread to go by, and takes any
    other estimate for a contradiction.

    Raises:
        ValueError: there are no problems, or more changed than there are.
    """
    from scipy.special import pdtr

    if problems < 1 or not 0 <= changed <= problems:
        raise ValueError(f"{changed} of {problems} problems changed: nothing to test")
    return float(pdtr(changed, abs(difference) * problems))


def mcnemar_p(correct: Sequence[bool], reference: Sequence[bool]) -> float:
    """Return the exact p of McNemar's test, for one completion per problem.

    Without an effect, a problem that exactly one checkpoint solved is as likely to be solved by
    either. So this is a two-sided binomial test at 1/2 (McNemar 1947, doi:10.1007/BF02295996; his
    χ² approximation is not used). Without such problems, p is 1. An exact test is conservative: it
    rejects less often than its level.

    Raises:
        ValueError: the numbers of problems differ.
    """
    if len(correct) != len(reference):
        raise ValueError(f"{len(correct)} problems cannot be paired with {len(reference)}")
    gained = sum(a and not b for a, b in zip(correct, reference, strict=True))
    lost = sum(b and not a for a, b in zip(correct, reference, strict=True))
    discordant = gained + lost
    tail = sum(math.comb(discordant, i) for i in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / (1 << discordant))


def holm(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Return adjusted p-values by key, in the mapping's order. Reject those at most the level.

    This controls the chance of any false rejection among all keys, whatever their dependence. From
    the smallest p on, the factors are m, m−1, …; adjusted values never fall and are at most 1 (Holm
    1979, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of
    Statistics 6:65–70).

    Raises:
        ValueError: a p-value is not in 0…1 (it names the key).
    """
    for key, p in p_values.items():
        if not 0 <= p <= 1:
            raise ValueError(f"the p-value of {key!r} is {p}, not in 0…1")
    adjusted: dict[Key, float] = {}
    highest = 0.0
    for place, key in enumerate(sorted(p_values, key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - place) * p_values[key]))
        adjusted[key] = highest
    return {key: adjusted[key] for key in p_values}
