"""Checkpoints on the same problems: two of them, a sweep over alpha, and what could be seen."""

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
    """Two checkpoints on the same problems, from each problem's mean score over n completions.

    The difference is scores − reference with its paired t interval (`paired_difference`), p is
    `sign_flip_p`'s, and for n = 1 `mcnemar_p` stands beside it. The interval and p answer the same
    question by different roads; close to the level they may disagree. A comparison of a checkpoint
    with itself under other seeds (A/A) is this same function.

    Raises:
        ValueError: different numbers of problems, none, a score that is not finite, or n = 1 and
            a score other than 0 and 1.
    """
    changes = differences(scores, reference)
    difference = mean_interval(changes)
    mcnemar = None
    if n == 1:
        for problem, pair in enumerate(zip(scores, reference, strict=True)):
            if not set(pair) <= {0, 1}:
                raise ValueError(f"problem {problem} scores {pair}; one completion scores 0 or 1")
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
    """Linear trend of the problem scores over alpha: one test for a whole sweep.

    `scores` maps each alpha to the scores of the same problems. Each problem's least-squares slope
    on alpha summarises it in one number; their mean gets a t interval and a sign-flip p, with the
    problem as the unit, so correlation between alphas does no harm (the summary-measures method:
    Matthews, Altman, Campbell & Royston 1990, "Analysis of Serial Measurements in Medical
    Research", doi:10.1136/bmj.300.6719.230). The mean of the slopes is the slope of the means.

    Deviations: a bend without a trend goes unseen; and where the alphas are not mirror images about
    their mean and scores are skewed, slopes without an effect are not exactly symmetric, so that p
    is approximate there.

    Raises:
        ValueError: fewer than two alphas, different numbers of problems (the alpha is named),
            none, or a score or alpha that is not finite.
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
    """Least-squares slope on centred alphas; exactly 0 where only rounding differs from it."""
    changes = [score - problem_scores[0] for score in problem_scores]  # equal scores give 0
    total = math.fsum(o * change for o, change in zip(offsets, changes, strict=True))
    if abs(total) <= ROUNDING * max(map(abs, offsets)) * max(map(abs, changes)):
        return 0.0
    return total / math.fsum(offset**2 for offset in offsets)


def smallest_seen_share(problems: int) -> float:
    """Share of problems that a change has to reach to be seen in one of these at least 80 % of the
    time: 1 − 0.2^(1/P).

    Where no problem changed there is no spread to reckon with; this is what not one change says.
    """
    return float(1 - (1 - POWER) ** (1 / problems))


def smallest_detectable(standard_deviation: float, problems: int) -> float | None:
    """Smallest true mean difference that the paired t test finds 80 % of the time, two-sided 5 %.

    `standard_deviation` is that of the problems' differences. The noncentrality δ·√P/sd at which
    the test has this power is solved for, not approximated by normal quantiles as in Miller 2024
    (arXiv:2411.00640), which promises too much for few problems. t² is noncentral F with 1 and
    P − 1 degrees of freedom, so both tails are counted.

    Deviation: the observed spread is taken for the true one. This says what the design could have
    seen; it says nothing more about the difference that was observed (Hoenig & Heisey 2001, "The
    Abuse of Power", doi:10.1198/000313001300339897).

    Returns None where it has no meaning: fewer than two problems or no spread.

    Raises:
        ValueError: a negative or non-finite standard deviation.
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
