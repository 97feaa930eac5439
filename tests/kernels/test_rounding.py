from __future__ import annotations

import math

import pytest
import torch

from svdjobs.checkpoint.dtypes import as_array
from svdjobs.kernels import rounding
from svdjobs.kernels.rounding import relative_shift
from tests.kernels.pairs import gaussian, updated

SHAPE = (320, 256)


def grid(w: torch.Tensor) -> rounding.Grid | None:
    return rounding.grid(as_array(w))


def noise_between(before: torch.Tensor, after: torch.Tensor) -> rounding.Noise:
    return rounding.noise_between(as_array(before), as_array(after))


def stored(w: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return w.to(dtype).to(torch.float64)


def test_a_grid_is_told_from_the_values_whatever_stores_them() -> None:
    w = gaussian(64, 64, seed=1)
    assert grid(w) is None
    assert grid(w.float()) is None
    assert grid(w.to(torch.bfloat16).float()) == "bfloat16"
    assert grid(w.to(torch.float16).float()) == "float16"
    assert grid(w.to(torch.bfloat16)) == "bfloat16"


def test_unrounded_weights_have_no_rounding_noise() -> None:
    before, after = updated(gaussian(*SHAPE, seed=1), 1e-4)
    assert noise_between(before, after).noise == 0
    assert noise_between(after, after).noise == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1e-5, 3e-4, 1e-2, 0.3])
def test_noise_of_a_pair_that_was_rounded(dtype: torch.dtype, size: float) -> None:
    """Compare with the true noise, for moves from a hundredth of a spacing to many spacings."""
    before, after = (w.double() for w in updated(0.02 * gaussian(*SHAPE, seed=1), size))
    change = stored(after, dtype) - stored(before, dtype)
    truth = float((change - (after - before)).square().sum())
    found = noise_between(stored(before, dtype), stored(after, dtype))
    assert found.noise == pytest.approx(truth, rel=0.25)
    assert found.weights == pytest.approx(float(after.square().sum()), rel=1e-3)


def test_a_matrix_that_did_not_change_has_none() -> None:
    w = stored(gaussian(*SHAPE, seed=1), torch.bfloat16)
    assert noise_between(w, w).noise == 0


def test_before_in_bfloat16_and_after_in_float32() -> None:
    """Rounding is most of the shift of a small update, as two float64 decompositions show."""
    before, after = (w.double() for w in updated(0.1 * gaussian(*SHAPE, seed=1), 1e-4))
    rounded = stored(before, torch.bfloat16)
    found = noise_between(rounded, after)
    s_before, s_rounded, s_after = map(torch.linalg.svdvals, (before, rounded, after))
    alone = float((s_rounded - s_before).norm() / s_before.norm())
    expected = relative_shift(math.sqrt(found.noise / found.weights), SHAPE)
    assert expected == pytest.approx(alone, rel=0.15)
    assert expected > 0.5 * float((s_rounded - s_after).norm() / s_after.norm())


def test_zeros_are_no_trouble() -> None:
    zeros = torch.zeros(8, 8)
    assert noise_between(zeros, zeros) == (0, 0)
