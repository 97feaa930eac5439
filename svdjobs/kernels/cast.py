"""How much of a blend survives being rounded to a dtype, and how much noise the rounding adds.

    realised fraction = ⟨cast(W(alpha)) − W_after, D⟩ / ((1−alpha)·‖D‖²)
    error             = ‖[cast(W(alpha)) − cast(W_after)] − (1−alpha)·D‖ / ‖(1−alpha)·D‖

The fraction is a projection: near 0 it says that the written checkpoint is after again, but 1 does
not say that it is the blend. Where after's weights do not lie on the dtype's grid, rounding errors
are independent of D and average out in it, however large they are. The error does not let them: it
compares what two checkpoints in that dtype differ by with what they should differ by.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

CAST_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Kept(NamedTuple):
    """What one cast makes of a chunk of a blend; chunks add up."""

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
    """What a cast keeps of one chunk; all flat float32.

    The dot products are float32 within a chunk of a million or so, and chunks are added up in
    float64 by the caller: the fraction is good to about 1e-5.
    """
    rounded_C = rounded(w_alpha_C, dtype)
    projection = float(torch.dot(rounded_C - w_after_C, d_C))
    wrong_C = rounded_C - rounded(w_after_C, dtype)
    wrong_C.sub_(d_C, alpha=1 - alpha)
    return Kept(projection, float(torch.dot(wrong_C, wrong_C)))


def rounded(w: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A float32 tensor after a cast, in float32 again. What is beyond the range of float16 becomes
    its largest value, so that sums stay finite."""
    if dtype == torch.float16:
        largest = torch.finfo(dtype).max
        return w.to(dtype).clamp_(-largest, largest).to(torch.float32)
    return w.to(dtype).to(torch.float32)


def signal(squared_norm: float, alpha: float) -> float:
    """(1−alpha)·‖D‖², what the projection is when nothing is lost."""
    return (1 - alpha) * squared_norm
