from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from svdjobs.statistics import (
    below_p,
    few_changed,
    paired_difference,
    passing_margin,
    problems_needed,
    smallest_detectable,
)
from svdjobs.statistics.intervals import CONFIDENCE, differences
from svdjobs.statistics.margins import KEPT_LEVEL
from tests.statistics.draws import NAN

EIGHTHS = st.lists(st.integers(-8, 8), min_size=2, max_size=30)
MARGINS = st.floats(0, 0.5)


def turned(values: list[float]) -> list[float]:
    return [-value for value in values]


@given(EIGHTHS, MARGINS)
@settings(max_examples=100, deadline=None)
def test_against_scipys_one_sided_t_test(eighths: list[int], margin: float) -> None:
    assume(len(set(eighths)) > 1)
    values = [eighth / 8 for eighth in eighths]
    lost = stats.ttest_1samp(values, -margin, alternative="less").pvalue
    kept = stats.ttest_1samp(values, -margin, alternative="greater").pvalue
    assert below_p(values, -margin) == pytest.approx(lost, rel=1e-9)
    assert below_p(turned(values), margin) == pytest.approx(kept, rel=1e-9)
    # The two null hypotheses share a boundary, so their p-values add up to 1.
    assert lost + kept == pytest.approx(1)


@given(st.lists(st.integers(-8, 8), min_size=12, max_size=30), MARGINS)
@settings(max_examples=100, deadline=None)
def test_non_inferiority_is_the_interval_s_lower_end(eighths: list[int], margin: float) -> None:
    values = [eighth / 8 for eighth in eighths]
    interval = paired_difference(values, [0.0] * len(values))
    needed = passing_margin(values)
    assume(abs(needed - margin) > 1e-9 and not few_changed(values))
    kept = below_p(turned(values), margin)
    assert (kept < KEPT_LEVEL) == (margin > needed)
    if interval.low is not None:
        assert (kept < KEPT_LEVEL) == (interval.low > -margin)


@pytest.mark.parametrize(
    ("value", "problems", "bound", "expected"),
    [
        (0.0, 1, -0.01, 1.0),  # one problem that did not change shows no loss
        (-0.01, 50, -0.01, 1.0),  # a loss of exactly the margin
        (-1.0, 1, -0.01, 0.505),  # one problem lost completely: its score fell from 1 to 0
        (-1.0, 10, -0.01, 0.505**10),
        (-0.5, 4, 0.0, (1 / 1.5) ** 4),
        (1.0, 9, 0.9, 1.0),
    ],
)
def test_equal_differences(value: float, problems: int, bound: float, expected: float) -> None:
    assert below_p([value] * problems, bound) == pytest.approx(expected)


def test_no_change_on_so_many_problems_is_the_rule_of_three() -> None:
    """The margin equals Clopper and Pearson's bound on a fraction of which no case was seen."""
    for problems in (1, 10, 200, 367, 5000):
        bound = stats.binomtest(0, problems).proportion_ci(CONFIDENCE).high
        assert passing_margin([0.0] * problems) == pytest.approx(bound, rel=1e-9)
    assert problems_needed([0.0] * 5, 0.01) == 368
    assert below_p([0.0] * 368, 0.01) < KEPT_LEVEL < below_p([0.0] * 367, 0.01)


def test_few_changes_are_bounded_by_the_share_that_lost() -> None:
    """Compare with scipy's exact interval; for more than nine changes, with the t interval."""
    for losers in range(10):
        values = [-0.25] * losers + [0.0] * (100 - losers)
        values[-1] = 0.25 if losers < 9 else 0.0
        expected = stats.binomtest(losers, 100).proportion_ci(CONFIDENCE).high
        assert passing_margin(values) == pytest.approx(expected, rel=1e-9)
    many = [-0.25] * 10 + [0.0] * 90
    low = paired_difference(many, [0.0] * 100).low
    assert low is not None
    assert passing_margin(many) == -low < expected
    one_gain = [0.25] + [0.0] * 29
    assert passing_margin(one_gain) == pytest.approx(passing_margin([0.0] * 30))
    assert problems_needed(one_gain, 0.01) == problems_needed([0.0] * 30, 0.01) == 368


def test_rare_losses_of_whole_problems_pass_at_the_level_at_most() -> None:
    """With 2 % of all problems lost, the t interval alone would pass over 8 % of the samples."""
    margin, problems = 0.02, 200
    passed = alone = 0.0
    for losers in range(40):
        chance = float(stats.binom.pmf(losers, problems, margin))
        values = [-1.0] * losers + [0.0] * (problems - losers)
        low = paired_difference(values, [0.0] * problems).low
        passed += chance * (passing_margin(values) < margin)
        alone += chance * (low is None or low > -margin)
    assert passed <= KEPT_LEVEL < 0.08 < alone


def test_equal_differences_are_judged_at_their_level() -> None:
    """The worst case of H0 mixes the value with 1, the largest, so that the mean is the bound."""
    value, bound, problems = -0.5, -0.1, 6
    share = (1 - bound) / (1 - value)
    assert share * value + (1 - share) * 1 == pytest.approx(bound)
    assert below_p([value] * problems, bound) == pytest.approx(share**problems)


def test_scores_that_differ_by_rounding_do_not_differ() -> None:
    changes = differences([0.1 + 0.2, 0.7], [0.3, 0.7])
    assert below_p(changes, -0.01) == 1


@pytest.mark.parametrize("margin", [0.01, 0.03, 0.2])
def test_problems_needed_can_see_the_margin(margin: float) -> None:
    values = [0.0, 0.25, -0.5, 0.0, 0.125, -0.25, 0.0, 0.0] * 3
    spread = float(np.std(values, ddof=1))
    needed = problems_needed(values, margin)
    assert needed is not None
    at, before = smallest_detectable(spread, needed), smallest_detectable(spread, needed - 1)
    assert at is not None
    assert before is None or at <= margin < before


def test_problems_needed_where_no_number_would_do() -> None:
    assert problems_needed([0.0, 0.5], 0) is None
    assert problems_needed([-0.5, -0.5], 0.1) is None
    assert problems_needed([0.0, 1.0], 1e-5) is None
    assert problems_needed([1.0], 0.99) == 1


def test_no_problem_is_no_evidence() -> None:
    with pytest.raises(ValueError, match="no differences"):
        below_p([], 0)
    with pytest.raises(ValueError, match="problem 1 is nan"):
        below_p([0, NAN], 0)
    with pytest.raises(ValueError, match=r"is not in -1…1"):
        passing_margin([1.5])
    with pytest.raises(ValueError, match="margin 1"):
        below_p([0.0], 1)


def test_both_tests_keep_their_level_at_the_margin() -> None:
    """Sample scores of 8 completions; the true accuracy falls by exactly the margin."""
    rng, margin, problems, repetitions = np.random.default_rng(3), 0.05, 100, 3000
    lost = kept = 0
    for _ in range(repetitions):
        before = 0.1 + 0.8 * rng.beta(1, 1, problems)
        scores = rng.binomial(8, before - margin) / 8 - rng.binomial(8, before) / 8
        values = scores.tolist()
        lost += below_p(values, -margin) <= 0.05
        kept += below_p(turned(values), margin) <= KEPT_LEVEL
    assert lost / repetitions == pytest.approx(0.05, abs=0.015)
    assert kept / repetitions == pytest.approx(KEPT_LEVEL, abs=0.01)
