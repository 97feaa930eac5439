"""Measure how much of a blend survives a cast to a dtype, and how much noise the cast adds.

    realised fraction = ⟨cast(W(alpha)) − W_after, D⟩ / ((1−alpha)·‖D‖²)
    error             = ‖[cast(W(alpha)) − cast(W_after)] − (1−alpha)·D‖ / ‖(1−alpha)·D‖

The fraction is a projection. Near 0, the written checkpoint equals `after`. But a fraction of 1
does not mean that it equals the blend: if the weights of `after` do not lie on the dtype's grid,
rounding errors are independent of D and average out in the fraction, however large they are. They
do not average out in the error, which compares the difference that two checkpoints have in the
dtype with the difference that they should have.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

CAST_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Kept(NamedTuple):
    """Sums over one chunk of a blend after a cast. The sums of all chunks add up."""

    projection: float
    """⟨cast(W(alpha)) − W_after, D⟩."""
    error: float
    """‖[cast(W(alpha)) − cast(W_after)] − (1−alpha)·D‖²."""


class Cast:
    """A chunk of W_after and of D in one dtype: what the casts of its blends have in common.

    All tensors are flat and float32. Within a chunk of about a million elements, the dot products
    are in float32. The caller adds up the chunks in float64. The fraction is then accurate to about
    1e-5.
    """

    def __init__(self, w_after_C: torch.Tensor, d_C: torch.Tensor, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._d_C = d_C
        self._after_C = rounded(w_after_C, dtype)
        # ⟨cast(W_after) − W_after, D⟩, which is in the projection of every alpha.
        apart = self._after_C is not w_after_C
        self._bias = float(torch.dot(self._after_C - w_after_C, d_C)) if apart else 0.0

    def kept(self, w_alpha_C: torch.Tensor, alpha: float) -> Kept:
        """Return the sums over the chunk of a blend."""
        change_C = rounded(w_alpha_C, self._dtype)
        # In place, unless the cast was none and this is the blend itself.
        if change_C is w_alpha_C:
            change_C = change_C - self._after_C
        else:
            change_C.sub_(self._after_C)
        projection = float(torch.dot(change_C, self._d_C)) + self._bias
        error_C = change_C.sub_(self._d_C, alpha=1 - alpha)
        return Kept(projection, float(torch.dot(error_C, error_C)))


def rounded(w: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast a float32 tensor to a dtype and back to float32; for float32 it is the tensor itself.

    Values beyond the range of float16 become its largest value, to keep sums finite.
    """
    if dtype == torch.float16:
        largest = torch.finfo(dtype).max
        return w.to(dtype).clamp_(-largest, largest).to(torch.float32)
    return w.to(dtype).to(torch.float32)


def signal(squared_norm: float, alpha: float) -> float:
    """Return (1−alpha)·‖D‖², the projection if the cast loses nothing."""
    return (1 - alpha) * squared_norm
