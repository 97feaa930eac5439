"""How much of a blend survives being rounded to a storage dtype.

    realised fraction = ⟨cast(W(alpha)) − W_after, D⟩ / ((1−alpha)·‖D‖²)

1: the written checkpoint is the blend that was asked for. 0: it is the after checkpoint again.
"""

from __future__ import annotations

import torch

CAST_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def projection(
    w_after_C: torch.Tensor, d_C: torch.Tensor, w_alpha_C: torch.Tensor, dtype: torch.dtype
) -> float:
    """⟨cast(W(alpha)) − W_after, D⟩ of one chunk; all flat float32.

    The dot product is float32 within a chunk of a million or so, and chunks are added up in float64
    by the caller: the fraction is good to about 1e-5.
    """
    change_C = w_alpha_C.to(dtype).to(torch.float32) - w_after_C
    return float(torch.dot(change_C, d_C))


def signal(squared_norm: float, alpha: float) -> float:
    """(1−alpha)·‖D‖², what the projection is when nothing is lost."""
    return (1 - alpha) * squared_norm
