"""A list of checkpoints: how far each matrix moved from the first, and along which way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch

from svdjobs.kernels.metrics.pair import gap_near
from svdjobs.kernels.rotation import Bases, overlaps
from svdjobs.kernels.spectrum import rank

LEADING = 16


class Trajectory(NamedTuple):
    """The way of one matrix W_0, W_1, … W_n. Without a move, what divides by it is None."""

    from_first: list[float]
    """‖W_i − W_0‖/‖W_0‖ for i = 1 … n."""
    from_previous: list[float]
    """‖W_i − W_{i−1}‖/‖W_0‖."""
    cosines: list[list[float | None]]
    """cos(W_i − W_{i−1}, W_j − W_{j−1}): 1 for equal directions, about 0 for unrelated ones."""
    straightness: float | None
    """Chord over path, ‖W_n − W_0‖/Σ‖W_i − W_{i−1}‖: 1 for a straight way, 1/√n for a random walk
    of equal steps (Gur-Ari, Roberts & Dyer 2018, arXiv:1812.04754, compare such steps)."""
    affinity_first: list[float | None]
    """Mean cos² between the leading right and left subspaces of W_i and W_0; None for rank 0."""
    affinity_previous: list[float | None]


def trajectory(matrices: Sequence[Bases]) -> Trajectory:
    """Measure the way of one matrix through two or more checkpoints."""
    moves = [
        own.w_MN.to(torch.float64) - before.w_MN.to(torch.float64)
        for before, own in pairwise(matrices)
    ]
    scale = float(matrices[0].s_K.norm()) or 1.0
    gram = [[float((a * b).sum()) for b in moves] for a in moves]
    norms = [math.sqrt(gram[i][i]) for i in range(len(moves))]
    chords = [
        math.sqrt(max(0.0, math.fsum(gram[a][b] for a in range(i + 1) for b in range(i + 1))))
        for i in range(len(moves))
    ]
    path = math.fsum(norms)
    return Trajectory(
        [chord / scale for chord in chords],
        [norm / scale for norm in norms],
        [
            [_cosine(gram[i][j], norms[i] * norms[j]) for j in range(len(moves))]
            for i in range(len(moves))
        ],
        chords[-1] / path if path else None,
        [_affinity(matrices[0], own) for own in matrices[1:]],
        [_affinity(a, b) for a, b in pairwise(matrices)],
    )


def _cosine(product: float, scale: float) -> float | None:
    return max(-1.0, min(1.0, product / scale)) if scale else None


def _affinity(a: Bases, b: Bases) -> float | None:
    count = min(rank(a.s_K), rank(b.s_K))
    if not count:
        return None
    t = gap_near(a.s_K[:count], LEADING)
    both = overlaps(a, b, t)
    shared = sum(float(side_TT.square().sum()) for side_TT in both)
    return min(1.0, shared / (2 * t))
