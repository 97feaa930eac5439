"""Planted pairs of matrices: after is before plus an update of known relative norm."""

from __future__ import annotations

from collections.abc import Callable

import torch

Pair = tuple[torch.Tensor, torch.Tensor]


def gaussian(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def orthonormal(rows: int, columns: int, seed: int) -> torch.Tensor:
    q: torch.Tensor = torch.linalg.qr(gaussian(rows, columns, seed=seed))[0]
    return q


def with_spectrum(m: int, n: int, s: torch.Tensor, seed: int = 0) -> torch.Tensor:
    k = len(s)
    return (orthonormal(m, k, seed) * s) @ orthonormal(n, k, seed + 1).T


def updated(before: torch.Tensor, relative: float, seed: int = 9) -> Pair:
    update = gaussian(*before.shape, seed=seed)
    after = before + update * (relative * before.norm() / update.norm())
    return before.to(torch.float32), after.to(torch.float32)


def _decaying(k: int, decades: float) -> torch.Tensor:
    return torch.logspace(0, -decades, k, dtype=torch.float64)


BEFORE: dict[str, Callable[[], torch.Tensor]] = {
    "tall": lambda: gaussian(96, 40, seed=1),
    "wide": lambda: gaussian(40, 96, seed=2),
    "square": lambda: gaussian(64, 64, seed=3),
    "one_row": lambda: gaussian(1, 50, seed=4),
    "one_column": lambda: gaussian(50, 1, seed=5),
    "one_element": lambda: gaussian(1, 1, seed=6),
    "rank_deficient": lambda: with_spectrum(80, 48, torch.linspace(1, 0.1, 20).double()),
    "repeated": lambda: with_spectrum(80, 48, torch.tensor([3.0] * 16 + [1.0] * 32).double()),
    "ill_conditioned": lambda: with_spectrum(90, 48, _decaying(48, 6)),
}
RELATIVE = (1e-4, 1e-3, 1e-2, 1e-1)


def pair(kind: str, relative: float) -> Pair:
    return updated(BEFORE[kind](), relative)


def truth(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return W(0) − W_after from two float64 SVDs; guarded directions stay unchanged."""
    s_before = torch.linalg.svdvals(before.double())
    u, s, vh = torch.linalg.svd(after.double(), full_matrices=False)
    kept = s > 1e-7 * s[0]
    d: torch.Tensor = (u * torch.where(kept, s_before - s, 0.0)) @ vh
    return d
