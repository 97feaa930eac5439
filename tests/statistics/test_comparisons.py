from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from svdjobs.records import Interval
from svdjobs.statistics import (
    compare,
    mean_interval,
    paired_difference,
    sign_flip_p,
    slope_over_alpha,
    smallest_detectable,
)
from tests.statistics.draws import NAN, draws, excludes_zero, null_scores


def test_comparison_gathers_what_its_parts_say() -> None:
    a, b = (draws(seed).mean(axis=1).tolist() for seed in (6, 7))
    found = compare(a, b, n=8, seed=3)
    changes = [x - y for x, y in zip(a, b, strict=True)]
    assert found.difference == paired_difference(a, b)
    assert found.p == sign_flip_p(changes, seed=3)
    assert found.mcnemar_p is None
    assert found.detectable == pytest.approx(
        smallest_detectable(float(np.std(changes, ddof=1)), 60)
    )
    assert (found.problems, found.changed) == (60, int(np.count_nonzero(changes)))


def test_comparison_of_single_completions() -> None:
    a, b = [1.0, 1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0, 0.0]
    found = compare(a, b, n=1)
    assert found.mcnemar_p == found.p == 1
    assert found.changed == 3
    with pytest.raises(ValueError, match=r"problem 1 has the scores \(0.5, 1"):
        compare([1, 0.5], [1, 1], n=1)


@pytest.mark.parametrize("scores", [[0.5], [0.25, 0.75, 1.0]])
def test_comparison_of_equals_has_no_uncertainty_to_report(scores: list[float]) -> None:
    found = compare(scores, scores, n=4)
    assert found.difference == Interval(value=0)
    assert (found.p, found.changed) == (1, 0)
    if len(scores) == 1:
        assert found.detectable is None
    else:  # if this fraction of problems changes, a sample has none of them in 1 of 5 cases
        assert found.detectable is not None
        assert (1 - found.detectable) ** len(scores) == pytest.approx(0.2)


def test_slope_is_the_one_of_the_means_and_its_interval_that_of_the_problems() -> None:
    alphas = [0.0, 0.1, 0.5, 1.0, 1.5]
    scores = {alpha: draws(10 + i).mean(axis=1) for i, alpha in enumerate(alphas)}
    found = slope_over_alpha({alpha: row.tolist() for alpha, row in scores.items()})
    slopes = [stats.linregress(alphas, [scores[a][p] for a in alphas]).slope for p in range(60)]
    expected = stats.ttest_1samp(slopes, 0).confidence_interval(0.95)
    of_means = stats.linregress(alphas, [scores[a].mean() for a in alphas]).slope
    assert found.slope.value == pytest.approx(of_means)
    assert (found.slope.low, found.slope.high) == pytest.approx((expected.low, expected.high))
    assert found.p == pytest.approx(sign_flip_p(slopes), abs=1e-3)
    assert found.detectable == pytest.approx(smallest_detectable(float(np.std(slopes, ddof=1)), 60))
    assert (found.alphas, found.problems) == (alphas, 60)


def test_slope_of_two_alphas_is_the_paired_difference() -> None:
    a, b = (draws(seed, problems=12).mean(axis=1).tolist() for seed in (8, 9))
    found, expected = slope_over_alpha({1.0: a, 0.5: b}), compare(a, b, n=8)
    assert found.slope.value == pytest.approx(expected.difference.value / 0.5)
    assert found.slope.low == pytest.approx((expected.difference.low or NAN) / 0.5)
    assert found.p == expected.p


def test_slope_edges() -> None:
    flat = slope_over_alpha({0.0: [0.1, 0.7], 0.2: [0.1, 0.7], 0.7: [0.1, 0.7]})
    assert flat.slope == Interval(value=0)
    assert (flat.p, flat.detectable) == (1, None)
    bent = slope_over_alpha({0.0: [0, 1], 0.1: [1, 0], 0.2: [0, 1]})
    assert bent.slope == Interval(value=0)
    one = slope_over_alpha({0.0: [0.0], 1.0: [1.0]})
    assert one.slope == Interval(value=1)
    assert (one.p, one.detectable) == (1, None)
    for alone in ({}, {0.5: [1.0, 0.0]}, {0.0: [1.0], NAN: [1.0]}):
        with pytest.raises(ValueError, match="two or more distinct, finite alphas"):
            slope_over_alpha(alone)
    with pytest.raises(ValueError, match=r"alpha 0\.2 has 1 problems, alpha 0 2"):
        slope_over_alpha({0.0: [0, 1], 0.2: [0]})
    with pytest.raises(ValueError, match="score of problem 1 is inf"):
        slope_over_alpha({0.0: [0, math.inf], 0.2: [0, 1]})
    with pytest.raises(ValueError, match="no scores"):
        slope_over_alpha({0.0: [], 0.2: []})


@pytest.mark.parametrize("problems", [2, 3, 5, 30, 500])
def test_smallest_detectable_against_statsmodels(problems: int) -> None:
    expected = 0.3 * TTestPower().solve_power(nobs=problems, alpha=0.05, power=0.8)
    assert smallest_detectable(0.3, problems) == pytest.approx(float(expected), rel=1e-6)


def test_smallest_detectable_edges() -> None:
    quantiles = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))
    many = 10**6  # with so many problems t is normal
    assert smallest_detectable(1000.0, many) == pytest.approx(quantiles, rel=1e-5)
    assert smallest_detectable(0.3, 1) is None
    assert smallest_detectable(0.0, 50) is None
    for bad in (NAN, math.inf, -0.1):
        with pytest.raises(ValueError, match="standard deviation"):
            smallest_detectable(bad, 50)


def test_slope_rejects_at_its_level() -> None:
    rng, by_t, by_flips = np.random.default_rng(3), 0, 0
    for _ in range(2000):
        rows = null_scores(rng, 4, problems=15, n=8)
        found = slope_over_alpha(dict(zip([0.0, 0.1, 0.4, 1.0], rows, strict=True)))
        by_t += excludes_zero(found.slope)
        by_flips += found.p <= 0.05
    assert by_t / 2000 == pytest.approx(0.05, abs=0.015)
    assert by_flips / 2000 == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("problems", [5, 40])
def test_an_effect_of_the_detectable_size_is_found_four_times_in_five(problems: int) -> None:
    effect = smallest_detectable(0.2, problems)
    assert effect is not None
    values = np.random.default_rng(4).normal(effect, 0.2, (3000, problems)).tolist()
    found = sum(excludes_zero(mean_interval(row)) for row in values)
    assert found / 3000 == pytest.approx(0.8, abs=0.025)
