"""The reweighted estimator is unbiased, and its limits refuse before its intervals break."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import scipy.stats

from svdjobs.records import Interval
from svdjobs.statistics.reweighting import (
    LARGEST_PARETO_K,
    SMALLEST_EFFECTIVE_SHARE,
    pareto_k,
    reweighted_difference,
    weights_quality,
)

ANSWERS = 16


class Toy(NamedTuple):
    """Known models: the probability of each answer of each problem, and its grade."""

    after: np.ndarray
    other: np.ndarray
    grades: np.ndarray

    @property
    def difference(self) -> float:
        return float(((self.other - self.after) * self.grades).sum(1).mean())

    def drawn(self, n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Log weights and outcomes (problem × completion) of answers that `after` gave."""
        uniform = rng.random((len(self.after), n, 1))
        answers = (uniform > self.after.cumsum(1)[:, None, :]).sum(-1).clip(max=ANSWERS - 1)
        logs = np.take_along_axis(np.log(self.other / self.after), answers, 1)
        return logs, np.take_along_axis(self.grades, answers, 1)


def toy(problems: int, distance: float, rng: np.random.Generator, *, uneven: float = 0.0) -> Toy:
    """Random problems; log p of the other model differs from after's by about `distance`, more
    towards right answers. If `uneven`, it differs much more on some problems than on others."""
    after = np.exp(rng.normal(0, 1.5, (problems, ANSWERS)))
    difficulty = rng.normal(0, 1, (problems, 1))
    grades = (rng.random((problems, ANSWERS)) < 1 / (1 + np.exp(-1.5 * difficulty))).astype(float)
    tilt = rng.normal(0, 1, (problems, ANSWERS)) + 0.3 * grades
    tilt *= np.exp(rng.normal(0, uneven, (problems, 1)))
    other = after * np.exp(distance * tilt)
    return Toy(after / after.sum(1, keepdims=True), other / other.sum(1, keepdims=True), grades)


def covers(interval: Interval, truth: float) -> bool:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low <= truth <= interval.high


@pytest.mark.parametrize("n", [1, 2])
def test_it_is_unbiased_to_the_last_digit(n: int) -> None:
    """The expectation over every possible draw of a model with three answers."""
    rng = np.random.default_rng(n)
    problems = 4 - n
    after, other = rng.dirichlet([1.0] * 3, (2, problems))
    grades = rng.integers(0, 2, (problems, 3)).astype(float)
    expected = 0.0
    for draw in product(product(range(3), repeat=n), repeat=problems):
        chance = np.prod([after[i, a] for i, drawn in enumerate(draw) for a in drawn])
        logs = [[np.log(other[i, a] / after[i, a]) for a in d] for i, d in enumerate(draw)]
        outcomes = [[grades[i, a] for a in d] for i, d in enumerate(draw)]
        expected += chance * reweighted_difference(logs, outcomes).like_these.value
    assert expected == pytest.approx(Toy(after, other, grades).difference, abs=1e-12)


@pytest.mark.parametrize(
    ("problems", "n", "distance"),
    [(200, 1, 0.1), (200, 4, 0.01), (200, 4, 0.5), (200, 4, 1.0), (30, 16, 0.1), (30, 16, 0.7)],
)
def test_intervals_cover_what_they_say(problems: int, n: int, distance: float) -> None:
    rng = np.random.default_rng([problems, n, round(1000 * distance)])
    truth = toy(100_000, distance, rng).difference
    rounds, like_these, these, values = 1000, 0, 0, []
    for _ in range(rounds):
        models = toy(problems, distance, rng)
        logs, outcomes = models.drawn(n, rng)
        found = reweighted_difference(logs.tolist(), outcomes.tolist())
        values.append(found.like_these.value)
        like_these += covers(found.like_these, truth)
        these += n > 1 and covers(found.these, models.difference)
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / np.sqrt(rounds)
    assert 0.93 <= like_these / rounds <= 0.97
    assert n == 1 or 0.93 <= these / rounds <= 0.97


@pytest.mark.parametrize(("problems", "n"), [(200, 1), (200, 4), (30, 16), (60, 1)])
def test_the_limits_refuse_before_the_intervals_break(problems: int, n: int) -> None:
    """The further the other model, the fewer estimates are given, in the end none; those that are
    given cover the truth. Without the limits, those of the far models would not."""
    rng = np.random.default_rng([problems, n])
    rounds, given, right, right_if_far = 300, [], 0, 0
    for distance in (0.5, 1.0, 1.5, 3.0):
        truth = toy(100_000, distance, rng).difference
        given.append(0)
        for _ in range(rounds):
            logs, outcomes = (x.tolist() for x in toy(problems, distance, rng).drawn(n, rng))
            correct = covers(reweighted_difference(logs, outcomes).like_these, truth)
            right_if_far += distance == 3.0 and correct
            if weights_quality(logs).usable:
                given[-1] += 1
                right += correct
    assert given[0] > 0.95 * rounds
    assert given == sorted(given, reverse=True)
    assert given[-1] == 0
    assert 0.92 <= right / sum(given) <= 0.97
    assert right_if_far < 0.93 * rounds


def test_a_near_checkpoint_is_read_whatever_the_tail_of_its_weights() -> None:
    """Where only some problems feel the change, k̂ is often above its limit although all weights
    are near 1; the intervals cover all the same."""
    rng = np.random.default_rng(11)
    truth = toy(100_000, 0.01, rng, uneven=1.5).difference
    covered = []
    for _ in range(1000):
        logs, outcomes = (x.tolist() for x in toy(200, 0.01, rng, uneven=1.5).drawn(4, rng))
        quality = weights_quality(logs)
        if quality.pareto_k is not None and quality.pareto_k > LARGEST_PARETO_K:
            covered.append(covers(reweighted_difference(logs, outcomes).like_these, truth))
            assert quality.usable == (quality.effective_share >= 0.9)
    assert len(covered) > 200
    assert np.mean(covered) >= 0.93


