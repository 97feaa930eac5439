from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from svdjobs.records import BlendRecord, CastRecord
from svdjobs.statistics import mean_interval, paired_difference, realised_total


def draws(seed: int, problems: int = 60, n: int = 8) -> np.ndarray:
    """Problem × completion outcomes with problems of unequal difficulty."""
    rng = np.random.default_rng(seed)
    return rng.random((problems, n)) < rng.beta(1, 1, (problems, 1))


def test_standard_error_is_the_clustered_one() -> None:
    """Against statsmodels' cluster-robust OLS of completions on a constant."""
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


@pytest.mark.parametrize("scores", [[0.5], [0.5, 0.5, 0.5]])
def test_no_spread_gives_no_interval(scores: list[float]) -> None:
    found = mean_interval(scores)
    assert found.value == 0.5
    assert (found.low, found.high, found.standard_error) == (None, None, None)


def test_unpaired_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 problems cannot be paired with 3"):
        paired_difference([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match="no scores"):
        mean_interval([])


def test_realised_total_weighs_tensors_by_signal() -> None:
    def record(projection: float, signal: float) -> BlendRecord:
        cast = CastRecord(projection=projection, signal=signal)
        casts = dict.fromkeys(("float32", "bfloat16", "float16"), cast)
        return BlendRecord(
            name="x", shape=(1, 1), guarded=0, signal_norm=1, weight_norm=1, casts=casts,
            spectrum_error=None, log_file="",
        )  # fmt: skip

    assert realised_total([record(9, 9), record(0, 1)])["float32"] == pytest.approx(0.9)
    assert realised_total([record(0, 0)])["float32"] is None
