"""What a sweep costs, from shapes alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from svdjobs.checkpoint.safetensors_format import ITEM_BITS
from svdjobs.records import Estimate, TensorPlan

# Work of LAPACK's divide-and-conquer eigensolvers in units of K³ float64 operations at the speed of
# a matrix product: 9 and 4 by count (Golub & Van Loan, table 8.3), about half again as much in time
# because part of it is not matrix products. Measured at K = 256 … 1536 with OpenBLAS.
EIGH_FLOPS = 13.0
EIGVALSH_FLOPS = 5.0
# Elementwise work per blended element and alpha (blend, three casts, dot products, hashing and
# writing), in seconds on one machine.
ELEMENT_SECONDS = 11e-9


# Python with torch loaded; measured 495 MiB with the CUDA build.
PROCESS_BYTES = 500 << 20


def decompose_flops(shape: tuple[int, ...], *, vectors: bool) -> float:
    """Operations to decompose one matrix: Gram (half a product), then the eigen-problem."""
    m, n = shape
    k = min(m, n)
    return float(m * n * k) + (EIGH_FLOPS if vectors else EIGVALSH_FLOPS) * k**3


def blend_flops(shape: tuple[int, ...]) -> float:
    """Operations to form D: basis·diag(r)·basisᵀ, then W times that."""
    m, n = shape
    k = min(m, n)
    return 2.0 * k**3 + 2.0 * m * n * k


def peak_tensor_bytes(tensors: Sequence[TensorPlan]) -> int:
    """Memory one process needs at most for one tensor: W, D, and five K×K float64 matrices."""
    return max(
        (
            t.shape[0] * t.shape[1] * (ITEM_BITS[t.dtype] // 8 + 8) + 40 * min(t.shape) ** 2
            for t in tensors
        ),
        default=0,
    )


def balanced_parts(tensors: Sequence[TensorPlan], count: int) -> list[list[str]]:
    """Spread tensors over parts so that the dearest part is cheap: largest first, to the emptiest.

    The greedy rule is within 4/3 of the best (Graham 1969, doi:10.1137/0117039).
    """
    parts: list[list[str]] = [[] for _ in range(min(count, len(tensors)) or 1)]
    loads = [0.0] * len(parts)
    by_cost = sorted(tensors, key=lambda t: (-decompose_flops(t.shape, vectors=True), t.name))
    for tensor in by_cost:
        emptiest = loads.index(min(loads))
        parts[emptiest].append(tensor.name)
        loads[emptiest] += decompose_flops(tensor.shape, vectors=True)
    return [sorted(part) for part in parts]


def part_count(tensors: Sequence[TensorPlan]) -> int:
    """Parts of about 0.1 teraflop: one or two seconds of decomposing on two cores, ten of rotations
    with their nulls. That much is lost when a process is killed. At most 256."""
    total = sum(decompose_flops(tensor.shape, vectors=True) for tensor in tensors)
    return max(1, min(256, round(total / 1e11)))


def shard_count(tensors: Sequence[TensorPlan]) -> int:
    """Pods for one checkpoint: 50 teraflops each, minutes of 16 cores, since a pod costs half a
    minute to start."""
    total = sum(decompose_flops(tensor.shape, vectors=True) for tensor in tensors)
    return max(1, round(total / 5e13))


class OnThisMachine(NamedTuple):
    """What a plan takes here and now."""

    gflops: float
    """float64 matrix-product rate."""
    decompose_seconds: float
    blend_seconds: float


def on_this_machine(estimate: Estimate) -> OnThisMachine:
    """How long a plan's work takes on this machine."""
    rate = measured_flops_per_second()
    return OnThisMachine(
        rate / 1e9,
        estimate.decompose_flops / rate,
        estimate.blend_flops / rate + ELEMENT_SECONDS * estimate.blended_elements,
    )


def measured_flops_per_second(size: int = 768) -> float:
    """This machine's float64 matrix-product rate, right now."""
    import numpy as np

    a = np.random.default_rng(0).standard_normal((size, size))
    a @ a
    started = time.perf_counter()
    rounds = 4
    for _ in range(rounds):
        a @ a
    return rounds * 2 * size**3 / (time.perf_counter() - started)
