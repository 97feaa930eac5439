"""Estimates the cost of a sweep from tensor shapes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from svdjobs.checkpoint.safetensors_format import ITEM_BITS
from svdjobs.records import Estimate, TensorPlan

# Cost of LAPACK's divide-and-conquer eigensolvers, in multiples of K³ float64 operations at the
# speed of a matrix product. The counts are 9 and 4 (Golub & Van Loan, table 8.3). The time is about
# half again as much, because part of the work is no matrix product. Measured with OpenBLAS at
# K = 256 … 1536.
EIGH_FLOPS = 13.0
EIGVALSH_FLOPS = 5.0
# Seconds of elementwise work per blended element and alpha (blend, three casts, dot products,
# hashing and writing), measured on one machine.
ELEMENT_SECONDS = 11e-9
# Python with torch loaded; measured 495 MiB with the CUDA build.
PROCESS_BYTES = 500 << 20


def decompose_flops(shape: tuple[int, ...], *, vectors: bool) -> float:
    """Operations to decompose one matrix: half a product for the Gram matrix, then eigenvalues."""
    m, n = shape
    k = min(m, n)
    return float(m * n * k) + (EIGH_FLOPS if vectors else EIGVALSH_FLOPS) * k**3


def blend_flops(shape: tuple[int, ...]) -> float:
    """Operations to form D: basis·diag(r)·basisᵀ, then W times that."""
    m, n = shape
    k = min(m, n)
    return 2.0 * k**3 + 2.0 * m * n * k


def metrics_flops(shape: tuple[int, ...], draws: int) -> float:
    """Operations for the metrics of one matrix: two decompositions, and about the time of seventeen
    products with the matrix for it and for each random update, with which one more decomposition
    comes. Measured on matrices of a model of 1.5 billion parameters, heads included."""
    m, n = shape
    products = 34.0 * m * n * min(m, n)
    decomposed = decompose_flops((m, n), vectors=True)
    return 2 * decomposed + products + draws * (decomposed + products)


def peak_tensor_bytes(tensors: Sequence[TensorPlan]) -> int:
    """Peak memory of one process for one tensor: W, D and five K×K float64 matrices."""
    return max(
        (
            t.shape[0] * t.shape[1] * (ITEM_BITS[t.dtype] // 8 + 8) + 40 * min(t.shape) ** 2
            for t in tensors
        ),
        default=0,
    )


def balanced_parts(tensors: Sequence[TensorPlan], count: int) -> list[list[str]]:
    """Divide tensors into parts of about the same cost. Returns the names in each part.

    Each tensor, the most expensive first, goes to the cheapest part. The costliest part is then at
    most 4/3 of the optimum (Graham 1969, doi:10.1137/0117039).
    """
    parts: list[list[str]] = [[] for _ in range(min(count, len(tensors)) or 1)]
    loads = [0.0] * len(parts)
    by_cost = sorted(tensors, key=lambda t: (-decompose_flops(t.shape, vectors=True), t.name))
    for tensor in by_cost:
        cheapest = loads.index(min(loads))
        parts[cheapest].append(tensor.name)
        loads[cheapest] += decompose_flops(tensor.shape, vectors=True)
    return [sorted(part) for part in parts]


def part_count(tensors: Sequence[TensorPlan]) -> int:
    """Number of parts of about 0.1 teraflop, at most 256.

    A process that is killed loses about one part: one or two seconds of `decompose` on two cores,
    or ten seconds of `rotations` with their nulls.
    """
    total = sum(decompose_flops(tensor.shape, vectors=True) for tensor in tensors)
    return max(1, min(256, round(total / 1e11)))


def shard_count(tensors: Sequence[TensorPlan]) -> int:
    """Number of pods that decompose one checkpoint.

    A pod takes half a minute to start, so each gets 50 teraflops, some minutes on 16 cores.
    """
    total = sum(decompose_flops(tensor.shape, vectors=True) for tensor in tensors)
    return max(1, round(total / 5e13))


class OnThisMachine(NamedTuple):
    """Estimated duration of a plan on this machine."""

    gflops: float
    """Measured rate of float64 matrix products."""
    decompose_seconds: float
    blend_seconds: float


def on_this_machine(estimate: Estimate) -> OnThisMachine:
    """Estimate how long a plan takes on this machine, from a short measurement."""
    rate = measured_flops_per_second()
    return OnThisMachine(
        rate / 1e9,
        estimate.decompose_flops / rate,
        estimate.blend_flops / rate + ELEMENT_SECONDS * estimate.blended_elements,
    )


def measured_flops_per_second(size: int = 768) -> float:
    """Measure the rate of float64 matrix products on this machine."""
    import numpy as np

    a = np.random.default_rng(0).standard_normal((size, size))
    a @ a  # warm-up
    started = time.perf_counter()
    rounds = 4
    for _ in range(rounds):
        a @ a
    return rounds * 2 * size**3 / (time.perf_counter() - started)
