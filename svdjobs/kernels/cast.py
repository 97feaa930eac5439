"""How much of a blend survives being rounded to a storage dtype.

    realised fraction = ⟨cast(W(alpha)) − W_after, D⟩ / ((1−alpha)·‖D‖²)

1: the written checkpoint is the blend that was asked for. 0: it is the after checkpoint again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

CAST_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Realised(NamedTuple):
    """Numerator and denominator, so that chunks and tensors add up."""

    projection: float
    """⟨cast(W(alpha)) − W_after, D⟩."""
    signal: float
    """(1−alpha)·‖D‖²."""


def realised(
    w_after_C: torch.Tensor,
    d_C: torch.Tensor,
    w_alpha_C: torch.Tensor,
    alpha: float,
    dtype: torch.dtype,
) -> Realised:
    """Projection and signal of one chunk; w_after and w_alpha in float32, flat.

    Dot products are float32 within a chunk of a million or so and float64 between chunks: the
    fraction is good to about 1e-5.
    """
    change_C = w_alpha_C.to(dtype).to(torch.float32) - w_after_C
    return Realised(float(torch.dot(change_C, d_C)), (1 - alpha) * float(torch.dot(d_C, d_C)))
