from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from svdjobs.statistics import (
    beyond_p,
    holm,
    mcnemar_p,
    paired_difference,
    sign_flip_p,
    unseen_p,
)
from tests.statistics.draws import NAN, excludes_zero, null_scores

PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=14)


@given(st.lists(st.integers(-4, 4), min_size=2, max_size=10))
@settings(max_examples=60, deadline=None)
def test_sign_flips_against_scipys_permutations(eighths: list[int]) -> None:
    values = [eighth / 8 for eighth in eighths]
    expected = stats.permutation_test(
        (np.array(values),), np.sum, permutation_type="samples", n_resamples=2 ** len(values)
    )
    assert sign_flip_p(values) == pytest.approx(expected.pvalue, rel=1e-12)
    # Sevenths and tenths are rounded; equal sums must stay equal.
    assert sign_flip_p([eighth / 7 for eighth in eighths]) == sign_flip_p(values)
    assert sign_flip_p([eighth / 10 for eighth in eighths]) == sign_flip_p(values)


def test_drawn_sign_flips_against_the_exact_distribution() -> None:
    """The exact distribution of a sum of integer differences is a convolution."""
    values = np.random.default_rng(5).integers(-6, 9, 50)
    chances = np.ones(1)
    for value in values[values != 0]:
        coin = np.zeros(2 * abs(value) + 1)
        coin[[0, -1]] = 0.5
        chances = np.convolve(chances, coin).astype(np.float64)
    sums = np.arange(len(chances)) - len(chances) // 2
    exact = float(chances[np.abs(sums) >= abs(values.sum())].sum())
    found = sign_flip_p((values / 8).tolist())
    assert found == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 9999))
    assert found == sign_flip_p((values / 8).tolist(), seed=0)
    assert found != sign_flip_p((values / 8).tolist(), seed=1)
    assert sign_flip_p([1.0] * 60, draws=99) == 0.01  # never 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0] * 5, 1), ([0.3], 1), ([0.3, 0.0], 1), ([0.5] * 6, 2 / 64), ([0.1] * 17, None)],
)
def test_sign_flips_at_the_edges(values: list[float], expected: float | None) -> None:
    """Sums that differ by rounding only are ties; sign flips of 17 differences are sampled."""
    assert sign_flip_p(values) == (1 / 10_000 if expected is None else expected)


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_mcnemar_against_statsmodels_and_against_sign_flips(pairs: list[tuple[bool, bool]]) -> None:
    """With one completion per problem the sign-flip test equals McNemar's test."""
    a, b = ([pair[side] for pair in pairs] for side in (0, 1))
    table = [[pairs.count((x, y)) for y in (True, False)] for x in (True, False)]
    found = mcnemar_p(a, b)
    assert found == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert found == pytest.approx(sign_flip_p([x - y for x, y in pairs]))
    assert found == mcnemar_p(b, a)


def test_mcnemar_of_many_problems() -> None:
    a, b = [True] * 1200 + [False] * 1300, [False] * 1200 + [True] * 1300
    assert mcnemar_p(a, b) == pytest.approx(stats.binomtest(1200, 2500).pvalue)


@pytest.mark.parametrize("seed", range(5))
def test_holm_against_statsmodels(seed: int) -> None:
    """Rounding makes ties. The cases are few, because statsmodels collects garbage at each call."""
    rng = np.random.default_rng(seed)
    p_values = dict(enumerate((rng.random(3 * seed + 1) ** 3).round(2).tolist()))
    found = holm(p_values)
    assert list(found) == list(p_values)
    expected = multipletests(list(p_values.values()), method="holm")[1]
    assert list(found.values()) == pytest.approx(expected.tolist())


def test_holm_edges() -> None:
    assert holm({}) == {}
    assert holm({(0.2, "math"): 0.03, (0.4, "math"): 0.01}) == {
        (0.2, "math"): 0.03,
        (0.4, "math"): 0.02,
    }
    for p in (NAN, -0.1, 1.1):
        with pytest.raises(ValueError, match="p-value of 'math'"):
            holm({"math": p})


def test_paired_tests_reject_at_their_level() -> None:
    """The test samples 199 sign flips: (b+1)/200 <= 5 % then has exactly this level."""
    rng, repetitions, by_t, by_flips = np.random.default_rng(0), 3000, 0, 0
    for seed in range(repetitions):
        a, b = null_scores(rng, 2, problems=40, n=8)
        by_t += excludes_zero(paired_difference(a, b))
        changes = [x - y for x, y in zip(a, b, strict=True)]
        by_flips += sign_flip_p(changes, seed, draws=199) <= 0.05
    assert by_t / repetitions == pytest.approx(0.05, abs=0.015)
    assert by_flips / repetitions == pytest.approx(0.05, abs=0.015)


def test_exact_sign_flips_reject_at_their_level_without_normality() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_cauchy((3000, 10)).tolist()
    rejected = sum(sign_flip_p(row) <= 0.05 for row in values)
    assert rejected / 3000 == pytest.approx(0.05, abs=0.015)


def test_mcnemar_rejects_at_most_at_its_level() -> None:
    rng, rejected = np.random.default_rng(2), 0
    for _ in range(3000):
        a, b = null_scores(rng, 2, problems=150, n=1)
        rejected += mcnemar_p([x == 1 for x in a], [x == 1 for x in b]) <= 0.05
    assert 0.02 <= rejected / 3000 <= 0.065


def test_beyond_p_keeps_its_level_and_finds_what_is_beyond() -> None:
    """Random changes have true effects of their own; a part that is one of them is seldom found."""
    rng = np.random.default_rng(0)
    p = {0.0: [], 6.0: []}  # type: dict[float, list[float]]
    for effect, found in p.items():
        for _ in range(800):
            randoms = rng.normal(0, 1, 9) + rng.normal(0, 0.5, 9)
            own = (effect or rng.normal(0, 1)) + rng.normal(0, 0.5)
            found.append(beyond_p(own, 0.5, 200, randoms.tolist()))
    assert 0.02 < np.mean(np.array(p[0.0]) < 0.05) < 0.06
    assert np.mean(np.array(p[6.0]) < 0.05) > 0.95


def test_beyond_p_without_random_changes_is_the_t_test() -> None:
    values = np.random.default_rng(1).normal(0.3, 1, 40)
    error = float(values.std(ddof=1) / np.sqrt(40))
    expected = stats.ttest_1samp(values, 0).pvalue
    assert beyond_p(float(values.mean()), error, 40, []) == pytest.approx(expected)
    with pytest.raises(ValueError, match="nothing to test"):
        beyond_p(0.1, 0.0, 40, [])


def test_few_changes_contradict_a_large_difference_only() -> None:
    assert unseen_p(0.003, 200, 0) == pytest.approx(math.exp(-0.6))
    assert unseen_p(-0.25, 200, 4) < 1e-15
    assert unseen_p(0.0, 200, 0) == 1
    with pytest.raises(ValueError, match="nothing to test"):
        unseen_p(0.1, 3, 4)
