"""Products and eigenvalues of float64 matrices on the device where they are.

On CPUs this is NumPy: it turns `aᵀ·a` into BLAS syrk, half the work of a general product, and torch
does not; its `eigh` also scales better over threads that each have a matrix. On a GPU it is torch,
that is cuBLAS and cuSOLVER. One matrix at a time is decomposed there: cuSOLVER's batched solver (a
Jacobi method) is the faster one only up to about 32 rows.
"""

from __future__ import annotations

import numpy as np
import torch


def self_product(a_CK: torch.Tensor) -> torch.Tensor:
    """Return aᵀ·a, K×K."""
    if a_CK.is_cuda:
        return a_CK.T @ a_CK
    a = a_CK.numpy()
    return torch.from_numpy(a.T @ a)


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a·b; a vector counts as a column."""
    return a @ b if a.is_cuda else torch.from_numpy(a.numpy() @ b.numpy())


def product_into(out: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """Write a·b to `out`, which may have a narrower dtype."""
    if out.is_cuda:
        out.copy_(a @ b)
    else:
        np.matmul(a.numpy(), b.numpy(), out=out.numpy(), casting="same_kind")


def eigh(a_KK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the eigenvalues of a symmetric matrix, descending, and its eigenvectors as columns.

    Raises:
        RuntimeError, numpy.linalg.LinAlgError: the solver does not converge.
    """
    if a_KK.is_cuda:
        values_K, vectors_KK = torch.linalg.eigh(a_KK)
        return values_K.flip(0), vectors_KK.flip(1)
    values, vectors = np.linalg.eigh(a_KK.numpy())
    return torch.from_numpy(values[::-1].copy()), torch.from_numpy(vectors[:, ::-1].copy())


def eigvalsh(a_KK: torch.Tensor) -> torch.Tensor:
    """Return the eigenvalues of a symmetric matrix, descending.

    Raises:
        RuntimeError, numpy.linalg.LinAlgError: the solver does not converge.
    """
    if a_KK.is_cuda:
        found: torch.Tensor = torch.linalg.eigvalsh(a_KK).flip(0)
        return found
    return torch.from_numpy(np.linalg.eigvalsh(a_KK.numpy())[::-1].copy())


def square_sum(a: torch.Tensor) -> float:
    """Return Σa² without an array of squares, and without a copy of a transposed one."""
    flat = (a.T if a.ndim == 2 and a.T.is_contiguous() else a).reshape(-1)
    return float(flat @ flat) if a.is_cuda else float(np.dot(flat.numpy(), flat.numpy()))
