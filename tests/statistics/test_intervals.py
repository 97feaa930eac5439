from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from svdjobs.statistics import mcnemar_p, mean_interval, paired_difference, sign_flip_p
from tests.statistics.draws import NAN, draws, no_interval


def test_standard_error_is_the_clustered_one() -> None:
    """Compare with statsmodels' cluster-robust OLS of completions on a constant."""
    outcomes = draws(0).astype(float)
    found = mean_interval(outcomes.mean(axis=1).tolist())
    groups = np.repeat(np.arange(len(outcomes)), outcomes.shape[1])
    fit = sm.OLS(outcomes.ravel(), np.ones(outcomes.size)).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    problems = len(outcomes)
    expected = float(fit.bse[0]) * math.sqrt(problems / (problems - 1))
    assert found.value == pytest.approx(float(fit.params[0]))
    assert found.standard_error == pytest.approx(expected, rel=1e-9)


def test_paired_interval_is_scipys() -> None:
    a, b = (draws(seed).mean(axis=1) for seed in (1, 2))
    found = paired_difference(a.tolist(), b.tolist())
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_interval_covers_at_its_rate() -> None:
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(1000):
        difficulty = rng.beta(2, 2, 40)
        found = mean_interval((rng.binomial(4, difficulty) / 4).tolist())
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= 0.5 <= found.high
    assert hits / 1000 == pytest.approx(0.95, abs=0.025)


@pytest.mark.parametrize("scores", [[0.5], [0.5] * 3, [0.1] * 3, [0.3 - 0.2, 0.4 - 0.3]])
def test_no_spread_gives_no_interval(scores: list[float]) -> None:
    """Spread by rounding does not count: the last two differences are 0.1 up to 1e-17."""
    found = mean_interval(scores)
    assert found.value == pytest.approx(scores[0])
    assert no_interval(found)


def test_unpaired_and_unfinite_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 problems cannot be paired with 3"):
        paired_difference([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="2 problems cannot be paired with 3"):
        mcnemar_p([False, True], [False, True, True])
    with pytest.raises(ValueError, match="no scores"):
        mean_interval([])
    with pytest.raises(ValueError, match="score of problem 1 is nan"):
        mean_interval([0, NAN])
    with pytest.raises(ValueError, match="score of problem 0 is inf"):
        paired_difference([math.inf, 0], [math.inf, 0])
    with pytest.raises(ValueError, match="finite"):
        sign_flip_p([0.5, NAN])
    with pytest.raises(ValueError, match="at least one"):
        sign_flip_p([])
