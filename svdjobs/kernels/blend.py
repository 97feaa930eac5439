"""The blend of singular values, as a small update of the after matrix.

    W(alpha) = U_after · diag(alpha·s_after + (1−alpha)·s_before) · Vh_after
             = W_after + (1−alpha)·D,       D = W_after · V · diag(r) · Vᵀ   (M >= N)
                                            D = U · diag(r) · Uᵀ · W_after   (M < N)
    r_i = (s_before,i − s_after,i) / s_after,i

alpha is defined here and nowhere else: 1 is after, 0 has before's singular values, outside [0, 1]
extrapolates. Only singular *values* of before are needed. Adding a small D to W instead of
composing three factors keeps the rounding error of W(alpha) at that of its storage dtype, and
alpha = 1 exact. A reversed sweep is the same with the two checkpoints exchanged: there, what is
called after here is before, which gives the bases.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from svdjobs.kernels.spectrum import RANK_GUARD, gram, long_side_chunks, singular_values

ERROR_BESIDE_D = 1e-4
# A third of what rounding W(alpha) to float32 costs.
ERROR_BESIDE_W = 1e-8

# Of ‖s‖. What two float64 solvers make of one matrix differs by less, and float32 resolves 6e-8.
SAME_SPECTRUM = 1e-10


class Ratio(NamedTuple):
    """Relative change of each singular value."""

    r_K: torch.Tensor
    """float64; 0 in guarded directions."""
    guarded: int
    """Directions left as they are because s_after is numerically zero there."""


def blend_ratio(s_before_K: torch.Tensor, s_after_K: torch.Tensor) -> Ratio:
    """r_i = (s_before,i − s_after,i)/s_after,i where s_after,i > RANK_GUARD·s_after,1, else 0.

    All r_i are 0 where ‖s_before − s_after‖ ≤ SAME_SPECTRUM·‖s_after‖: the matrix did not change.

    Raises:
        ValueError: spectra of different lengths.
    """
    if s_before_K.shape != s_after_K.shape:
        raise ValueError(f"{len(s_before_K)} singular values before, {len(s_after_K)} after")
    top = s_after_K[0] if len(s_after_K) else torch.tensor(0.0)
    kept_K = s_after_K > RANK_GUARD * top
    safe_K = torch.where(kept_K, s_after_K, 1.0)
    r_K = torch.where(kept_K, (s_before_K - s_after_K) / safe_K, 0.0)
    if (s_after_K * r_K).norm() <= SAME_SPECTRUM * s_after_K.norm():
        r_K = torch.zeros_like(r_K)
    return Ratio(r_K, int((~kept_K).sum()))


def target_spectrum(
    s_before_K: torch.Tensor, s_after_K: torch.Tensor, alpha: float
) -> torch.Tensor:
    """Singular values W(alpha) must have, descending; guarded directions keep s_after.

    Far outside [0, 1] a blended value can turn negative; a singular value is its magnitude.
    """
    r_K = blend_ratio(s_before_K, s_after_K).r_K
    return (s_after_K * (1 + (1 - alpha) * r_K)).abs().sort(descending=True).values


def signal(
    w_after_MN: torch.Tensor, s_after_K: torch.Tensor, basis_KK: torch.Tensor, r_K: torch.Tensor
) -> torch.Tensor:
    """The blend signal D = W·(V·diag(r)·Vᵀ) in float32, M×N, chunk by chunk.

    float32 to hold it costs 6e-8 of D, which is itself about 1e-4 of W. The products are taken in
    float32, four times as fast, where `float32_suffices`; in float64 otherwise.
    """
    m, n = w_after_MN.shape
    dtype = torch.float32 if float32_suffices(s_after_K, r_K) else torch.float64
    basis = basis_KK.to(dtype).numpy()
    operator_KK = (basis * r_K.to(dtype).numpy()) @ basis.T
    d_MN = np.empty((m, n), dtype=np.float32)
    start = 0
    for a_CK in long_side_chunks(w_after_MN, dtype):
        stop = start + len(a_CK)
        if m >= n:
            np.matmul(a_CK, operator_KK, out=d_MN[start:stop], casting="same_kind")
        else:
            np.matmul(operator_KK, a_CK.T, out=d_MN[:, start:stop], casting="same_kind")
        start = stop
    return torch.from_numpy(d_MN)


def float32_error(r_K: torch.Tensor) -> float:
    """‖δD‖_F/‖W‖_F if D is taken in float32, to a small factor: u·‖r‖, u = 2⁻²⁴.

    From |fl(AB) − AB| <= γ_K·|A|·|B| (Higham, Accuracy and Stability of Numerical Algorithms, 2nd
    ed., eq. 3.13), with rounding errors that add up as random ones do. float16 and bfloat16 weights
    are exact in float32.
    """
    return 2.0**-24 * float(r_K.norm())


def float32_suffices(s_after_K: torch.Tensor, r_K: torch.Tensor) -> bool:
    """Whether D may be taken in float32: its error is small beside D, and beside W's own rounding.

    So it is for a spectrum that moves in proportion; not for an ill-conditioned one whose small
    singular values move as far as the large ones.
    """
    share = float((s_after_K * r_K).norm()) / max(float(s_after_K.norm()), 1e-300)
    return float32_error(r_K) <= min(ERROR_BESIDE_W, ERROR_BESIDE_D * share)


def signal_direct(w_after_MN: torch.Tensor, s_before_K: torch.Tensor) -> torch.Tensor:
    """The blend signal D in float32 from a direct float64 SVD: the fallback of a failed check."""
    u_MK, s_K, vh_KN = torch.linalg.svd(w_after_MN.to(torch.float64), full_matrices=False)
    r_K = blend_ratio(s_before_K, s_K).r_K
    d_MN: torch.Tensor = (u_MK * (r_K * s_K)) @ vh_KN
    return d_MN.to(torch.float32)


def blend(w_after_MN: torch.Tensor, d_MN: torch.Tensor, alpha: float) -> torch.Tensor:
    """W(alpha) in float32, any shape shared by both; at alpha = 1 the after tensor itself."""
    if alpha == 1:
        return w_after_MN
    return torch.add(w_after_MN.to(torch.float32), d_MN, alpha=1 - alpha)


def spectrum_error(w_alpha_MN: torch.Tensor, target_K: torch.Tensor) -> float:
    """max |s(W(alpha)) − target| / target₁, recomputed from the blended matrix itself."""
    found_K = singular_values(gram(w_alpha_MN))
    top = float(target_K[0]) if len(target_K) else 0.0
    error = float((found_K - target_K).abs().max()) if len(target_K) else 0.0
    return error / top if top > 0 else error
