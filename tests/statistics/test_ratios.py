from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm

from svdjobs.records import BlendRecord, CastRecord
from svdjobs.statistics import mean_interval, mean_per_token, realised_total
from tests.statistics.draws import excludes_zero, no_interval


def traces(seed: int, count: int, mean: float = 0.0) -> list[list[float]]:
    """Traces of very unequal length, whose level varies from trace to trace."""
    rng = np.random.default_rng(seed)
    return [
        (mean + rng.normal(0, 1) + rng.normal(0, 3, rng.integers(5, 80))).tolist()
        for _ in range(count)
    ]


def test_mean_per_token_against_cluster_robust_regression() -> None:
    values = traces(0, 30)
    found = mean_per_token(values)
    groups = np.repeat(np.arange(30), [len(trace) for trace in values])
    tokens = np.concatenate(values)
    fit = sm.OLS(tokens, np.ones(tokens.size)).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False}
    )
    assert found.value == pytest.approx(float(fit.params[0]))
    assert found.standard_error == pytest.approx(float(fit.bse[0]) * math.sqrt(30 / 29), rel=1e-9)


def test_mean_per_token_of_equal_lengths_is_the_mean_of_means() -> None:
    values = np.random.default_rng(1).normal(size=(12, 9))
    found, expected = mean_per_token(values.tolist()), mean_interval(values.mean(axis=1).tolist())
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


def test_mean_per_token_covers_at_its_rate() -> None:
    hits = sum(not excludes_zero(mean_per_token(traces(seed, 40))) for seed in range(1000))
    assert hits / 1000 == pytest.approx(0.95, abs=0.025)


def test_mean_per_token_edges() -> None:
    assert mean_per_token([[0.0, 0.0], [0.0]]).value == 0  # a checkpoint against itself
    for values in ([[0.0, 0.0], [0.0]], [[1.0, 2.0]], [[0.3] * 3, [0.3] * 11]):
        assert no_interval(mean_per_token(values))
    with pytest.raises(ValueError, match="no traces"):
        mean_per_token([])
    with pytest.raises(ValueError, match="trace 1 has no tokens"):
        mean_per_token([[1.0], []])
    with pytest.raises(ValueError, match="trace 1, token 2: inf is not a finite number"):
        mean_per_token([[1.0], [0.0, 1.0, math.inf]])


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
