"""Change a matrix in other ways than a blend does: swaps with before, parts of the update, nulls.

All functions take matrices of any float dtype, M×N, and return float64 ones. K = min(M, N).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch

from svdjobs.kernels.rotation import random_update
from svdjobs.kernels.spectrum import RANK_GUARD

_SCALINGS = 5


class Swapped(NamedTuple):
    """A matrix with singular vectors from elsewhere."""

    w_MN: torch.Tensor
    defect: float
    """‖QᵀQ − 1‖_F of the mixed basis before it was projected, the larger of both sides."""


def swap_vectors(
    after_MN: torch.Tensor,
    before_MN: torch.Tensor,
    sides: Literal["u", "v", "vectors"],
    directions: slice,
) -> Swapped:
    """Return after's matrix with before's singular vectors in some directions: U·diag(s_after)·Vᵀ.

    Vectors are paired by the order of the singular values. If only one side is swapped, the sign of
    each of its vectors is that of after's, to which it belongs. If only some directions are, the
    mixed basis is not orthogonal, and the nearest orthonormal one is taken (the polar factor: Fan &
    Hoffman 1955, doi:10.1090/S0002-9939-1955-0067841-7).
    """
    u_MK, s_K, v_NK = _svd(after_MN)
    bu_MK, _, bv_NK = _svd(before_MN)
    if sides != "vectors":
        bu_MK, bv_NK = _signs_of(bu_MK, u_MK), _signs_of(bv_NK, v_NK)
    defects = [0.0]
    if sides in ("u", "vectors"):
        u_MK, defect = _mixed(u_MK, bu_MK, directions)
        defects.append(defect)
    if sides in ("v", "vectors"):
        v_NK, defect = _mixed(v_NK, bv_NK, directions)
        defects.append(defect)
    return Swapped((u_MK * s_K) @ v_NK.T, max(defects))


def leading_update(after_MN: torch.Tensor, before_MN: torch.Tensor, k: int) -> torch.Tensor:
    """Return the k leading singular directions of W_after − W_before, the best approximation of
    rank k (Eckart & Young 1936, doi:10.1007/BF02288367)."""
    u_MK, s_K, v_NK = _svd(after_MN.to(torch.float64) - before_MN.to(torch.float64))
    return (u_MK[:, :k] * s_K[:k]) @ v_NK[:, :k].T


def noise_ratio(s_after_K: torch.Tensor, norm: float, directions: slice, seed: int) -> torch.Tensor:
    """Return r_i = e_i/s_i for Gaussian e of norm `norm` in some directions: the relative change of
    each singular value. It is 0 where s is numerically zero, as in a blend."""
    generator = torch.Generator().manual_seed(seed)
    e_K = torch.randn(s_after_K.shape, generator=generator, dtype=torch.float64)
    kept_K = torch.zeros_like(s_after_K, dtype=torch.bool)
    kept_K[directions] = True
    kept_K &= s_after_K > RANK_GUARD * s_after_K.max()
    e_K = torch.where(kept_K, e_K, 0.0)
    size = float(e_K.norm())
    return torch.where(kept_K, e_K * (norm / size if size else 0.0) / s_after_K, 0.0)


def rotate_randomly(
    after_MN: torch.Tensor, before_MN: torch.Tensor, directions: slice, seed: int
) -> torch.Tensor:
    """Return after's matrix with both bases rotated at random in some directions, so far that the
    matrix changes by as much (‖W′ − W‖_F) as with before's vectors.

    A rotation is the polar factor of a basis plus Gaussian noise. The angles are smaller than those
    of before's vectors: where singular values are near to each other, before's left and right
    vectors turn together, which hardly changes the matrix.
    """
    u_MK, s_K, v_NK = _svd(after_MN)
    swapped_MN = swap_vectors(after_MN, before_MN, "vectors", directions).w_MN
    wanted = float((swapped_MN - after_MN.to(torch.float64)).norm())
    generator = torch.Generator().manual_seed(seed)
    noises = [_noise_in(basis, directions, generator) for basis in (u_MK, v_NK)]
    scale = wanted / float((s_K[directions]).norm() * math.sqrt(2)) if wanted else 0.0
    rotated_MN = after_MN.to(torch.float64)
    for _ in range(_SCALINGS):
        turned = [_polar(q + scale * e) for q, e in zip((u_MK, v_NK), noises, strict=True)]
        rotated_MN = (turned[0] * s_K) @ turned[1].T
        found = float((rotated_MN - after_MN.to(torch.float64)).norm())
        scale *= wanted / found if found else 1.0
    return rotated_MN


def noise(after_MN: torch.Tensor, before_MN: torch.Tensor, seed: int) -> torch.Tensor:
    """Return after's matrix plus Gaussian noise of the norm of W_after − W_before."""
    norm = float((after_MN.to(torch.float64) - before_MN.to(torch.float64)).norm())
    return random_update(after_MN, norm, seed).to(torch.float64)


def _svd(w_MN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U, s and V in float64."""
    u_MK, s_K, vh_KN = torch.linalg.svd(w_MN.to(torch.float64), full_matrices=False)
    return u_MK, s_K, vh_KN.T


def _signs_of(basis_LK: torch.Tensor, other_LK: torch.Tensor) -> torch.Tensor:
    """The basis, each column with the sign that brings it nearer to the other's."""
    signs_K = (basis_LK * other_LK).sum(dim=0).sign()
    return basis_LK * torch.where(signs_K == 0, 1.0, signs_K)


def _mixed(
    own_LK: torch.Tensor, other_LK: torch.Tensor, directions: slice
) -> tuple[torch.Tensor, float]:
    """A basis with some columns of another, made orthonormal, and how far it was from that."""
    mixed_LK = own_LK.clone()
    mixed_LK[:, directions] = other_LK[:, directions]
    gram_KK = mixed_LK.T @ mixed_LK
    defect = float((gram_KK - torch.eye(len(gram_KK), dtype=gram_KK.dtype)).norm())
    return (mixed_LK if defect < 1e-10 else _polar(mixed_LK)), defect


def _polar(basis_LK: torch.Tensor) -> torch.Tensor:
    """The nearest orthonormal basis."""
    u_LK, _, vh_KK = torch.linalg.svd(basis_LK, full_matrices=False)
    nearest_LK: torch.Tensor = u_LK @ vh_KK
    return nearest_LK


def _noise_in(
    basis_LK: torch.Tensor, directions: slice, generator: torch.Generator
) -> torch.Tensor:
    """Gaussian noise for some columns of a basis; each column is about as long as a vector."""
    drawn = torch.randn(basis_LK.shape, generator=generator, dtype=torch.float64)
    noise_LK = torch.zeros_like(basis_LK)
    noise_LK[:, directions] = drawn[:, directions] / math.sqrt(len(basis_LK))
    return noise_LK
