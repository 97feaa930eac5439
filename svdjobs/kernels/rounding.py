"""Estimate what storing in 16 bits alone does to weights and to their singular values.

Rounding to a grid of spacing u moves a weight by an amount that is uniform in ±u/2, with variance
u²/12 (Widrow & Kollár 2008, "Quantization Noise", chapter 5). If two checkpoints are stored that
way, their difference contains this noise E besides the effect of training. To first order, E shifts
singular value i by u_iᵀ·E·v_i, with variance ‖E‖²/(M·N) if E has no preferred direction. Over all
singular values this is

    ‖Δs‖ / ‖s‖ ≈ ‖E‖/‖W‖ / √max(M, N).

If both checkpoints were rounded, a weight that moved less than u often has the same bits in both.
Let x = (true move)/u, with the weight at a random place in its cell. The rounded move then has the
variance x·(1 − x)·u² if x < 1, and u²/6 on average otherwise. Its mean is the true move, so the
mean of all moves estimates x.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import ml_dtypes
import numpy as np
import numpy.typing as npt

Values = npt.NDArray[Any]
Grid = Literal["bfloat16", "float16"]
_DTYPES: dict[Grid, Any] = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


class Noise(NamedTuple):
    """Squared norms: of the rounding noise in the difference of two checkpoints, and of weights."""

    noise: float
    weights: float


def grid(w: Values) -> Grid | None:
    """Return the coarsest 16-bit dtype that holds every value exactly; None if there is none."""
    w = w.astype(np.float64)
    for name, dtype in _DTYPES.items():
        with np.errstate(over="ignore"):  # a value beyond the dtype becomes infinite: not equal
            there_and_back = w.astype(dtype).astype(np.float64)
        if np.array_equal(there_and_back, w):
            return name
    return None


def noise_between(before: Values, after: Values) -> Noise:
    """Return the expected ‖E‖² that rounding adds to after − before, from values of one matrix.

    It is 0 if neither checkpoint's values lie on the grid of a 16-bit dtype.
    """
    before, after = before.astype(np.float64), after.astype(np.float64)
    weights, grids = float(np.square(after).sum()), (grid(before), grid(after))
    if grids[0] is not None and grids[0] == grids[1]:
        return Noise(_noise_on_one_grid(before, after, _DTYPES[grids[0]]), weights)
    noise = [
        float(np.square(_spacing(w, _DTYPES[name])).sum()) / 12
        for w, name in zip((before, after), grids, strict=True)
        if name is not None
    ]
    return Noise(math.fsum(noise), weights)


def relative_shift(noise: float, shape: tuple[int, ...]) -> float:
    """Return ‖Δs‖/‖s‖ from noise of relative size ‖E‖/‖W‖ in a matrix of this shape."""
    return noise / math.sqrt(max(shape))


def _noise_on_one_grid(before: Values, after: Values, dtype: Any) -> float:
    """Return Σ u²·min(mean move/u, 1/6) over all weights. Each spacing u has its own mean move."""
    spacings, moves = _spacing(after, dtype), np.abs(after - before)
    total = 0.0
    for u in np.unique(spacings).tolist():
        moves_at_u = moves[spacings == u]
        total += len(moves_at_u) * u * u * min(float(moves_at_u.mean()) / u, 1 / 6)
    return total


def _spacing(w: Values, dtype: Any) -> Values:
    """Return the distance between neighbours on the dtype's grid at each value."""
    about: Any = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    _, exponent = np.frexp(np.maximum(np.abs(w), float(about.smallest_normal)))
    spacing: Values = np.ldexp(float(about.eps), exponent - 1)
    return spacing
