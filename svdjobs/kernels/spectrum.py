"""Compute singular values and square-side vectors from a float64 Gram matrix.

The Gram matrix squares the condition number. In float64, an eigenvalue is accurate to about
eps·s₁², and a singular value to eps·s₁²/s_i (Golub & Van Loan, Matrix Computations, 4th ed.,
8.6.3). The relative error is 1e-16 at the top and 1e-8 at s_i = 1e-4·s₁; at 1e-8·s₁ no digit is
right. So directions below RANK_GUARD are never trusted. A float32 Gram matrix would lose everything
below 3e-4·s₁.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch

from svdjobs.errors import NumericalError
from svdjobs.kernels import dense

RANK_GUARD = 1e-7
ENERGY_TOLERANCE = 1e-12
RESIDUAL_TOLERANCE = 1e-12
CHUNK_ELEMENTS = 1 << 22


class _Unchecked(NamedTuple):
    """The result of one route, before it is checked."""

    s_K: torch.Tensor
    basis_KK: torch.Tensor | None
    energy: float
    """‖W‖_F², summed over the elements."""


Route = Callable[[torch.Tensor, bool], _Unchecked]


class Decomposition(NamedTuple):
    """Singular values and, if requested, the vectors of the square side."""

    s_K: torch.Tensor
    """float64, descending."""
    basis_KK: torch.Tensor | None
    """float64, columns: right singular vectors where M >= N, left ones otherwise."""
    method: Literal["gram", "svd"]
    checks: dict[str, float]
    """Relative error of each self-check: `energy` and, with vectors, `residual`."""


def decompose(w_MN: torch.Tensor, *, vectors: bool = True) -> Decomposition:
    """Decompose one matrix of any float dtype.

    The Gram route is checked twice: Σs² against ‖W‖_F² summed independently, and WᵀW·x against
    V·s²·Vᵀ·x for one random x. If either check fails, a direct float64 SVD is computed.

    Raises:
        NumericalError: the direct SVD fails, too.
    """
    failures: list[str] = []
    routes: tuple[tuple[Literal["gram", "svd"], Route], ...] = (
        ("gram", _gram_route),
        ("svd", _svd_route),
    )
    for method, route in routes:
        try:
            result = _checked(w_MN, *route(w_MN, vectors), method=method)
        except torch.OutOfMemoryError:
            raise
        except (np.linalg.LinAlgError, RuntimeError) as error:  # did not converge
            failures.append(f"{method}: {error}")
            continue
        if _sound(result):
            return result
        failures.append(f"{method}: {result.checks}")
    raise NumericalError(
        f"two decompositions failed: {'; '.join(failures)}; tolerances are energy "
        f"{ENERGY_TOLERANCE}, residual {RESIDUAL_TOLERANCE}"
    )


def gram(w_MN: torch.Tensor) -> torch.Tensor:
    """Return the float64 Gram matrix of the smaller side, K×K: WᵀW if M >= N, W·Wᵀ otherwise.

    It is summed over chunks of the longer side, so no float64 copy of W ever exists.
    """
    return gram_and_energy(w_MN)[0]


def gram_and_energy(w_MN: torch.Tensor) -> tuple[torch.Tensor, float]:
    """Return the Gram matrix and, from the same pass over the elements, ‖W‖_F²."""
    k = min(w_MN.shape)
    total_KK, energy = torch.zeros(k, k, dtype=torch.float64, device=w_MN.device), 0.0
    for a_CK in long_side_chunks(w_MN):
        total_KK += dense.self_product(a_CK)
        energy += dense.square_sum(a_CK)
    return total_KK, energy


def long_side_chunks(
    w_MN: torch.Tensor, dtype: torch.dtype = torch.float64
) -> Iterator[torch.Tensor]:
    """Yield pieces C×K of W (of Wᵀ if M < N) along the longer side, in float64 by default."""
    m, n = w_MN.shape
    step = max(256, CHUNK_ELEMENTS // max(1, min(m, n)))
    for start in range(0, max(m, n), step):
        if m >= n:
            yield w_MN[start : start + step].to(dtype)
        else:
            # A transposed view is cheaper to use than to copy into the other order.
            yield w_MN[:, start : start + step].to(dtype).contiguous().T


def singular_values(gram_KK: torch.Tensor) -> torch.Tensor:
    """Return the singular values, float64 and descending, from a Gram matrix."""
    # Rounding can make the smallest eigenvalues negative.
    return dense.eigvalsh(gram_KK).clamp_min(0).sqrt()


def fix_signs(basis_KK: torch.Tensor) -> torch.Tensor:
    """Make the largest-magnitude entry of each column positive.

    The other side is W·v/s, so its signs follow, and U·diag(s)·Vh does not change.
    """
    largest_K = basis_KK.abs().argmax(dim=0)
    signs_K = basis_KK.gather(0, largest_K[None]).sign()
    return basis_KK * torch.where(signs_K == 0, 1.0, signs_K)


def rank(s_K: torch.Tensor) -> int:
    """Return the number of singular values above RANK_GUARD·s₁."""
    # Strictly above, so an all-zero matrix has rank 0.
    return int((s_K > RANK_GUARD * s_K[0]).sum()) if len(s_K) else 0


def stable_rank(s_K: torch.Tensor) -> float | None:
    """Return ‖W‖_F²/s₁² (Rudelson & Vershynin 2007, arXiv:math/0503442); None for a zero matrix."""
    return float((s_K / s_K[0]).square().sum()) if len(s_K) and s_K[0] > 0 else None


def squared_norm(w_MN: torch.Tensor) -> float:
    """Return ‖W‖_F² in float64, without a float64 copy of W."""
    return sum(dense.square_sum(a_CK) for a_CK in long_side_chunks(w_MN))


def _gram_route(w_MN: torch.Tensor, vectors: bool) -> _Unchecked:
    gram_KK, energy = gram_and_energy(w_MN)
    if not vectors:
        return _Unchecked(singular_values(gram_KK), None, energy)
    squares_K, basis_KK = dense.eigh(gram_KK)
    return _Unchecked(squares_K.clamp_min(0).sqrt(), basis_KK, energy)


def _svd_route(w_MN: torch.Tensor, vectors: bool) -> _Unchecked:
    w64_MN, energy = w_MN.to(torch.float64), squared_norm(w_MN)
    if not vectors:
        return _Unchecked(torch.linalg.svdvals(w64_MN), None, energy)
    u_MK, s_K, vh_KN = torch.linalg.svd(w64_MN, full_matrices=False)
    basis_KK = (vh_KN.T if w_MN.shape[0] >= w_MN.shape[1] else u_MK).contiguous()
    return _Unchecked(s_K, basis_KK, energy)


def _checked(
    w_MN: torch.Tensor,
    s_K: torch.Tensor,
    basis_KK: torch.Tensor | None,
    energy: float,
    *,
    method: Literal["gram", "svd"],
) -> Decomposition:
    checks = {"energy": _relative(abs(float(s_K.square().sum()) - energy), energy)}
    if basis_KK is not None:
        basis_KK = fix_signs(basis_KK)
        checks["residual"] = _residual(w_MN, s_K, basis_KK)
    return Decomposition(s_K, basis_KK, method, checks)


def _residual(w_MN: torch.Tensor, s_K: torch.Tensor, basis_KK: torch.Tensor) -> float:
    """Return ‖G·x − V·s²·Vᵀ·x‖ / (s₁²·‖x‖) for one fixed random x, without forming G."""
    x_K = torch.randn(len(s_K), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x_K = x_K.to(w_MN.device)
    direct_K = torch.zeros_like(x_K)
    for a_CK in long_side_chunks(w_MN):
        direct_K += dense.product(a_CK.T, dense.product(a_CK, x_K))
    composed_K = basis_KK @ (s_K.square() * (basis_KK.T @ x_K))
    scale = float(s_K[0].square() * x_K.norm()) if len(s_K) else 0.0
    return _relative(float((direct_K - composed_K).norm()), scale)


def _relative(error: float, scale: float) -> float:
    return error / scale if scale > 0 else error


def _sound(result: Decomposition) -> bool:
    """Whether all checks pass. NaN compares false, so a result that is not finite fails."""
    tolerances = {"energy": ENERGY_TOLERANCE, "residual": RESIDUAL_TOLERANCE}
    return all(error <= tolerances[name] for name, error in result.checks.items())


def thin_side(w_MN: torch.Tensor, basis_KK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (u_MK, vh_KN) in float64 from the matrix and its square-side vectors.

    W·v/s would not be orthonormal for small s, and does not exist for s = 0. So the thin side is
    the Q of a Householder QR of W·V; its R is diag(s) up to signs.
    """
    m, n = w_MN.shape
    long_LK = (w_MN if m >= n else w_MN.T).to(torch.float64) @ basis_KK
    q_LK, r_KK = torch.linalg.qr(long_LK)
    signs_K = r_KK.diagonal().sign()
    q_LK = q_LK * torch.where(signs_K == 0, 1.0, signs_K)
    return (q_LK, basis_KK.T) if m >= n else (basis_KK, q_LK.T)
