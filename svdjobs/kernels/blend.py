"""Blend singular values, by a small update of the `after` matrix.

    W(alpha) = U_after · diag(alpha·s_after + (1−alpha)·s_before) · Vh_after
             = W_after + (1−alpha)·D,       D = W_after · V · diag(r) · Vᵀ   (M >= N)
                                            D = U · diag(r) · Uᵀ · W_after   (M < N)
    r_i = (s_before,i − s_after,i) / s_after,i

alpha is defined here and nowhere else: 1 is `after`, 0 has the singular values of `before`, and a
value outside [0, 1] extrapolates. Only the singular *values* of `before` are needed. W(alpha) is W
plus a small D, not a product of three factors. So its rounding error is that of its storage dtype,
and alpha = 1 is exact. A reversed sweep exchanges the two checkpoints: its `before` gives the bases
and is named after in this module.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from svdjobs.kernels import dense
from svdjobs.kernels.spectrum import RANK_GUARD, gram, long_side_chunks, singular_values

# The largest error of D in float32, relative to D and to W. The latter is a third of the error of
# rounding W(alpha) to float32.
ERROR_BESIDE_D = 1e-4
ERROR_BESIDE_W = 1e-8

# Relative to ‖s‖. Two float64 solvers differ by less for one matrix; float32 resolves 6e-8.
SAME_SPECTRUM = 1e-10


class Ratio(NamedTuple):
    """The relative change of each singular value."""

    r_K: torch.Tensor
    """float64; 0 in guarded directions."""
    guarded: int
    """Number of directions that stay unchanged because s_after is numerically zero there."""


def blend_ratio(s_before_K: torch.Tensor, s_after_K: torch.Tensor) -> Ratio:
    """Return r_i = (s_before,i − s_after,i)/s_after,i if s_after,i > RANK_GUARD·s_after,1, else 0.

    All r_i are 0 if ‖s_before − s_after‖ ≤ SAME_SPECTRUM·‖s_after‖: the matrix did not change.

    Raises:
        ValueError: the spectra differ in length.
    """
    if s_before_K.shape != s_after_K.shape:
        raise ValueError(f"{len(s_before_K)} singular values before, {len(s_after_K)} after")
    top = s_after_K[0] if len(s_after_K) else torch.tensor(0.0)
    # Strictly greater, so an all-zero matrix keeps no direction and nothing is divided by 0.
    kept_K = s_after_K > RANK_GUARD * top
    safe_K = torch.where(kept_K, s_after_K, 1.0)
    r_K = torch.where(kept_K, (s_before_K - s_after_K) / safe_K, 0.0)
    if (s_after_K * r_K).norm() <= SAME_SPECTRUM * s_after_K.norm():
        r_K = torch.zeros_like(r_K)
    return Ratio(r_K, int((~kept_K).sum()))


def target_spectrum(
    s_before_K: torch.Tensor, s_after_K: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Return the singular values that W(alpha) must have, descending.

    Guarded directions keep s_after. If alpha is far outside [0, 1], a blended value can be
    negative; the singular value is its magnitude.
    """
    r_K = blend_ratio(s_before_K, s_after_K).r_K
    return (s_after_K * (1 + (1 - alpha) * r_K)).abs().sort(descending=True).values


def signal(
    w_after_MN: torch.Tensor, s_after_K: torch.Tensor, basis_KK: torch.Tensor, r_K: torch.Tensor
) -> torch.Tensor:
    """Return the blend signal D = W·(V·diag(r)·Vᵀ) in float32, M×N, computed chunk by chunk.

    Storing D in float32 costs 6e-8 of D, which is itself about 1e-4 of W. If `float32_suffices`,
    the products are computed in float32, four times as fast; otherwise in float64.
    """
    m, n = w_after_MN.shape
    dtype = torch.float32 if float32_suffices(s_after_K, r_K) else torch.float64
    basis_KK = basis_KK.to(dtype)
    operator_KK = dense.product(basis_KK * r_K.to(dtype), basis_KK.T)
    d_MN = torch.empty(m, n, dtype=torch.float32, device=w_after_MN.device)
    start = 0
    for a_CK in long_side_chunks(w_after_MN, dtype):
        stop = start + len(a_CK)
        if m >= n:
            dense.product_into(d_MN[start:stop], a_CK, operator_KK)
        else:
            dense.product_into(d_MN[:, start:stop], operator_KK, a_CK.T)
        start = stop
    return d_MN


def float32_error(r_K: torch.Tensor) -> float:
    """Estimate ‖δD‖_F/‖W‖_F if D is computed in float32, up to a small factor: u·‖r‖, u = 2⁻²⁴.

    This follows from |fl(AB) − AB| <= γ_K·|A|·|B| (Higham, Accuracy and Stability of Numerical
    Algorithms, 2nd ed., eq. 3.13) if rounding errors add up like random ones. float16 and bfloat16
    weights are exact in float32.
    """
    return 2.0**-24 * float(r_K.norm())


def float32_suffices(s_after_K: torch.Tensor, r_K: torch.Tensor) -> bool:
    """Whether D may be computed in float32: its error is small relative to D and to W's rounding.

    This holds for a spectrum that moves in proportion. It does not hold for an ill-conditioned one
    whose small singular values move as far as the large ones.
    """
    relative_change = float((s_after_K * r_K).norm()) / max(float(s_after_K.norm()), 1e-300)
    return float32_error(r_K) <= min(ERROR_BESIDE_W, ERROR_BESIDE_D * relative_change)


def signal_direct(w_after_MN: torch.Tensor, s_before_K: torch.Tensor) -> torch.Tensor:
    """Return D in float32 from a direct float64 SVD: the fallback if a check of the blend fails."""
    u_MK, s_K, vh_KN = torch.linalg.svd(w_after_MN.to(torch.float64), full_matrices=False)
    r_K = blend_ratio(s_before_K, s_K).r_K
    d_MN: torch.Tensor = (u_MK * (r_K * s_K)) @ vh_KN
    return d_MN.to(torch.float32)


def blend(w_after_MN: torch.Tensor, d_MN: torch.Tensor, alpha: float) -> torch.Tensor:
    """Return W(alpha) in float32, from tensors of one shape; `w_after_MN` itself if alpha = 1."""
    if alpha == 1:
        return w_after_MN
    return torch.add(w_after_MN.to(torch.float32), d_MN, alpha=1 - alpha)


def spectrum_error(w_alpha_MN: torch.Tensor, target_K: torch.Tensor) -> float:
    """Return max |s(W(alpha)) − target| / target₁, with s computed from the blended matrix."""
    s_alpha_K = singular_values(gram(w_alpha_MN))
    top = float(target_K[0]) if len(target_K) else 0.0
    error = float((s_alpha_K - target_K).abs().max()) if len(target_K) else 0.0
    return error / top if top > 0 else error
