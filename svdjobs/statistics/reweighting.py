"""Estimate what another checkpoint would score, from after's graded completions and their
likelihood under it.

For a completion y that `after` drew, with outcome g(y), and a checkpoint c, the importance weight
is w(y) = p_c(y)/p_after(y), over all tokens, the stop token included. Then

    E_c[g] − E_after[g] = E_after[(w − 1)·(g − beta)]        for any constant beta,

since E_after[w] = 1 (importance sampling with the weights themselves as control variate: Owen 2013,
"Monte Carlo theory, methods and examples", chapter 9, https://artowen.su.domains/mc/). For a
checkpoint near to after all w are near 1, so the difference varies by a small fraction of what the
outcomes vary by.

Log weights and outcomes are nested: a sequence per problem, a number per completion. Problems may
have different numbers of completions. Every estimate is a mean over problems.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from svdjobs.records import Interval
from svdjobs.statistics.intervals import all_equal, mean_interval, t_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Nested = Sequence[Sequence[float]] | Sequence[Floats]

LARGEST_PARETO_K = 0.7
"""Above it the mean of the weights converges too slowly to be used (Vehtari et al. 2024)."""
NEAR = 0.9
"""Effective sample size, as a share, above which k̂ is no limit. k̂ does not depend on the scale of
the weights: it is the same whether the largest weight is 1.01 or 100."""
SMALLEST_EFFECTIVE_SHARE = 0.2
"""Effective sample size, as a share of the completions, below which nothing is estimated."""
LARGEST_ERROR_OF_MEAN = 0.1
"""Standard error of the mean weight, of which the true value is 1, above which nothing is
estimated. Beyond the limits of this module the intervals cover less than they say: measured by
tests/statistics/test_reweighting.py."""
FARTHEST_MEAN = 4.0
"""Standard errors that the mean weight may be from 1. Beyond, after's completions lack some that
the other checkpoint would draw, and nothing in them says how these would be graded."""
_FEWEST_IN_TAIL = 5
_LARGEST_LOG = 300.0


class Clustered(NamedTuple):
    """A number for each completion, one problem after the other."""

    flat: Floats
    counts: NDArray[np.int64]
    """Completions of each problem, at least one."""

    def replaced(self, flat: Floats) -> Clustered:
        """Other numbers of the same completions."""
        return Clustered(flat, self.counts)

    def means(self) -> Floats:
        """The mean of each problem."""
        import numpy as np

        starts = np.concatenate([[0], np.cumsum(self.counts)[:-1]])
        return np.add.reduceat(self.flat, starts) / self.counts

    def by_problem(self) -> list[Floats]:
        """The numbers of each problem."""
        import numpy as np

        return np.split(self.flat, np.cumsum(self.counts)[:-1])


class WeightsQuality(NamedTuple):
    """How far estimates from importance weights can be trusted."""

    completions: int
    effective_share: float
    """Effective sample size as a share of the completions: the smaller one of Kish's, (Σw)²/Σw²,
    and exp(−Var log w), to which Kish's tends if log w is normal. Few completions miss the largest
    weights, which makes Kish's too large; the variance of log w suffers far less."""
    largest_share: float
    """The largest weight as a share of their sum."""
    pareto_k: float | None
    """Shape of the Pareto distribution fitted to the largest weights; None if they do not vary."""
    mean: Interval
    """Mean weight over problems. Its expectation is 1."""

    @property
    def usable(self) -> bool:
        """Whether the limits of this module are kept."""
        return (
            (
                self.pareto_k is None
                or self.pareto_k <= LARGEST_PARETO_K
                or self.effective_share >= NEAR
            )
            and self.effective_share >= SMALLEST_EFFECTIVE_SHARE
            and self.error_of_mean <= LARGEST_ERROR_OF_MEAN
        )

    @property
    def lacking(self) -> bool:
        """Whether after's completions lack what the other checkpoint would draw: the mean weight is
        not 1."""
        error = self.mean.standard_error
        return error is not None and abs(self.mean.value - 1) > FARTHEST_MEAN * error

    @property
    def error_of_mean(self) -> float:
        """Standard error of the mean weight that follows from the effective sample size."""
        if self.effective_share == 0:
            return math.inf
        return math.sqrt((1 / self.effective_share - 1) / self.completions)


