from __future__ import annotations

import pytest
import torch

from svdjobs.kernels import blend, cast
from svdjobs.kernels.spectrum import decompose
from tests.kernels.pairs import BEFORE, RELATIVE, pair, truth, updated, with_spectrum


def computed_signal(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    factors = decompose(after)
    assert factors.basis_KK is not None
    ratio = blend.blend_ratio(decompose(before, vectors=False).s_K, factors.s_K)
    return blend.signal(after, factors.s_K, factors.basis_KK, ratio.r_K)


@pytest.mark.parametrize("relative", RELATIVE)
@pytest.mark.parametrize("kind", BEFORE)
def test_accuracy_against_float64_truth(kind: str, relative: float) -> None:
    before, after = pair(kind, relative)
    expected_d = truth(before, after)
    d = computed_signal(before, after)
    assert (d.double() - expected_d).norm() <= 0.01 * expected_d.norm()
    expected = after.double() + expected_d
    stored = blend.blend(after, d, alpha=0.0)
    assert stored.dtype == torch.float32
    assert (stored.double() - expected).norm() <= 1e-7 * expected.norm()


@pytest.mark.parametrize("decades", [0.5, 2, 4, 6])
def test_float32_product_is_as_good_as_its_bound(
    decades: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    s_before = torch.logspace(0, -decades, 64, dtype=torch.float64)
    before, after = updated(with_spectrum(200, 64, s_before), 1e-3)
    factors = decompose(after)
    ratio = blend.blend_ratio(decompose(before, vectors=False).s_K, factors.s_K)
    monkeypatch.setattr(blend, "float32_suffices", lambda s, r: False)
    exact = computed_signal(before, after).double()
    monkeypatch.setattr(blend, "float32_suffices", lambda s, r: True)
    fast = computed_signal(before, after).double()
    assert not torch.equal(fast, exact)
    # Storing D in float32 costs up to 2⁻²⁴ of its own, with or without the fast product.
    bound = blend.float32_error(ratio.r_K) * after.norm() + 2**-24 * exact.norm()
    assert (fast - exact).norm() <= 2 * bound


@pytest.mark.parametrize(
    ("change", "taken"), [("proportional", True), ("flat", False), ("large", False)]
)
def test_float32_is_taken_only_where_it_costs_nothing(change: str, taken: bool) -> None:
    s = torch.logspace(0, -6, 48, dtype=torch.float64)
    r = {"proportional": s * 0 + 1e-3, "flat": 1e-7 / s, "large": s * 0 + 0.5}[change]
    assert blend.float32_suffices(s, r) is taken


@pytest.mark.parametrize("relative", RELATIVE)
@pytest.mark.parametrize("kind", BEFORE)
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, -0.5, 1.5])
def test_blend_has_the_target_spectrum(kind: str, relative: float, alpha: float) -> None:
    before, after = pair(kind, relative)
    s_before = decompose(before, vectors=False).s_K
    s_after = decompose(after, vectors=False).s_K
    d = computed_signal(before, after)
    target = blend.target_spectrum(s_before, s_after, alpha)
    assert blend.spectrum_error(blend.blend(after, d, alpha), target) <= 1e-6


def test_alpha_one_is_the_after_tensor_itself() -> None:
    _, after = pair("tall", 1e-2)
    assert blend.blend(after, torch.full_like(after, 7), alpha=1.0) is after


def test_direct_route_agrees() -> None:
    before, after = pair("wide", 1e-3)
    s_before = torch.linalg.svdvals(before.double())
    direct = blend.signal_direct(after, s_before)
    assert (direct - computed_signal(before, after)).norm() <= 1e-4 * direct.norm()


def test_guarded_directions_are_counted_and_left_alone() -> None:
    after = with_spectrum(20, 10, torch.tensor([1.0, 0.5]).double())
    before = with_spectrum(20, 10, torch.linspace(2, 1, 10).double())
    s_after, s_before = torch.linalg.svdvals(after), torch.linalg.svdvals(before)
    ratio = blend.blend_ratio(s_before, s_after)
    assert ratio.guarded == 8
    assert ratio.r_K[2:].tolist() == [0.0] * 8
    assert torch.allclose(ratio.r_K[:2], s_before[:2] / s_after[:2] - 1)


