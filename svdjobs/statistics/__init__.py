"""Estimates, their uncertainty, and tests between checkpoints. Plain floats in, plain floats out.

    intervals     means, shares and paired differences with intervals
    estimators    avg@n, pass@k, maj@k from the completions of each problem
    ratios        means per token, clustered by trace; what rounding does to a checkpoint
    reweighting   what another checkpoint would score, from after's completions
    p_values      sign flips, McNemar, Holm
    margins       tests of a loss beyond a margin
    comparisons   two checkpoints, a sweep over alpha, the smallest detectable effect
    power         how small an effect a design shows, and what an effect needs

A problem's score is the mean grade of its completions. Problems, not completions, are the
independent samples: the completions of one problem share its difficulty. So every standard error is
clustered by problem (Miller 2024, "Adding Error Bars to Evals", arXiv:2411.00640). An uncertainty
that cannot be estimated is None. Random methods take a seed.
"""

from __future__ import annotations

from svdjobs.statistics.comparisons import compare, slope_over_alpha, smallest_detectable
from svdjobs.statistics.estimators import avg_at_n, maj_at_k, pass_at_k
from svdjobs.statistics.intervals import mean_interval, paired_difference, share_interval
from svdjobs.statistics.margins import below_p, few_changed, passing_margin, problems_needed
from svdjobs.statistics.p_values import beyond_p, holm, mcnemar_p, sign_flip_p, unseen_p
from svdjobs.statistics.power import (
    ASSUMED_WITHIN,
    Spread,
    completions_to_show,
    problems_to_show,
    shown,
    spread_of,
)
from svdjobs.statistics.ratios import (
    LARGEST_CAST_ERROR,
    cast_error_total,
    divergence_interval,
    mean_per_token,
    ratio_interval,
    realised_total,
    rounding_shift,
    spectrum_shift,
)
from svdjobs.statistics.reweighting import (
    Reweighted,
    WeightsQuality,
    reweighted_difference,
    weights_quality,
)

__all__ = [
    "ASSUMED_WITHIN",
    "LARGEST_CAST_ERROR",
    "Reweighted",
    "Spread",
    "WeightsQuality",
    "avg_at_n",
    "below_p",
    "beyond_p",
    "cast_error_total",
    "compare",
    "completions_to_show",
    "divergence_interval",
    "few_changed",
    "holm",
    "maj_at_k",
    "mcnemar_p",
    "mean_interval",
    "mean_per_token",
    "paired_difference",
    "pass_at_k",
    "passing_margin",
    "problems_needed",
    "problems_to_show",
    "ratio_interval",
    "realised_total",
    "reweighted_difference",
    "rounding_shift",
    "share_interval",
    "shown",
    "sign_flip_p",
    "slope_over_alpha",
    "smallest_detectable",
    "spectrum_shift",
    "spread_of",
    "unseen_p",
    "weights_quality",
]
