"""Singular values and square-side vectors from a float64 Gram matrix.

Forming the Gram matrix squares the condition number, so in float64 an eigenvalue is good to about
eps·s₁² and a singular value to eps·s₁²/s_i (Golub & Van Loan, Matrix Computations, 4th ed., 8.6.3):
1e-16 relative at the top, 1e-8 at s_i = 1e-4·s₁, and nothing is left at 1e-8·s₁, which is why
directions under RANK_GUARD are never trusted. A float32 Gram would lose everything below 3e-4·s₁.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import numpy as np
import torch

from svdjobs.errors import NumericalError

RANK_GUARD = 1e-7
ENERGY_TOLERANCE = 1e-12
RESIDUAL_TOLERANCE = 1e-12
CHUNK_ELEMENTS = 1 << 22


class _Found(NamedTuple):
    """What a route gives, before it is checked."""

    s_K: torch.Tensor
    basis_KK: torch.Tensor | None
    energy: float
    """‖W‖_F², from the elements."""


Route = Callable[[torch.Tensor, bool], _Found]


class Decomposition(NamedTuple):
    """Singular values and, if asked for, the vectors of the square side."""

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
    V·s²·Vᵀ·x for one random x. If either fails, a direct float64 SVD is taken instead.

    Raises:
        NumericalError: the direct SVD fails the checks too.
    """
    failures: list[str] = []
    routes: tuple[tuple[Literal["gram", "svd"], Route], ...] = (
        ("gram", _gram_route),
        ("svd", _svd_route),
    )
    for method, route in routes:
        try:
            found = _checked(w_MN, *route(w_MN, vectors), method=method)
        except (np.linalg.LinAlgError, RuntimeError) as error:  # did not converge
            failures.append(f"{method}: {error}")
            continue
        if _sound(found):
            return found
        failures.append(f"{method}: {found.checks}")
    raise NumericalError(
        f"two decompositions failed: {'; '.join(failures)}; tolerances are energy "
        f"{ENERGY_TOLERANCE}, residual {RESIDUAL_TOLERANCE}"
    )


def gram(w_MN: torch.Tensor) -> np.ndarray:
    """Float64 Gram matrix of the smaller side, K×K: WᵀW where M >= N, W·Wᵀ otherwise.

    Accumulated over chunks of the longer side, so no float64 copy of W ever exists. numpy turns
    `a.T @ a` into BLAS syrk, half the work of a general product; torch does not.
    """
    return gram_and_energy(w_MN)[0]


def gram_and_energy(w_MN: torch.Tensor) -> tuple[np.ndarray, float]:
    """The Gram matrix, and ‖W‖_F² summed over the elements in the same pass over them."""
    k = min(w_MN.shape)
    total_KK, energy = np.zeros((k, k)), 0.0
    for a_CK in long_side_chunks(w_MN):
        total_KK += a_CK.T @ a_CK
        energy += _square_sum(a_CK)
    return total_KK, energy


def _square_sum(a: np.ndarray) -> float:
    """Σa² without an array of squares."""
    flat = a.T.reshape(-1) if a.flags.f_contiguous else a.reshape(-1)
    return float(np.dot(flat, flat))