def test_the_checkpoint_itself_differs_by_nothing() -> None:
    found = reweighted_difference([[0.0, 0.0]] * 5, [[1.0, 0.0]] * 5)
    nothing = Interval(value=0.0)
    assert (found.like_these, found.these) == (nothing, nothing)
    quality = weights_quality([[0.0, 0.0]] * 5)
    assert quality.usable
    assert (quality.effective_share, quality.largest_share, quality.pareto_k) == (1, 0.1, None)
    assert quality.mean == Interval(value=1.0)


def test_a_constant_in_the_outcomes_does_not_matter() -> None:
    rng = np.random.default_rng(5)
    logs, outcomes = toy(50, 0.3, rng).drawn(4, rng)
    one = reweighted_difference(logs.tolist(), outcomes.tolist())
    other = reweighted_difference(logs.tolist(), (outcomes / 2 + 0.25).tolist())
    assert other.per_problem == pytest.approx([x / 2 for x in one.per_problem], abs=1e-12)
    assert one.these.standard_error
    assert other.these.standard_error == pytest.approx(one.these.standard_error / 2)


def test_two_problems_do_not_give_a_wild_beta() -> None:
    """As a ratio of two small numbers, beta would be off by a factor of forty here."""
    rng = np.random.default_rng(11)
    found = []
    for _ in range(500):
        logs, outcomes = toy(2, 0.05, rng).drawn(4, rng)
        found.append(reweighted_difference(logs.tolist(), outcomes.tolist()).like_these.value)
    assert np.abs(found).max() < 0.3


def test_a_mean_weight_that_is_not_1_is_noticed() -> None:
    """The other checkpoint gives 5 % of its answers in a way that after never does: all that was
    drawn has a weight of about 0.95, evenly, and says nothing about these 5 %."""
    rng = np.random.default_rng(12)
    for seen, lacking in ((1.0, False), (0.95, True)):
        noise = rng.normal(0, 0.01, (200, 4))
        quality = weights_quality((np.log(seen) + noise - 0.00005).tolist())
        assert quality.usable
        assert quality.lacking is lacking


def test_reading_is_sharper_than_drawing_where_the_checkpoint_is_near() -> None:
    rng = np.random.default_rng(7)
    models = toy(400, 0.01, rng)
    logs, outcomes = models.drawn(1, rng)
    read = reweighted_difference(logs.tolist(), outcomes.tolist()).like_these.standard_error
    drawn = (models.drawn(1, rng)[1] - outcomes).std() / np.sqrt(400)
    assert read is not None
    assert read < drawn / 50


def test_one_completion_says_nothing_of_these_very_problems() -> None:
    found = reweighted_difference([[0.1], [-0.1], [0.2]], [[1.0], [0.0], [1.0]])
    assert found.these.low is None
    assert found.these.value == pytest.approx(found.like_these.value)


@pytest.mark.parametrize("shape", [0.0, 0.3, 0.7, 1.0])
def test_pareto_k_finds_the_shape_of_a_tail(shape: float) -> None:
    found = []
    for seed in range(20):
        weights = scipy.stats.genpareto.rvs(shape, size=20_000, random_state=seed)
        k = pareto_k(weights.tolist())
        assert k is not None
        assert k == pytest.approx(pareto_k((1000 * weights).tolist()), abs=1e-9)
        found.append(k)
    assert np.mean(found) == pytest.approx(shape, abs=0.05)


def test_pareto_k_needs_a_tail() -> None:
    assert pareto_k([1.0] * 1000) is None
    assert pareto_k([1.0] * 996 + [2.0] * 4) is None
    assert pareto_k([1.0, 2.0]) is None


def test_weights_of_a_far_checkpoint_are_refused() -> None:
    rng = np.random.default_rng(3)
    far = weights_quality(rng.normal(0, 3, (200, 4)).tolist())
    assert far.effective_share < SMALLEST_EFFECTIVE_SHARE
    assert not far.usable
    heavy = weights_quality(
        np.log(scipy.stats.genpareto.rvs(0.95, size=(2000, 1), random_state=1)).tolist()
    )
    assert heavy.pareto_k is not None
    assert heavy.pareto_k > LARGEST_PARETO_K
    assert not heavy.usable
    hopeless = weights_quality([[0.0, -50.0], [800.0, -900.0]])
    assert not hopeless.usable
    assert hopeless.largest_share == 1
    few = weights_quality(rng.normal(0, 0.9, (20, 1)).tolist())
    assert few.error_of_mean > 0.1
    assert not few.usable


@pytest.mark.parametrize(
    ("logs", "outcomes", "words"),
    [
        ([], [], "no problems"),
        ([[0.0]], [[1.0], [1.0]], "log weights of 1 problems, outcomes of 2"),
        ([[0.0], []], [[1.0], []], "problem 1 has 0 log weights and 0 outcomes"),
        ([[0.0], [0.0, 0.0]], [[1.0], [1.0]], "problem 1 has 2 log weights and 1 outcomes"),
        ([[0.0], [float("nan")]], [[1.0], [1.0]], "problem 1: a weight or an outcome is not"),
        ([[800.0]], [[1.0]], "problem 0: a weight or an outcome is not finite"),
    ],
)
def test_bad_input_is_named(
    logs: list[list[float]], outcomes: list[list[float]], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        reweighted_difference(logs, outcomes)
