from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm

from svdjobs.records import BlendRecord, CastRecord
from svdjobs.statistics import (
    cast_error_total,
    divergence_interval,
    mean_interval,
    mean_per_token,
    ratio_interval,
    realised_total,
)
from tests.statistics.draws import excludes_zero, no_interval


def traces(seed: int, count: int, mean: float = 0.0) -> list[list[float]]:
    """Traces of very unequal lengths and with different means."""
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


def blended(**cast: float) -> BlendRecord:
    made = CastRecord(**{"projection": 0, "signal": 0, "error": 0, "change": 0, **cast})
    return BlendRecord(
        name="x",
        shape=(1, 1),
        guarded=0,
        signal_norm=1,
        weight_norm=1,
        casts=dict.fromkeys(("float32", "bfloat16", "float16"), made),
        spectrum_error=None,
        log_file="",
    )


def test_realised_total_weighs_tensors_by_signal() -> None:
    records = [blended(projection=9, signal=9), blended(projection=0, signal=1)]
    assert realised_total(records)["float32"] == pytest.approx(0.9)
    assert realised_total([blended()])["float32"] is None


def test_cast_error_total_is_a_root_of_summed_squares() -> None:
    records = [blended(error=4, change=16), blended(error=5, change=9)]
    assert [r.casts["float32"].relative_error for r in records] == [0.5, pytest.approx(5**0.5 / 3)]
    assert cast_error_total(records)["bfloat16"] == pytest.approx(0.6)
    assert cast_error_total([blended()])["float16"] is None


def drawn_tokens(log_q_over_p: np.ndarray, p: np.ndarray, seed: int) -> list[np.ndarray]:
    """d = log q − log p of tokens drawn from p: 100 problems of 50 tokens."""
    tokens = np.random.default_rng(seed).choice(len(p), size=(100, 50), p=p)
    return list(log_q_over_p[tokens])


def test_the_divergence_of_a_near_model_is_the_sharper_estimate() -> None:
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(20))
    q = p * np.exp(rng.normal(0, 0.05, 20))
    q /= q.sum()
    terms = drawn_tokens(np.log(q / p), p, 1)
    sharper, ratios = [np.expm1(d).sum() - d.sum() for d in terms], [-d.sum() for d in terms]
    found, from_ratio = divergence_interval(sharper, ratios, [50] * 100)
    truth = float((p * np.log(p / q)).sum())
    assert not from_ratio
    assert found.low is not None
    assert found.high is not None
    assert found.low <= truth <= found.high
    assert found.high - found.low < 0.2 * truth


def test_the_divergence_of_a_far_model_is_the_log_ratio() -> None:
    """Most of q's probability is on a token that p hardly ever draws: e^d − 1 − d misses it, and
    its interval excludes the truth."""
    p = np.array([0.5, 0.3, 0.2 - 1e-6, 1e-6])
    q = np.array([0.15, 0.1, 0.05, 0.7])
    truth = float((p * np.log(p / q)).sum())
    terms = drawn_tokens(np.log(q / p), p, 2)
    sharper, ratios = [np.expm1(d).sum() - d.sum() for d in terms], [-d.sum() for d in terms]
    wrong = ratio_interval(sharper, [50] * 100)
    assert wrong.high is not None
    assert wrong.high < 0.7 * truth
    found, from_ratio = divergence_interval(sharper, ratios, [50] * 100)
    assert from_ratio
    assert found.value == pytest.approx(truth, rel=0.01)
