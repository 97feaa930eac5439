"""Metrics of the update ΔW = W_after − W_before: how large, how structured, and where it lies."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from svdjobs.kernels.metrics.pair import KS, Pair
from svdjobs.kernels.metrics.registry import Values, metric
from svdjobs.kernels.rotation import touchable_share
from svdjobs.kernels.spectrum import stable_rank

SMALLEST_SPIKE = 1e-3
"""Smallest direction that counts, of the update's largest one. Below are roundings of an update of
low rank, which are not noise of one variance."""
TRACY_WIDOM_99 = 2.0234
"""99 % quantile of the Tracy–Widom law of order 1 (Bejan 2005, table 2)."""
SHOWN = 40
"""Most values of a spectrum that a figure shows."""
_SAMPLED = 1 << 16
NO_VECTORS = "none: it does not depend on singular vectors"


@metric(
    formula="‖ΔW‖_F / ‖W_before‖_F",
    null="equal, by construction: the null is an update of this norm",
    clusters=NO_VECTORS,
    pitfalls="16-bit storage alone moves a matrix by about 1e-3 of its norm in bfloat16.",
    source="-",
)
def update_norm(pair: Pair) -> float | None:
    """Size of the update, relative to the matrix."""
    return pair.update_norm / pair.before_norm if pair.before_norm else None


@metric(
    formula="‖ΔW‖_F²/s₁(ΔW)²",
    null="mn/(√m + √n)² for Gaussian noise",
    clusters=NO_VECTORS,
    pitfalls="It says how flat the spectrum is, not how many directions stand out: see `spikes`.",
    source="Rudelson & Vershynin 2007, arXiv:math/0503442",
)
def update_stable_rank(pair: Pair) -> float | None:
    """Number of directions that the update is spread over, by its largest one."""
    return stable_rank(pair.update_values)


@metric(
    formula="Σ_{i≤k} s_i(ΔW)² / ‖ΔW‖², for k = 16, 64, 256",
    null="about k/K times the ratio of a large to a mean eigenvalue of the Marchenko–Pastur law",
    clusters=NO_VECTORS,
    pitfalls="For k near K it is near 1 for any update.",
    source="Eckart & Young 1936, doi:10.1007/BF02288367",
)
def update_top_energy(pair: Pair) -> Values:
    """Share of the update that its best approximation of rank k has."""
    if not pair.update_norm:
        return {}
    energies_K = pair.update_values.square()
    return {str(k): float(energies_K[:k].sum() / energies_K.sum()) for k in KS if k < pair.k}


@metric(
    formula="number of s_i(ΔW)² above σ²·(μ + q·σ_TW): μ = (√(m−½) + √(n−½))², σ_TW = √μ·"
    "(1/√(m−½) + 1/√(n−½))^⅓, q the 99 % quantile of the Tracy–Widom law, σ from the median; and "
    "above s₁(ΔW)/1000",
    unit="directions",
    null="0 in 99 of 100 random updates",
    clusters=NO_VECTORS,
    pitfalls="Noise whose variance differs between rows or columns (that of 16-bit rounding does) "
    "has a wider bulk: then the count is too large. Compare with `update_structure`.",
    source="Johnstone 2001, doi:10.1214/aos/1009210544; the noise level by the median: Gavish & "
    "Donoho 2014, doi:10.1109/TIT.2014.2323359",
)
def spikes(pair: Pair) -> float | None:
    """Number of directions of the update that stand out of the bulk that noise would have."""
    if not pair.update_norm or pair.k < 16:
        return None
    floor = SMALLEST_SPIKE * float(pair.update_values[0])
    edge = max(floor, noise_edge(pair.update_values, pair.shape))
    return float((pair.update_values > edge).sum())


def noise_edge(s_K: torch.Tensor, shape: tuple[int, int]) -> float:
    """The singular value that the largest one of pure noise exceeds once in a hundred times, for
    noise with the same median singular value."""
    m, n = shape
    a, b = math.sqrt(m - 0.5), math.sqrt(n - 0.5)
    square = (a + b) ** 2 + TRACY_WIDOM_99 * (a + b) * (1 / a + 1 / b) ** (1 / 3)
    return noise_level(s_K, shape) * math.sqrt(square)


def noise_level(s_K: torch.Tensor, shape: tuple[int, int]) -> float:
    """Standard deviation of the entries of noise with the same median singular value (Gavish &
    Donoho 2014)."""
    m, n = shape
    return float(s_K.median()) / math.sqrt(max(m, n) * _median_of_bulk(min(m, n) / max(m, n)))


class UpdateSpectrum(NamedTuple):
    """Singular values of ΔW, divided by the upper edge of the bulk that noise would have."""

    places: list[int]
    """Places of the shown values in the spectrum, from 1; their logarithms are evenly spaced."""
    values: list[float]
    permuted: list[float]
    """The same for ΔW with its entries in random order."""
    lower_edge: float
    """Lower edge of the Marchenko–Pastur bulk, |√m − √n|/(√m + √n)."""
    noise_edge: float
    """What the largest value of pure noise exceeds once in a hundred times (Tracy–Widom)."""


def update_spectrum(pair: Pair) -> UpdateSpectrum | None:
    """The spectrum of the update beside the edges of noise (Marchenko & Pastur 1967,
    doi:10.1070/SM1967v001n04ABEH001994; Johnstone 2001). None without an update, or with fewer than
    16 values, of which the noise's level cannot be told."""
    if not pair.update_norm or pair.k < 16:
        return None
    m, n = pair.shape
    level = noise_level(pair.update_values, pair.shape)
    edge = level * (math.sqrt(m) + math.sqrt(n))
    if not edge:
        return None
    places = _log_spaced(pair.k)
    shown, permuted = (
        [float(s_K[place - 1]) / edge for place in places]
        for s_K in (pair.update_values, pair.permuted_values)
    )
    lower = abs(math.sqrt(m) - math.sqrt(n)) / (math.sqrt(m) + math.sqrt(n))
    return UpdateSpectrum(
        places, shown, permuted, lower, noise_edge(pair.update_values, pair.shape) / edge
    )


