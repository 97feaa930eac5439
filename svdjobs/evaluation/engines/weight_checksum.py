"""Checksums of the weights in a running engine, which survive fusing and sharding."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

INTEGERS = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}


def bit_sum(tensor: torch.Tensor) -> int:
    """Sum of a tensor's elements read as integers, modulo 2⁶⁴.

    Exact, and changed by any single changed value. It is additive over fusing, zero padding and
    sharding, unlike a hash.
    """
    import torch

    integers: torch.dtype = getattr(torch, INTEGERS[tensor.element_size()])
    return int(tensor.contiguous().view(integers).sum(dtype=torch.int64)) % 2**64


def packed_name(name: str, packed: Mapping[str, Sequence[str]]) -> str:
    """vLLM's name of the parameter that holds a checkpoint tensor: q_proj, k_proj → qkv_proj."""
    for fused, parts in packed.items():
        for part in parts:
            parameter, count = re.subn(rf"(^|\.){re.escape(part)}(?=\.)", rf"\g<1>{fused}", name)
            if count:
                return parameter
    return name
