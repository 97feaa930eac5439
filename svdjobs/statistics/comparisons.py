"""Compare checkpoints on the same problems: two of them, a sweep, the detectable effect."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from svdjobs.records import Comparison, Interval, Slope
from svdjobs.statistics.intervals import (
    CONFIDENCE,
    ROUNDING,
    check_finite,
    differences,
    mean_interval,
)
from svdjobs.statistics.p_values import mcnemar_p, sign_flip_p

POWER = 0.8


def compare(
    scores: Sequence[float], reference: Sequence[float], n: int, seed: int = 0
) -> Comparison:
    """Compare two checkpoints on the same problems, by each problem's score over n completions.

    The difference is scores − reference with its paired t interval (`paired_difference`). p is from
    `sign_flip_p`; for n = 1 the result also has `mcnemar_p`. The interval and p answer the same
    question with different methods; close to the level they may disagree. The same function
    compares a checkpoint with itself under other seeds (A/A).

    Raises:
        ValueError: the numbers of problems differ or are 0, a score is not finite, or n = 1 and a
            score is neither 0 nor 1.
    """
    changes = differences(scores, reference)
    difference = mean_interval(changes)
    mcnemar = None
    if n == 1:
        for problem, pair in enumerate(zip(scores, reference, strict=True)):
            if not set(pair) <= {0, 1}:
                raise ValueError(
                    f"problem {problem} has the scores {pair}; for n = 1 a score is 0 or 1"
                )
        mcnemar = mcnemar_p([s == 1 for s in scores], [r == 1 for r in reference])
    detectable = _detectable(difference, len(changes))
    if not any(changes) and len(changes) > 1:
        detectable = smallest_seen_share(len(changes))
    return Comparison(
        difference=difference,
        p=sign_flip_p(changes, seed),
        mcnemar_p=mcnemar,
        detectable=detectable,
        problems=len(changes),
        changed=sum(change != 0 for change in changes),
    )


def slope_over_alpha(scores: Mapping[float, Sequence[float]], seed: int = 0) -> Slope:
    """Return the linear trend of the problems' scores over alpha: one test for a whole sweep.

    `scores` maps each alpha to the scores of the same problems. One number summarises each problem:
    the least-squares slope of its scores on alpha. The mean slope gets a t interval and a sign-flip
    p. The problem is the unit, so correlation between alphas does no harm (method of summary
    measures: Matthews, Altman, Campbell & Royston 1990, "Analysis of Serial Measurements in Medical
    Research", doi:10.1136/bmj.300.6719.230). The mean of the slopes is the slope of the means.

    Deviations: the test does not detect a bend without a trend. If the alphas are not symmetric
    about their mean and the scores are skewed, slopes without an effect are not exactly symmetric,
    and p is approximate.

    Raises:
        ValueError: there are fewer than two alphas, the numbers of problems differ (it names the
            alpha) or are 0, or a score or alpha is not finite.
    """
    alphas = sorted(scores)
    if len(alphas) < 2 or not all(map(math.isfinite, alphas)):
        raise ValueError(f"a slope needs two or more distinct, finite alphas; got {alphas}")
    problems = len(scores[alphas[0]])
    for alpha in alphas:
        if len(scores[alpha]) != problems:
            raise ValueError(
                f"alpha {alpha:g} has {len(scores[alpha])} problems, alpha {alphas[0]:g} {problems}"
            )
        check_finite(scores[alpha])
    centre = math.fsum(alphas) / len(alphas)
    offsets = [alpha - centre for alpha in alphas]
    by_problem = zip(*(scores[alpha] for alpha in alphas), strict=True)
    slopes = [_slope(offsets, problem_scores) for problem_scores in by_problem]
    slope = mean_interval(slopes)
    return Slope(
        slope=slope,
        p=sign_flip_p(slopes, seed),
        detectable=_detectable(slope, problems),
        alphas=alphas,
        problems=problems,
    )


def _slope(offsets: Sequence[float], problem_scores: Sequence[float]) -> float:
    """Return the least-squares slope on centred alphas; exactly 0 if it is 0 up to rounding."""
    changes = [score - problem_scores[0] for score in problem_scores]  # equal scores give 0
    total = math.fsum(o * change for o, change in zip(offsets, changes, strict=True))
    if abs(total) <= ROUNDING * max(map(abs, offsets)) * max(map(abs, changes)):
        return 0.0
    return total / math.fsum(offset**2 for offset in offsets)


def smallest_seen_share(problems: int) -> float:
    """Return the share of problems that a change must affect to show up 80 % of the time.

    To show up is to change at least one of P problems; the share is 1 − 0.2^(1/P). This is all that
    can be said if no problem changed: then there is no spread for `smallest_detectable`.
    """
    return float(1 - (1 - POWER) ** (1 / problems))


def smallest_detectable(standard_deviation: float, problems: int) -> float | None:
    """Return the smallest true mean difference that the paired t test detects 80 % of the time.

    The test is two-sided at 5 %. `standard_deviation` is that of the problems' differences. The
    solver finds the noncentrality δ·√P/sd at which the test has this power. Normal quantiles, as in
    Miller 2024 (arXiv:2411.00640), promise too much for few problems. t² is noncentral F with 1 and
    P − 1 degrees of freedom, so both tails count.

    Deviation: the observed spread is taken as the true one. The result says what the design could
    have detected, but nothing more about the observed difference (Hoenig & Heisey 2001, "The Abuse
    of Power", doi:10.1198/000313001300339897).

    None if there are fewer than two problems or no spread.

    Raises:
        ValueError: the standard deviation is negative or not finite.
    """
    if not 0 <= standard_deviation < math.inf:
        raise ValueError(f"standard deviation {standard_deviation} is not finite and at least 0")
    if problems < 2 or standard_deviation == 0:
        return None
    from scipy.optimize import brentq
    from scipy.special import stdtrit
    from scipy.stats import ncf

    freedom = problems - 1
    critical = float(stdtrit(freedom, (1 + CONFIDENCE) / 2))

    def shortfall(noncentrality: float) -> float:
        return POWER - float(ncf.sf(critical**2, 1, freedom, noncentrality**2))

    # Power is 5 % at 0 and, for every P, above 99 % at the upper end.
    noncentrality = float(brentq(shortfall, 1e-6, 3 * (critical + 1)))
    return noncentrality * standard_deviation / math.sqrt(problems)


def _detectable(mean: Interval, problems: int) -> float | None:
    if mean.standard_error is None:
        return None
    return smallest_detectable(mean.standard_error * math.sqrt(problems), problems)
