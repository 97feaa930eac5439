"""Swaps, parts of the update, and random changes of a known size."""

from __future__ import annotations

import pytest
import torch

from svdjobs.kernels.variants import (
    leading_update,
    noise,
    noise_ratio,
    rotate_randomly,
    swap_vectors,
)

ALL = slice(None)
SHAPES = [(24, 40), (40, 24), (24, 24)]


def pair(
    shape: tuple[int, int], seed: int = 0, size: float = 0.02
) -> tuple[torch.Tensor, torch.Tensor]:
    """After and before, with singular values that are well apart."""
    generator = torch.Generator().manual_seed(seed)
    before = torch.randn(shape, generator=generator, dtype=torch.float64)
    u, _, vh = torch.linalg.svd(before, full_matrices=False)
    before = (u * torch.linspace(10, 1, len(vh), dtype=torch.float64)) @ vh
    after = before + size * torch.randn(shape, generator=generator, dtype=torch.float64)
    return after, before


def spectrum(w: torch.Tensor) -> torch.Tensor:
    values: torch.Tensor = torch.linalg.svdvals(w)
    return values


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("directions", [ALL, slice(0, 5), slice(-7, None)])
@pytest.mark.parametrize("sides", ["u", "v", "vectors"])
def test_a_swap_keeps_the_singular_values(
    shape: tuple[int, int], directions: slice, sides: str
) -> None:
    after, before = pair(shape)
    swapped = swap_vectors(after, before, sides, directions)  # type: ignore[arg-type]
    assert spectrum(swapped.w_MN) == pytest.approx(spectrum(after), rel=1e-10)
    assert float((swapped.w_MN - after).norm()) > 1e-3
    # The vectors of before are orthogonal by themselves, but not to the others of after.
    assert (swapped.defect < 1e-10) == (directions == ALL)


@pytest.mark.parametrize("shape", SHAPES)
def test_both_sides_and_before_s_values_are_before(shape: tuple[int, int]) -> None:
    after, before = pair(shape)
    swapped = swap_vectors(after, before, "vectors", ALL).w_MN
    u, _, vh = torch.linalg.svd(before, full_matrices=False)
    assert torch.allclose(swapped, (u * spectrum(after)) @ vh, atol=1e-10)


@pytest.mark.parametrize("sides", ["u", "v", "vectors"])
def test_nothing_is_swapped_with_oneself(sides: str) -> None:
    after, _ = pair((24, 40))
    for directions in (ALL, slice(0, 5)):
        swapped = swap_vectors(after, after.clone(), sides, directions)  # type: ignore[arg-type]
        assert torch.allclose(swapped.w_MN, after, atol=1e-10)


def test_one_side_turns_the_other_stays() -> None:
    """The signs of the swapped vectors are those of after's, whatever the solver gives."""
    after, before = pair((40, 24), size=0.002)
    u_only = swap_vectors(after, before, "u", ALL).w_MN
    v_only = swap_vectors(after, before, "v", ALL).w_MN
    both = swap_vectors(after, before, "vectors", ALL).w_MN
    # To first order the two rotations add up.
    assert float((u_only - after + v_only - after - (both - after)).norm()) < 0.1 * float(
        (both - after).norm()
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_leading_update(shape: tuple[int, int]) -> None:
    after, before = pair(shape)
    update = after - before
    for k in (0, 3, min(shape)):
        kept = leading_update(after, before, k)
        assert int((spectrum(kept) > 1e-9).sum()) == k
        rest = spectrum(update - kept)
        assert rest[: min(shape) - k] == pytest.approx(spectrum(update)[k:], abs=1e-10)


def test_noise_in_singular_values_has_its_norm_and_place() -> None:
    s = torch.linspace(10, 1, 20, dtype=torch.float64)
    s[-1] = 0.0
    r = noise_ratio(s, 0.3, slice(5, None), 1)
    assert float((r * s).norm()) == pytest.approx(0.3)
    assert not r[:5].any()
    assert r[-1] == 0
    assert torch.equal(r, noise_ratio(s, 0.3, slice(5, None), 1))
    assert not torch.equal(r, noise_ratio(s, 0.3, slice(5, None), 2))
    assert not noise_ratio(s, 0.0, ALL, 1).any()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("directions", [ALL, slice(0, 5)])
def test_a_random_rotation_changes_the_matrix_as_much(
    shape: tuple[int, int], directions: slice
) -> None:
    after, before = pair(shape)
    rotated = rotate_randomly(after, before, directions, 3)
    assert spectrum(rotated) == pytest.approx(spectrum(after), rel=1e-10)
    wanted = (swap_vectors(after, before, "vectors", directions).w_MN - after).norm()
    assert float((rotated - after).norm()) == pytest.approx(float(wanted), rel=0.01)
    assert not torch.allclose(rotated, rotate_randomly(after, before, directions, 4))


def test_nothing_rotates_if_nothing_changed() -> None:
    after, _ = pair((24, 40))
    assert torch.allclose(rotate_randomly(after, after.clone(), ALL, 3), after, atol=1e-9)


def test_noise_in_a_matrix_has_the_norm_of_the_update() -> None:
    after, before = pair((24, 40))
    made = noise(after, before, 5)
    assert float((made - after).norm()) == pytest.approx(float((after - before).norm()), rel=1e-5)
    cosine = ((made - after) * (after - before)).sum() / (after - before).norm() ** 2
    assert abs(float(cosine)) < 0.2
