from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svdjobs.kernels import rotation
from svdjobs.kernels.spectrum import decompose
from tests.kernels.pairs import gaussian, orthonormal, with_spectrum


def bases(w: torch.Tensor) -> rotation.Bases:
    found = decompose(w)
    assert found.basis_KK is not None
    return rotation.Bases(w, found.s_K, found.basis_KK)


def chain(m: int, n: int, step: float = 0.3) -> list[torch.Tensor]:
    w = gaussian(m, n, seed=1)
    return [w, w + step * gaussian(m, n, seed=2), w + 2 * step * gaussian(m, n, seed=3)]


def mses(triple: list[torch.Tensor], r: int | None = None) -> tuple[float, float]:
    """Return the (thin, square) MSE of a triple from this package."""
    base, rl1, rl2 = (bases(w) for w in triple)
    k = r or min(triple[0].shape)
    first, second, third = (
        rotation.overlaps(base, rl1, k),
        rotation.overlaps(rl1, rl2, k),
        rotation.overlaps(base, rl2, k),
    )
    thin = rotation.composition_mse(first.thin_RR, second.thin_RR, third.thin_RR)
    square = rotation.composition_mse(first.square_RR, second.square_RR, third.square_RR)
    return thin, square


def scripted_mses(triple: list[torch.Tensor], r: int | None = None) -> tuple[float, float]:
    """Return the (u, vh) MSE as the usual scripts do: three float64 SVDs, explicit R matrices."""
    u, v = [], []
    for w in triple:
        left, _, right = torch.linalg.svd(w.double(), full_matrices=False)
        u.append(left[:, :r])
        v.append(right.T[:, :r])
    found = []
    for q in (u, v):
        r1, r2, r3 = q[0].T @ q[1], q[1].T @ q[2], q[0].T @ q[2]
        found.append(float((r1 @ r2 - r3).square().mean()))
    return found[0], found[1]


@pytest.mark.parametrize(("m", "n"), [(48, 20), (20, 48), (30, 30), (1, 12), (12, 1)])
def test_agrees_with_the_scripts(m: int, n: int) -> None:
    triple = chain(m, n)
    u, vh = scripted_mses(triple)
    thin, square = mses(triple)
    assert thin == pytest.approx(u if m >= n else vh, rel=1e-8, abs=1e-20)
    assert square < 1e-25
    assert (vh if m >= n else u) < 1e-25  # trivial in the scripts too


@pytest.mark.parametrize(("m", "n"), [(48, 20), (20, 48), (30, 30)])
def test_top_k_form_means_something_on_both_sides(m: int, n: int) -> None:
    triple = chain(m, n)
    u, vh = scripted_mses(triple, 4)
    thin, square = mses(triple, 4)
    assert (thin, square) == pytest.approx((u, vh) if m >= n else (vh, u), rel=1e-8)
    assert min(thin, square) > 1e-4


def test_haar_null_is_the_mean_over_random_frames() -> None:
    m, n = 30, 10
    found = []
    for seed in range(400):
        a, b, c = (orthonormal(m, n, 3 * seed + i) for i in range(3))
        found.append(rotation.composition_mse(a.T @ b, b.T @ c, a.T @ c))
    mean = torch.tensor(found).mean()
    error = torch.tensor(found).std() / math.sqrt(len(found))
    assert abs(mean - rotation.haar_mse(m, n)) < 4 * error
    assert rotation.haar_mse(12, 12) == 0


@pytest.mark.parametrize("angle", [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 0.5, 1.0])
def test_planted_angles_are_recovered(angle: float) -> None:
    frame = orthonormal(40, 6, seed=0)
    planted = torch.tensor([angle / 4, angle / 2, angle]).double()
    turned = frame[:, :3] * planted.cos() + frame[:, 3:] * planted.sin()
    mixed = turned @ orthonormal(3, 3, seed=5)
    found = rotation.principal_angles(frame[:, :3], mixed)
    assert torch.allclose(found, planted, rtol=0.01)


def test_angles_between_one_subspace_and_itself_are_zero() -> None:
    frame = orthonormal(40, 6, seed=0)
    assert rotation.principal_angles(frame, frame @ orthonormal(6, 6, seed=1)).max() < 1e-14


def test_angles_above_45_degrees_use_the_cosine() -> None:
    frame = orthonormal(10, 4, seed=0)
    found = rotation.principal_angles(frame[:, :2], frame[:, 2:])
    assert torch.allclose(found, torch.full((2,), math.pi / 2).double())


def test_thin_vectors_are_orthonormal_left_vectors() -> None:
    for shape in ((50, 20), (20, 50)):
        w = gaussian(*shape, seed=3)
        top = rotation.thin_top(bases(w), 5)
        assert torch.allclose(top.T @ top, torch.eye(5).double(), atol=1e-12)


def test_touchable_share_of_a_pure_sigma_update_is_one() -> None:
    u, v = orthonormal(30, 12, 1), orthonormal(12, 12, 2)
    s = torch.linspace(3, 1, 12).double()
    before, after = (u * s) @ v.T, (u * (s + torch.linspace(0.1, -0.1, 12).double())) @ v.T
    assert rotation.touchable_share(before, bases(after)) == pytest.approx(1, rel=1e-9)


