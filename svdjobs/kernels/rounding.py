"""What storing weights in 16 bits does to them, and to their singular values, on its own.

Rounding to a grid of spacing u moves a weight by an amount that is uniform in ±u/2, of variance
u²/12 (Widrow & Kollár 2008, "Quantization Noise", chapter 5). A pair of checkpoints stored that way
differs by this noise E beside what training did. Its first-order shift of singular value i is
u_iᵀ·E·v_i, of variance ‖E‖²/(M·N) for noise without direction, so over all of them

    ‖Δs‖ / ‖s‖ ≈ ‖E‖/‖W‖ / √max(M, N).

Where both were rounded, a weight that moved less than u has often the same bits in both. With x =
(true move)/u and a random place in the cell, the rounded move has the variance x·(1 − x)·u² below
a spacing, and u²/6 on average beyond. Its mean is the true move: the mean of all moves tells x.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch

Grid = Literal["bfloat16", "float16"]
_DTYPES: dict[Grid, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Noise(NamedTuple):
    """Squared norms of some weights and of the noise in what two checkpoints' differ by."""

    noise: float
    weights: float


def grid(w: torch.Tensor) -> Grid | None:
    """The coarsest 16-bit dtype that holds every one of these values, or None."""
    w = w.to(torch.float64)
    for name, dtype in _DTYPES.items():
        if torch.equal(w.to(dtype).to(torch.float64), w):
            return name
    return None


def noise_between(before: torch.Tensor, after: torch.Tensor) -> Noise:
    """Expected ‖E‖² of what rounding adds to after − before, from values of one matrix each.

    0 where neither lies on the grid of a 16-bit dtype.
    """
    before, after = before.to(torch.float64), after.to(torch.float64)
    weights, grids = float(after.square().sum()), (grid(before), grid(after))
    if grids[0] is not None and grids[0] == grids[1]:
        return Noise(_of_both(before, after, _DTYPES[grids[0]]), weights)
    found = [
        float(_spacing(w, _DTYPES[name]).square().sum()) / 12
        for w, name in zip((before, after), grids, strict=True)
        if name is not None
    ]
    return Noise(math.fsum(found), weights)


def relative_shift(noise: float, shape: tuple[int, ...]) -> float:
    """‖Δs‖/‖s‖ that noise of that relative size, ‖E‖/‖W‖, makes in a matrix of that shape."""
    return noise / math.sqrt(max(shape))


def _of_both(before: torch.Tensor, after: torch.Tensor, dtype: torch.dtype) -> float:
    """Σ u²·min(mean move/u, 1/6), by spacing u."""
    spacings, moves = _spacing(after, dtype), (after - before).abs()
    total = 0.0
    for u in torch.unique(spacings).tolist():
        of_that = moves[spacings == u]
        total += len(of_that) * u * u * min(float(of_that.mean()) / u, 1 / 6)
    return total


def _spacing(w: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Distance of neighbours on a dtype's grid at each value."""
    about = torch.finfo(dtype)
    _, exponent = torch.frexp(w.abs().clamp_min(about.tiny))
    return torch.ldexp(torch.full_like(w, about.eps), exponent - 1)
