"""Planning: the spread of a difference, and the numbers that an effect needs."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from svdjobs.statistics import Spread, completions_to_show, problems_to_show, shown, spread_of

TRUE = Spread(between=0.01, within=0.2)


def draw(problems: int, n: int, seed: int, mean: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    own = rng.normal(mean, TRUE.between**0.5, (problems, 1))
    return own + rng.normal(0, TRUE.within**0.5, (problems, n))


def test_both_parts_are_estimated_without_bias() -> None:
    found = [spread_of(draw(60, 4, seed).tolist()) for seed in range(400)]
    between, within = np.array([f for f in found if f]).T
    # `between` is cut off at 0, which makes its mean slightly larger.
    assert between.mean() == pytest.approx(TRUE.between, abs=0.004)
    assert within.mean() == pytest.approx(TRUE.within, rel=0.02)


def test_the_design_detects_its_smallest_effect_in_4_of_5_tries() -> None:
    effect = shown(TRUE, 200, 4)
    assert effect is not None
    p = [
        stats.ttest_1samp(draw(200, 4, seed, effect).mean(axis=1), 0).pvalue for seed in range(1500)
    ]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("effect", [0.02, 0.025, 0.05, 0.2])
def test_the_numbers_are_the_smallest_that_suffice(effect: float) -> None:
    n, problems = completions_to_show(TRUE, 200, effect), problems_to_show(TRUE, 4, effect)
    assert problems is not None
    most = shown(TRUE, problems, 4)
    assert most is not None
    assert most <= effect
    fewer = shown(TRUE, problems - 1, 4)
    assert fewer is None or fewer > effect
    if effect == 0.02:  # 0.0199 is what 200 problems show with endless completions
        assert n is not None
        assert n > 1000
        return
    assert n is not None
    enough = shown(TRUE, 200, n)
    assert enough is not None
    assert enough <= effect
    if n > 1:
        fewer = shown(TRUE, 200, n - 1)
        assert fewer is not None
        assert fewer > effect


def test_problems_that_differ_too_much_need_more_problems() -> None:
    assert completions_to_show(TRUE, 200, 0.0195) is None
    assert problems_to_show(TRUE, 4, 0.0195) is not None
    assert problems_to_show(TRUE, 4, 1e-9) is None


def test_nothing_is_said_without_a_spread() -> None:
    assert spread_of([[0.0, 1.0]]) is None
    assert spread_of([[0.0], [1.0], [0.0]]) is None
    assert spread_of([[0.0, 0.0], [0.0, 0.0]]) == Spread(0.0, 0.0)
    assert shown(Spread(0.0, 0.0), 200, 4) is None
    assert completions_to_show(Spread(0.0, 0.0), 200, 0.1) is None