def test_what_two_solvers_make_of_one_matrix_is_no_change() -> None:
    w_MN = torch.randn(64, 48, generator=torch.Generator().manual_seed(1)) * 0.1
    s_K = decompose(w_MN).s_K
    by_another_K = torch.linalg.svdvals(w_MN.double())
    assert not torch.equal(s_K, by_another_K)
    assert not blend.blend_ratio(by_another_K, s_K).r_K.any()
    assert blend.blend_ratio(by_another_K * (1 + 1e-9), s_K).r_K.all()


def test_spectra_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 singular values before, 2 after"):
        blend.blend_ratio(torch.ones(3), torch.ones(2))


def test_realised_fraction_is_one_in_float32_and_small_in_bfloat16() -> None:
    before, after = pair("square", 1e-3)
    after = after.to(torch.bfloat16).float()  # as a released checkpoint is stored
    d = computed_signal(before, after)
    fractions = {}
    w_alpha = blend.blend(after, d, 0.2).reshape(-1)  # shared by all dtypes, so it must survive
    for name, dtype in cast.CAST_DTYPES.items():
        kept = cast.Cast(after.reshape(-1), d.reshape(-1), dtype).kept(w_alpha, 0.2)
        fractions[name] = kept.projection / cast.signal(float(d.square().sum()), 0.2)
    assert fractions["float32"] == pytest.approx(1, abs=1e-3)
    assert abs(fractions["bfloat16"]) < 0.3
    assert fractions["bfloat16"] < fractions["float16"] < 1.1


def test_realised_fraction_against_the_definition() -> None:
    before, after = pair("tall", 1e-2)
    d = computed_signal(before, after)
    alpha = 0.4
    w_alpha = blend.blend(after, d, alpha)
    kept = cast.Cast(after.reshape(-1), d.reshape(-1), torch.float16).kept(
        w_alpha.reshape(-1), alpha
    )
    full = cast.signal(float(d.double().square().sum()), alpha)
    change = w_alpha.half().double() - after.double()
    expected = float((change * d.double()).sum() / ((1 - alpha) * d.double().square().sum()))
    assert kept.projection / full == pytest.approx(expected, rel=1e-5)
    wrong = (w_alpha.half().double() - after.half().double()) - (1 - alpha) * d.double()
    assert kept.error == pytest.approx(float(wrong.square().sum()), rel=1e-3)


@pytest.mark.parametrize(("name", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_an_unbiased_cast_can_still_hide_the_blend(name: str, digits: int) -> None:
    """Off a dtype's grid, the expected projection is 1, and the noise is many times D.

    Where a weight lies between two numbers of the grid, ulp apart, is uniform: a small d moves its
    cast by a whole ulp with probability |d|/ulp, and not at all otherwise. So the expected square
    of the error is |d|·(ulp − |d|).
    """
    generator = torch.Generator().manual_seed(0)
    after = 0.1 * torch.randn(576, 576, generator=generator)
    d = torch.randn(576, 576, generator=generator)
    d *= 2e-5 * after.norm() / d.norm()
    w_alpha = blend.blend(after, d, 0.0)
    flat = after.reshape(-1), d.reshape(-1), w_alpha.reshape(-1)
    kept, exact = (
        cast.Cast(*flat[:2], cast.CAST_DTYPES[n]).kept(flat[2], 0.0) for n in (name, "float32")
    )
    ulp = 2.0 ** (torch.frexp(after.double()).exponent - digits)
    expected = d.double().abs() * (ulp - d.double().abs())
    signal = float(d.double().square().sum())
    assert kept.error == pytest.approx(float(expected.sum()), rel=0.05)
    assert kept.projection / signal == pytest.approx(1, abs=0.2)
    assert (kept.error / signal) ** 0.5 > {"bfloat16": 10, "float16": 4}[name]
    assert (exact.error / signal) ** 0.5 < 0.01


def test_a_cast_beyond_the_range_gives_finite_numbers() -> None:
    after, d = torch.tensor([1e6, 1.0]), torch.tensor([10.0, 0.5])
    kept = cast.Cast(after, d, torch.float16).kept(blend.blend(after, d, 0.0), 0.0)
    assert kept.error == 100
    assert kept.projection == pytest.approx((65504 - 1e6) * 10 + 0.25)
    one = cast.Cast(after, d, torch.float16).kept(after, 1.0)
    assert one.error == 0