class Reweighted(NamedTuple):
    """The estimated difference of an outcome between another checkpoint and after."""

    per_problem: list[float]
    like_these: Interval
    """For problems like these: the problems are a sample, so their spread counts."""
    these: Interval
    """For these very problems: only the completions are a sample. Without an interval if a problem
    has one completion only."""
    terms: Clustered

    @property
    def per_completion(self) -> list[list[float]]:
        """What each completion adds to its problem's difference."""
        return [own.tolist() for own in self.terms.by_problem()]


def reweighted_difference(log_weights: Nested, outcomes: Nested) -> Reweighted:
    """Return the mean outcome under the other checkpoint minus that under after.

    The beta of a problem is the one that minimises the variance over all other problems. It does
    not depend on the problem's own completions, so the estimate stays unbiased (cross-fitting:
    Chernozhukov et al. 2018, doi:10.1111/ectj.12097). Outcomes are in [0, 1], and so is beta: with
    two or three problems it would be a ratio of two small numbers.

    Raises:
        ValueError: there are no problems, a problem has no completions, shapes differ, or a value
            is not finite.
    """
    import numpy as np

    gains, values = _checked(log_weights, outcomes)
    weighted = gains.replaced(gains.flat * values.flat).means()
    plain = gains.means()
    # Sums over all other problems, around 0: the expectation of `plain` is 0.
    above = (weighted * plain).sum() - weighted * plain
    below = (plain * plain).sum() - plain * plain
    beta = np.divide(above, below, out=np.full_like(above, 0.5), where=below > 0).clip(0, 1)
    per_problem = (weighted - beta * plain).tolist()
    terms = gains.replaced(gains.flat * (values.flat - np.repeat(beta, gains.counts)))
    return Reweighted(
        per_problem, _of_problems_like_these(per_problem), _of_these_problems(terms), terms
    )


def weights_quality(log_weights: Nested) -> WeightsQuality:
    """Return how far estimates from these weights can be trusted.

    Raises:
        ValueError: as `reweighted_difference`.
    """
    import numpy as np

    _, by_problem = _checked([[0.0] * len(logs) for logs in log_weights], log_weights)
    logs = by_problem.flat
    scaled = np.exp(logs - logs.max())  # the shares and k̂ do not depend on the scale
    kish = scaled.sum() ** 2 / (scaled**2).sum() / len(logs)
    return WeightsQuality(
        len(logs),
        float(min(kish, np.exp(-logs.var()))),
        float(1 / scaled.sum()),
        pareto_k(scaled.tolist()),
        mean_interval(by_problem.replaced(np.exp(logs.clip(max=_LARGEST_LOG))).means().tolist()),
    )


def pareto_k(weights: Sequence[float]) -> float | None:
    """Return k̂, the shape of the generalised Pareto distribution of the largest weights.

    They are the largest min(S/5, 3√S) of S weights. The estimator is that of Zhang & Stephens 2009
    (doi:10.1198/tech.2009.08017), drawn to 0.5 with the weight of ten observations: Vehtari,
    Simpson, Gelman, Yao & Gabry 2024, "Pareto Smoothed Importance Sampling", JMLR 25(72),
    arXiv:1507.02646v9. None if fewer than five weights exceed the others.
    """
    import numpy as np

    ordered = np.sort(np.asarray(weights, dtype=np.float64))
    count = math.ceil(min(0.2 * len(ordered), 3 * math.sqrt(len(ordered))))
    if count >= len(ordered):
        return None
    excess = ordered[-count:] - ordered[-count - 1]
    # Equal completions have equal weights, and a tie with the threshold is not above it.
    excess = excess[excess > 1e-12 * max(1.0, float(ordered[-1]))]
    if len(excess) < _FEWEST_IN_TAIL:
        return None
    shape = _zhang_stephens(excess)
    return (len(excess) * shape + 10 * 0.5) / (len(excess) + 10)


