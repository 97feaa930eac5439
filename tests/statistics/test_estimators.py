from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from svdjobs.statistics import avg_at_n, maj_at_k, pass_at_k, share_interval
from tests.statistics.draws import draws, no_interval

OUTCOMES = st.lists(st.booleans(), min_size=1, max_size=8)
ANSWERS = st.lists(st.none() | st.integers(0, 3), min_size=1, max_size=8)


def mean_over_subsets(n: int, k: int, value: Callable[[Sequence[int]], float]) -> float:
    """The mean of `value` over all subsets of size k, which defines pass@k and maj@k."""
    return float(np.mean([value(subset) for subset in combinations(range(n), k)]))


def vote(answers: Sequence[int | None], right: set[int]) -> float:
    """The fraction of correct classes among those with most votes; 0 without an answer."""
    given_answers = [answer for answer in answers if answer is not None]
    counts = {answer: given_answers.count(answer) for answer in given_answers}
    winners = [answer for answer in counts if counts[answer] == max(counts.values())]
    return sum(answer in right for answer in winners) / len(winners) if winners else 0.0


@given(OUTCOMES, st.data())
@settings(max_examples=60, deadline=None)
def test_pass_at_k_is_the_mean_over_subsets(outcomes: list[bool], data: st.DataObject) -> None:
    n = len(outcomes)
    k = data.draw(st.integers(1, n))
    expected = mean_over_subsets(n, k, lambda subset: any(outcomes[i] for i in subset))
    assert pass_at_k([outcomes], n, k).value == pytest.approx(expected, abs=1e-15)


@given(ANSWERS, st.sets(st.integers(0, 4)), st.data())
@settings(max_examples=150, deadline=None)
def test_maj_at_k_is_the_mean_over_subsets(
    answers: list[int | None], right: set[int], data: st.DataObject
) -> None:
    n = len(answers)
    k = data.draw(st.integers(1, n))
    expected = mean_over_subsets(n, k, lambda subset: vote([answers[i] for i in subset], right))
    assert maj_at_k([answers], [right], n, k).value == pytest.approx(expected, abs=1e-12)


def test_maj_at_k_of_many_completions_against_drawn_subsets() -> None:
    rng = np.random.default_rng(0)
    answers = [0] * 12 + [1] * 11 + [2] * 9 + [3] * 4 + [None] * 12
    found = maj_at_k([answers], [{1, 3}], n=48, k=17).value
    drawn = [vote([answers[i] for i in rng.permutation(48)[:17]], {1, 3}) for _ in range(10_000)]
    assert found == pytest.approx(np.mean(drawn), abs=4 * float(np.std(drawn)) / 100)


@pytest.mark.parametrize("k", [1, 2, 599, 600, 1200])
def test_many_completions_neither_overflow_nor_cancel(k: int) -> None:
    """Two classes of equal size win with equal probability for every k."""
    answers = [0, 1] * 600
    assert maj_at_k([answers], [{0}], n=1200, k=k).value == pytest.approx(0.5, rel=1e-9)
    one_correct = [True] + [False] * 1199
    assert pass_at_k([one_correct], n=1200, k=k).value == pytest.approx(k / 1200, rel=1e-15)


def test_majority_of_all_completions_is_the_vote_itself() -> None:
    classes: list[list[int | None]] = [
        [0, 0, 1, None],  # wins
        [0, 1, 1, None],  # loses
        [0, 1, None, None],  # ties
        [0, None, None, None],  # wins: a missing answer is not a vote
        [None, None, None, None],  # no answer at all
    ]
    values = [maj_at_k([row], [{0}], n=4, k=4).value for row in classes]
    assert values == pytest.approx([1, 0, 0.5, 1, 0])
    found = maj_at_k(classes, [{0}] * 5, n=4, k=4)
    assert found.standard_error == pytest.approx(np.std([1, 0, 0.5, 1, 0], ddof=1) / math.sqrt(5))


def test_one_of_k_is_avg_at_n_and_intervals_are_clustered_by_problem() -> None:
    correct = draws(4).tolist()
    expected = share_interval([float(np.mean(row)) for row in correct])
    answers = [[int(hit) for hit in row] for row in correct]
    for found in (
        avg_at_n(correct, 8),
        pass_at_k(correct, 8, 1),
        maj_at_k(answers, [{1}] * len(answers), 8, 1),
    ):
        for key in ("value", "low", "high", "standard_error"):
            assert getattr(found, key) == pytest.approx(getattr(expected, key), rel=1e-9)


def test_one_problem_has_no_interval_and_problems_that_agree_have_one() -> None:
    assert no_interval(avg_at_n([[True, False]], 2))
    for found in (
        pass_at_k([[True, True]] * 30, 2, 2),
        maj_at_k([[None, None]] * 30, [{0}] * 30, 2, 1),
    ):
        assert found.low is not None
        assert found.high is not None
        assert 0 <= found.low < found.high <= 1
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize("right", [0, 1, 2, 25, 49, 50])
def test_shares_of_single_answers_are_wilsons(right: int) -> None:
    """Compare with statsmodels, which gets the effective sample size and Student's quantile."""
    from scipy.stats import norm, t
    from statsmodels.stats.proportion import proportion_confint

    found = share_interval([1.0] * right + [0.0] * (50 - right))
    draws = 49 if 0 < right < 50 else 50
    alpha = 2 * norm.sf(t.ppf(0.975, 49))
    low, high = proportion_confint(right / 50 * draws, draws, alpha=alpha, method="wilson")
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize("difficulty", [(0.5, 0.5), (0.02, 8.0), (8.0, 0.02)])
def test_shares_cover_the_truth(difficulty: tuple[float, float]) -> None:
    """Sample 40 problems of random difficulty with four completions each."""
    rng = np.random.default_rng(0)
    truth = difficulty[0] / sum(difficulty)
    covered = 0
    for _ in range(1000):
        shares = rng.binomial(4, rng.beta(*difficulty, size=40)) / 4
        found = share_interval(shares.tolist())
        assert found.low is not None
        assert found.high is not None
        assert 0 <= found.low <= found.high <= 1
        covered += found.low <= truth <= found.high
    assert covered >= 930


def test_counts_that_disagree_are_refused() -> None:
    ragged = [[True, False], [True], [True, True, True]]
    with pytest.raises(ValueError, match=r"problem 1 has 1 completions, expected n = 2"):
        avg_at_n(ragged, 2)
    with pytest.raises(ValueError, match=r"problem 1 has 1 completions, expected n = 2"):
        pass_at_k(ragged, 2, 1)
    with pytest.raises(ValueError, match="problem 0 has 1 completions, expected n = 3"):
        maj_at_k([[None]], [{0}], 3, 1)
    for k in (0, 3):
        with pytest.raises(ValueError, match=f"k = {k} completions cannot be chosen from n = 2"):
            pass_at_k([[True, False]], 2, k)
        with pytest.raises(ValueError, match=f"k = {k} completions cannot be chosen from n = 2"):
            maj_at_k([[0, 1]], [{0}], 2, k)
    with pytest.raises(ValueError, match="2 problems, but correct classes for 1"):
        maj_at_k([[0], [1]], [{0}], 1, 1)
    with pytest.raises(ValueError, match="no scores"):
        avg_at_n([], 2)