def long_side_chunks(
    w_MN: torch.Tensor, dtype: torch.dtype = torch.float64
) -> Iterator[np.ndarray]:
    """Pieces C×K of W (or of Wᵀ where M < N) along the longer side, in float64 unless told."""
    m, n = w_MN.shape
    step = max(256, CHUNK_ELEMENTS // max(1, min(m, n)))
    for start in range(0, max(m, n), step):
        if m >= n:
            yield w_MN[start : start + step].to(dtype).numpy()
        else:
            # A transposed view: copying a piece into the other order costs more than using it.
            yield w_MN[:, start : start + step].to(dtype).contiguous().numpy().T


def singular_values(gram_KK: np.ndarray) -> torch.Tensor:
    """float64 singular values, descending, from a Gram matrix."""
    return torch.from_numpy(np.sqrt(np.clip(np.linalg.eigvalsh(gram_KK)[::-1], 0, None)))


def fix_signs(basis_KK: torch.Tensor) -> torch.Tensor:
    """Make the largest-magnitude entry of each column positive.

    The other side is derived as W·v/s, so it follows: signs are fixed jointly, and U·diag(s)·Vh
    does not change.
    """
    largest_K = basis_KK.abs().argmax(dim=0)
    signs_K = basis_KK.gather(0, largest_K[None]).sign()
    return basis_KK * torch.where(signs_K == 0, 1.0, signs_K)


def rank(s_K: torch.Tensor) -> int:
    """Number of singular values above RANK_GUARD·s₁."""
    return int((s_K > RANK_GUARD * s_K[0]).sum()) if len(s_K) else 0


def stable_rank(s_K: torch.Tensor) -> float | None:
    """‖W‖_F²/s₁² (Rudelson & Vershynin 2007, arXiv:math/0503442); None for the zero matrix."""
    return float((s_K / s_K[0]).square().sum()) if len(s_K) and s_K[0] > 0 else None


def squared_norm(w_MN: torch.Tensor) -> float:
    """‖W‖_F² in float64, without a float64 copy."""
    return sum(_square_sum(a_CK) for a_CK in long_side_chunks(w_MN))


def _gram_route(w_MN: torch.Tensor, vectors: bool) -> _Found:
    gram_KK, energy = gram_and_energy(w_MN)
    if not vectors:
        return _Found(singular_values(gram_KK), None, energy)
    squares_K, basis_KK = np.linalg.eigh(gram_KK)
    s_K = torch.from_numpy(np.sqrt(np.clip(squares_K[::-1], 0, None)))
    return _Found(s_K, torch.from_numpy(basis_KK[:, ::-1].copy()), energy)


def _svd_route(w_MN: torch.Tensor, vectors: bool) -> _Found:
    w64_MN, energy = w_MN.to(torch.float64), squared_norm(w_MN)
    if not vectors:
        return _Found(torch.linalg.svdvals(w64_MN), None, energy)
    u_MK, s_K, vh_KN = torch.linalg.svd(w64_MN, full_matrices=False)
    basis_KK = (vh_KN.T if w_MN.shape[0] >= w_MN.shape[1] else u_MK).contiguous()
    return _Found(s_K, basis_KK, energy)


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
    """‖G·x − V·s²·Vᵀ·x‖ / (s₁²·‖x‖) for one fixed random x, without forming G."""
    x_K = torch.randn(len(s_K), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    direct_K = np.zeros(len(s_K))
    for a_CK in long_side_chunks(w_MN):
        direct_K += a_CK.T @ (a_CK @ x_K.numpy())
    composed_K = basis_KK @ (s_K.square() * (basis_KK.T @ x_K))
    scale = float(s_K[0].square() * x_K.norm()) if len(s_K) else 0.0
    return _relative(float((torch.from_numpy(direct_K) - composed_K).norm()), scale)


def _relative(error: float, scale: float) -> float:
    return error / scale if scale > 0 else error


def _sound(result: Decomposition) -> bool:
    """NaN compares false, so a decomposition that is not finite is never sound."""
    tolerances = {"energy": ENERGY_TOLERANCE, "residual": RESIDUAL_TOLERANCE}
    return all(error <= tolerances[name] for name, error in result.checks.items())


def thin_side(w_MN: torch.Tensor, basis_KK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(u_MK, vh_KN) in float64 from the matrix and its square-side vectors.

    A Householder QR of W·V, whose R is diag(s) up to sign, keeps the derived side orthonormal where
    W·v/s would not (small s), and completes it where s = 0.
    """
    m, n = w_MN.shape
    long_LK = (w_MN if m >= n else w_MN.T).to(torch.float64) @ basis_KK
    q_LK, r_KK = torch.linalg.qr(long_LK)
    signs_K = r_KK.diagonal().sign()
    q_LK = q_LK * torch.where(signs_K == 0, 1.0, signs_K)
    return (q_LK, basis_KK.T) if m >= n else (basis_KK, q_LK.T)