def test_touchable_share_of_a_random_update_is_its_null() -> None:
    before = gaussian(60, 40, seed=1)
    shares = []
    for seed in range(200):
        after = rotation.random_update(before, 1e-3 * float(before.norm()), seed).double()
        share = rotation.touchable_share(before, bases(after))
        assert share is not None
        shares.append(share)
    mean = torch.tensor(shares).mean()
    assert mean == pytest.approx(1 / 60, rel=0.1)


def test_touchable_share_of_no_update_is_none() -> None:
    w = gaussian(8, 5, seed=0)
    assert rotation.touchable_share(w, bases(w)) is None


@pytest.mark.parametrize("shape", [(80, 40), (40, 80), (50, 50)])
def test_nss_of_a_random_update_is_its_null(shape: tuple[int, int]) -> None:
    before = gaussian(*shape, seed=1)
    s_before = decompose(before).s_K
    found = []
    for seed in range(30):
        after = rotation.random_update(before, 1e-3 * float(before.norm()), seed)
        value = rotation.nss(s_before, decompose(after).s_K)
        assert value is not None
        found.append(value)
    assert torch.tensor(found).mean() == pytest.approx(rotation.nss_null(1e-3, shape), rel=0.1)


def test_random_update_has_the_norm_asked_for() -> None:
    w = gaussian(40, 30, seed=1).float()
    norm, scale = rotation.update_norm(w, rotation.random_update(w, 0.5, seed=3))
    assert norm == pytest.approx(0.5, rel=1e-5)
    assert scale == pytest.approx(float(w.double().norm()), rel=1e-12)


def scalars(base: torch.Tensor, rl1: torch.Tensor, rl2: torch.Tensor) -> torch.Tensor:
    """Return every scalar of the rotation stage for one triple."""
    b, r2 = bases(base), bases(rl2)
    angles = rotation.principal_angles(b.square_KK[:, :3], r2.square_KK[:, :3])
    thin = rotation.principal_angles(rotation.thin_top(b, 3), rotation.thin_top(r2, 3))
    phi = rotation.touchable_share(base, r2)
    shift = rotation.nss(b.s_K, r2.s_K)
    full, top = mses([base, rl1, rl2]), mses([base, rl1, rl2], 3)
    return torch.tensor([*angles, *thin, phi, shift, full[0], *top]).double()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), tall=st.booleans())
def test_scalars_do_not_depend_on_coordinates(seed: int, tall: bool) -> None:
    """The same permutation or rotation of rows and columns in all matrices changes nothing."""
    m, n = (18, 10) if tall else (10, 18)
    triple = chain(m, n)
    left, right = orthonormal(m, m, seed), orthonormal(n, n, seed + 1)
    rows = torch.randperm(m, generator=torch.Generator().manual_seed(seed))
    turned = [(left @ w @ right)[rows] for w in triple]
    assert torch.allclose(scalars(*turned), scalars(*triple), rtol=1e-6, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_scalars_do_not_depend_on_signs_or_the_choice_within_a_subspace(seed: int) -> None:
    """Joint sign flips, and any basis of the leading subspace, give the same angles and MSE."""
    base, rl1, rl2 = (bases(w) for w in chain(18, 10))
    mix = orthonormal(4, 4, seed)
    flips = torch.where(torch.rand(10, generator=torch.Generator().manual_seed(seed)) < 0.5, -1, 1)
    flipped = rotation.Bases(rl2.w_MN, rl2.s_K, rl2.square_KK * flips)
    found = rotation.principal_angles(base.square_KK[:, :4] @ mix, flipped.square_KK[:, :4])
    expected = rotation.principal_angles(base.square_KK[:, :4], rl2.square_KK[:, :4])
    assert torch.allclose(found, expected, rtol=1e-8)
    values = []
    for last in (rl2, flipped):
        parts = [
            rotation.overlaps(a, b, 10).thin_RR for a, b in ((base, rl1), (rl1, last), (base, last))
        ]
        values.append(rotation.composition_mse(*parts))
    assert values[0] == pytest.approx(values[1], rel=1e-10)


def test_repeated_singular_values_do_not_matter() -> None:
    """A rotation inside a degenerate subspace of base leaves angles and full MSE unchanged."""
    s = torch.tensor([2.0] * 4 + [1.0] * 4).double()
    w = with_spectrum(20, 8, s, seed=3)
    first, second = bases(w), bases(w)
    turn = torch.zeros(8, 8).double()
    turn[:4, :4], turn[4:, 4:] = orthonormal(4, 4, 1), orthonormal(4, 4, 2)
    second = rotation.Bases(w, second.s_K, second.square_KK @ turn)
    other, third = bases(gaussian(20, 8, seed=8)), bases(gaussian(20, 8, seed=9))
    values = []
    for base in (first, second):
        parts = [
            rotation.overlaps(a, b, 8).thin_RR
            for a, b in ((base, other), (other, third), (base, third))
        ]
        values.append(rotation.composition_mse(*parts))
    assert values[0] == pytest.approx(values[1], rel=1e-9)
