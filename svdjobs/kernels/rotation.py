"""Measure how singular bases rotate from base to rl1 to rl2, and what chance alone would give.

    R1 = Q_baseᵀ·Q_rl1    R2 = Q_rl1ᵀ·Q_rl2    R3 = Q_baseᵀ·Q_rl2    R4 = R1·R2

for Q = U and Q = V. On a square side Q·Qᵀ = 1, so R4 ≡ R3, and MSE(R4, R3) is rounding noise for
any checkpoints (`trivial`). On the thin side Q·Qᵀ is a projector, and independent Haar-random bases
have E[MSE] = (m−n)/m² (`haar_mse`). Only for the leading T directions is the composition
informative on both sides.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from svdjobs.kernels import dense
from svdjobs.kernels.spectrum import decompose, long_side_chunks, rank


class Bases(NamedTuple):
    """The decomposition of a matrix, and the matrix itself, from which the thin side follows."""

    w_MN: torch.Tensor
    s_K: torch.Tensor
    square_KK: torch.Tensor

    @property
    def tall(self) -> bool:
        """Whether M >= N: then the square side is vh and the thin side u."""
        return self.w_MN.shape[0] >= self.w_MN.shape[1]


def bases_of(w_MN: torch.Tensor) -> Bases:
    """A matrix with its decomposition.

    Raises:
        NumericalError: it cannot be decomposed, e.g. since it is not finite.
    """
    found = decompose(w_MN)
    assert found.basis_KK is not None
    return Bases(w_MN, found.s_K, found.basis_KK)


class Overlaps(NamedTuple):
    """Q_aᵀ·Q_b on both sides, R×R."""

    thin_RR: torch.Tensor
    square_RR: torch.Tensor


def overlaps(a: Bases, b: Bases, r: int) -> Overlaps:
    """Return the overlaps of the first r directions of two matrices of equal shape.

    The thin side is Uᵀ_a·U_b = s_a⁻¹·V_aᵀ·(W_aᵀ·W_b)·V_b·s_b⁻¹, from the cross-Gram matrix, so no
    M×K basis is ever formed.
    """
    qa_KR, qb_KR = a.square_KK[:, :r], b.square_KK[:, :r]
    cross_KK = cross_gram(a.w_MN, b.w_MN)
    thin_RR = (qa_KR.T @ cross_KK @ qb_KR) / a.s_K[:r, None] / b.s_K[None, :r]
    return Overlaps(thin_RR, qa_KR.T @ qb_KR)


def cross_gram(a_MN: torch.Tensor, b_MN: torch.Tensor) -> torch.Tensor:
    """Return W_aᵀ·W_b (M >= N) or W_a·W_bᵀ (M < N) in float64, K×K, summed over chunks."""
    k = min(a_MN.shape)
    total_KK = torch.zeros(k, k, dtype=torch.float64, device=a_MN.device)
    for a_CK, b_CK in zip(long_side_chunks(a_MN), long_side_chunks(b_MN), strict=True):
        total_KK += dense.product(a_CK.T, b_CK)
    return total_KK


def composition_mse(r1: torch.Tensor, r2: torch.Tensor, r3: torch.Tensor) -> float:
    """Return MSE(R1·R2, R3): the mean over entries of the squared difference."""
    return float((r1 @ r2 - r3).square().mean())


def haar_mse(long: int, short: int) -> float:
    """Return E[MSE(R4, R3)] on the thin side for independent Haar-random frames: (m−n)/m².

    E|q_iᵀ·(1−P)·q_j|² = tr(1−P)/m², with 1−P of rank m−n.
    """
    return (long - short) / long**2


def thin_top(bases: Bases, t: int) -> torch.Tensor:
    """Return the first t vectors of the thin side, L×T with L = max(M, N): W·v/s."""
    square_KT = bases.square_KK[:, :t]
    pieces = [dense.product(a_CK, square_KT) for a_CK in long_side_chunks(bases.w_MN)]
    return torch.cat(pieces) / bases.s_K[:t]


def principal_angles(qa_NT: torch.Tensor, qb_NT: torch.Tensor) -> torch.Tensor:
    """Return the principal angles between two orthonormal bases, ascending, in radians.

    An angle below 45° is computed from its sine and others from the cosine, because arccos loses
    half the digits of a small angle (Björck & Golub 1973, doi:10.2307/2005662; Knyazev & Argentati
    2002, doi:10.1137/S1064827500377332).
    """
    inner_TT = qa_NT.T @ qb_NT
    cosines_T = torch.linalg.svdvals(inner_TT).clamp(max=1)
    # svdvals descend. Falling cosines are rising angles; falling sines must be flipped.
    sines_T = principal_sines(qa_NT, qb_NT).flip(0)
    return torch.where(sines_T.square() < 0.5, sines_T.arcsin(), cosines_T.arccos())


def principal_sines(qa_NT: torch.Tensor, qb_NT: torch.Tensor) -> torch.Tensor:
    """Return the sines of the principal angles between two orthonormal bases, descending; exact
    also where they are small (Knyazev & Argentati 2002)."""
    sines_T: torch.Tensor = torch.linalg.svdvals(qb_NT - qa_NT @ (qa_NT.T @ qb_NT))
    return sines_T.clamp(max=1)


def nss(s_before_K: torch.Tensor, s_after_K: torch.Tensor) -> float | None:
    """Return the normalised spectral shift ‖s_after − s_before‖/‖s_before‖.

    None for a zero matrix.
    """
    scale = float(s_before_K.norm())
    return float((s_after_K - s_before_K).norm()) / scale if scale > 0 else None


def nss_null(relative_update: float, shape: tuple[int, int]) -> float:
    """Return the NSS of a random update of relative norm r: r/√max(m, n).

    To first order Δs_i = u_iᵀ·E·v_i. For Gaussian E and K directions, this adds up to
    ‖E‖_F·√(K/(m·n)).
    """
    return relative_update / math.sqrt(max(shape))


def touchable_share(before_MN: torch.Tensor, after: Bases) -> float | None:
    """Return φ, the share of ‖ΔW‖² along u_i·v_iᵀ of `after`: all that a blend can change.

    For a random update it is 1/max(m, n). None if nothing changed.
    """
    r = rank(after.s_K)
    basis_KR = after.square_KK[:, :r]
    diagonal_R, total = torch.zeros_like(after.s_K[:r]), 0.0
    pairs = zip(long_side_chunks(before_MN), long_side_chunks(after.w_MN), strict=True)
    for before_CK, after_CK in pairs:
        delta_CK = after_CK - before_CK
        total += float(delta_CK.square().sum())
        moved_CR = dense.product(after_CK, basis_KR) * dense.product(delta_CK, basis_KR)
        diagonal_R += moved_CR.sum(dim=0)
    diagonal_R /= after.s_K[:r]
    return float(diagonal_R.square().sum()) / total if total > 0 else None


def update_norm(before_MN: torch.Tensor, after_MN: torch.Tensor) -> tuple[float, float]:
    """Return ‖W_after − W_before‖_F and ‖W_before‖_F, in float64."""
    delta, scale = 0.0, 0.0
    for b_CK, a_CK in zip(long_side_chunks(before_MN), long_side_chunks(after_MN), strict=True):
        delta += float((a_CK - b_CK).square().sum())
        scale += float(b_CK.square().sum())
    return math.sqrt(delta), math.sqrt(scale)


def random_update(w_MN: torch.Tensor, norm: float, seed: int) -> torch.Tensor:
    """Return W + E in float32, with Gaussian E of Frobenius norm `norm`: the null of an update."""
    generator = torch.Generator().manual_seed(seed)
    # Drawn on the CPU, so that the update is the same on every device.
    e_MN = torch.randn(w_MN.shape, generator=generator, dtype=torch.float32).to(w_MN.device)
    scale = norm / math.sqrt(float(e_MN.to(torch.float64).square().sum()))
    return w_MN.to(torch.float32) + e_MN * scale