def _zhang_stephens(excess: Floats) -> float:
    """Shape of a generalised Pareto distribution, from its values in ascending order: the posterior
    mean on a grid (Zhang & Stephens 2009, section 3). Positive for a heavy tail."""
    import numpy as np

    n = len(excess)
    points = 30 + math.floor(math.sqrt(n))
    quartile = excess[math.floor(n / 4 + 0.5) - 1]
    grid = np.arange(1, points + 1) - 0.5
    theta = 1 / excess[-1] + (1 - np.sqrt(points / grid)) / (3 * quartile)
    shape = np.log1p(-theta[:, None] * excess).mean(axis=1)
    log_likelihood = n * (np.log(-theta / shape) - shape - 1)
    posterior = np.exp(log_likelihood - log_likelihood.max())
    best = float((theta * posterior).sum() / posterior.sum())
    return float(np.log1p(-best * excess).mean())


def _of_problems_like_these(per_problem: Sequence[float]) -> Interval:
    """The mean over problems with its t interval.

    The variance of few heavy-tailed values is itself uncertain. Its relative variance is
    (kurtosis − 1)/P, which gives a chi-square's degrees of freedom, 2P/(kurtosis − 1), by matching
    moments (Satterthwaite 1946, doi:10.2307/3002019).
    """
    import numpy as np

    plain = mean_interval(per_problem)
    if plain.standard_error is None:
        return plain
    apart = np.asarray(per_problem) - plain.value
    kurtosis = float((apart**4).mean() / (apart**2).mean() ** 2)
    count = len(per_problem)
    freedom = min(count - 1.0, 2 * count / (kurtosis - 1)) if kurtosis > 1 else count - 1.0
    return t_interval(plain.value, plain.standard_error, max(1.0, freedom))


def _of_these_problems(terms: Clustered) -> Interval:
    """The mean over fixed problems of each problem's mean term, with its t interval.

    Degrees of freedom are those of Welch and Satterthwaite.
    """
    import numpy as np

    means, counts = terms.means(), terms.counts
    mean = math.fsum(means.tolist()) / len(counts)
    if counts.min() < 2 or all(all_equal(own.tolist()) for own in terms.by_problem()):
        return Interval(value=mean)
    squares = (terms.flat - np.repeat(means, counts)) ** 2
    parts = terms.replaced(squares).means() / (counts - 1)
    variance = math.fsum(parts.tolist())
    freedom = variance**2 / math.fsum((parts**2 / (counts - 1)).tolist())
    return t_interval(mean, math.sqrt(variance) / len(counts), freedom)


def _checked(log_weights: Nested, outcomes: Nested) -> tuple[Clustered, Clustered]:
    """w − 1, and the outcomes."""
    import numpy as np

    if not len(log_weights):
        raise ValueError("no problems")
    if len(log_weights) != len(outcomes):
        raise ValueError(f"log weights of {len(log_weights)} problems, outcomes of {len(outcomes)}")
    counts, others = ([len(own) for own in nested] for nested in (log_weights, outcomes))
    for problem, (logs, own) in enumerate(zip(counts, others, strict=True)):
        if not logs or logs != own:
            raise ValueError(
                f"problem {problem} has {logs} log weights and {own} outcomes; expected as many of "
                f"both, and at least one"
            )
    gains, values = (
        Clustered(np.concatenate([np.asarray(own, np.float64) for own in nested]), np.array(counts))
        for nested in (log_weights, outcomes)
    )
    with np.errstate(over="ignore"):
        gains = gains.replaced(np.expm1(gains.flat))
    finite = np.isfinite(gains.flat) & np.isfinite(values.flat)
    if not finite.all():
        problem = int(np.repeat(np.arange(len(counts)), counts)[np.argmin(finite)])
        raise ValueError(f"problem {problem}: a weight or an outcome is not finite")
    return gains, values
