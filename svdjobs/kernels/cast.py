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


def kept(
    w_after_C: torch.Tensor,
    d_C: torch.Tensor,
    w_alpha_C: torch.Tensor,
    alpha: float,
    dtype: torch.dtype,
) -> Kept:
    """Return the sums over one chunk after a cast. All tensors are flat and float32.

    Within a chunk of about a million elements, the dot products are in float32. The caller adds up
    the chunks in float64. The fraction is then accurate to about 1e-5.
    """
    rounded_C = rounded(w_alpha_C, dtype)
    projection = float(torch.dot(rounded_C - w_after_C, d_C))
    error_C = rounded_C - rounded(w_after_C, dtype)
    error_C.sub_(d_C, alpha=1 - alpha)
    return Kept(projection, float(torch.dot(error_C, error_C)))


def rounded(w: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Cast a float32 tensor to a dtype and back to float32.

    Values beyond the range of float16 become its largest value, to keep sums finite.
    """
    if dtype == torch.float16:
        largest = torch.finfo(dtype).max
        return w.to(dtype).clamp_(-largest, largest).to(torch.float32)
    return w.to(dtype).to(torch.float32)


def signal(squared_norm: float, alpha: float) -> float:
    """Return (1−alpha)·‖D‖², the projection if the cast loses nothing."""
    return (1 - alpha) * squared_norm