def _log_spaced(k: int) -> list[int]:
    """At most `SHOWN` whole numbers from 1 to k, about evenly spaced in their logarithm."""
    steps = [round(k ** (i / (SHOWN - 1))) for i in range(SHOWN)]
    return sorted({min(k, max(1, step)) for step in steps})


def _median_of_bulk(ratio: float) -> float:
    """Median of the Marchenko–Pastur law of a ratio of sides up to 1, with unit variance."""
    import numpy as np

    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    # Substituting x = low + (high − low)·sin²t removes the singularities at both ends.
    t = (np.arange(4096) + 0.5) / 4096 * math.pi / 2
    x = low + (high - low) * np.sin(t) ** 2
    weight = (np.sin(t) * np.cos(t)) ** 2 / x
    total = np.cumsum(weight)
    return float(x[int(np.searchsorted(total, total[-1] / 2))])


@metric(
    formula="‖s(ΔW) − s(permuted ΔW)‖ / ‖ΔW‖",
    null="near 0: noise in random order is noise",
    clusters=NO_VECTORS,
    pitfalls="It does not see structure that leaves the spectrum alone, e.g. which rows changed.",
    source="permutation as a null of structure: Buja & Eyuboglu 1992, "
    "doi:10.1207/s15327906mbr2704_2",
)
def update_structure(pair: Pair) -> float | None:
    """How far the update's spectrum is from that of its own entries in random order."""
    if not pair.update_norm:
        return None
    apart = float((pair.update_values - pair.permuted_values).norm())
    return apart / pair.update_norm


@metric(
    formula="Σ_i (u_iᵀ·ΔW·v_i)² / ‖ΔW‖², with after's vectors",
    null="1/max(m, n)",
    clusters="defined for any basis of a cluster, but not the same for all of them: a cluster's "
    "block is not diagonal",
    pitfalls="Small for every update that turns vectors: even a large shift of values is a small "
    "share then.",
    source="W(alpha) − W_after has exactly this part of ΔW to first order",
)
def diagonal_share(pair: Pair) -> float | None:
    """Share of the update along u_i·v_iᵀ: all that a blend of singular values can change."""
    return touchable_share(pair.before.w_MN, pair.after)


@metric(
    formula="shares of ‖ΔW‖² in U_k·U_kᵀ·ΔW·V_k·V_kᵀ (top), in U_k·U_kᵀ·ΔW·(1 − V_k·V_kᵀ) (left), "
    "in (1 − U_k·U_kᵀ)·ΔW·V_k·V_kᵀ (right), and in the rest, with before's vectors",
    null="k²/mn, k(n − k)/mn, (m − k)k/mn, (m − k)(n − k)/mn",
    clusters="the end of the subspace is put where before's spectrum has a gap",
    pitfalls="Weight decay puts the update into the top block.",
    source="block perturbation theory (Stewart & Sun 1990, section V.2)",
)
def blocks(pair: Pair) -> Values:
    """Where the update lies in before's basis: between leading directions, or beside them."""
    found: dict[str, float | None] = {}
    for k, cut in pair.cuts.items():
        if not pair.update_norm:
            continue
        u_MT, v_NT = (pair.leading(side, cut)[0] for side in ("u", "v"))
        left_TN, right_MT = u_MT.T @ pair.update, pair.update @ v_NT
        total = pair.update_norm**2
        top = float((left_TN @ v_NT).square().sum()) / total
        left = float(left_TN.square().sum()) / total - top
        right = float(right_MT.square().sum()) / total - top
        shares = {"top": top, "left": left, "right": right, "rest": 1 - top - left - right}
        found |= {f"{k}.{name}": max(0.0, share) for name, share in shares.items()}
    return found


@metric(
    formula="share of entries with bf16(W_after) = bf16(W_before): of all, and of the tenth with "
    "the largest and with the smallest |W_before|",
    null="computed from the noise: large entries hide more",
    clusters=NO_VECTORS,
    pitfalls="Large entries have coarse steps, so they seem unchanged for any small update: "
    "compare with the null.",
    source="bfloat16 has 8 bits of precision: steps of 2⁻⁸ relative to a power of two",
)
def unchanged_in_bf16(pair: Pair) -> Values:
    """Share of the entries that a bfloat16 copy does not change."""
    before_MN = pair.before.w_MN
    same = before_MN.to(torch.bfloat16) == pair.after.w_MN.to(torch.bfloat16)
    size_MN = before_MN.abs()
    # Every so-many-th entry is enough to know a tenth.
    some = size_MN.reshape(-1)[:: max(1, size_MN.numel() // _SAMPLED)].to(torch.float64)
    low, high = (float(torch.quantile(some, share)) for share in (0.1, 0.9))
    return {
        "all": float(same.double().mean()),
        "smallest": float(same[size_MN <= low].double().mean()),
        "largest": float(same[size_MN >= high].double().mean()),
    }
