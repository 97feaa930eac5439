"""Metrics of singular vectors: how leading subspaces turned, and what became of directions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from svdjobs.kernels.metrics.pair import Pair, gap_near
from svdjobs.kernels.metrics.registry import Values, metric

SIDES = ("u", "v")
LEADING = 16
"""Directions that are followed one by one; about, since the last is put before a gap."""
INTRUDER = 0.5
"""A direction of after is an intruder if no direction of before has a larger |cosine| with it."""
TIE = 1e-6
"""Singular values nearer than this share of the largest are one: their vectors are arbitrary."""
GAP = "the subspace ends where before's spectrum has a gap, so near-equal values are not cut"


def _each(pair: Pair) -> Iterator[tuple[str, torch.Tensor]]:
    """Name, and sines of the principal angles, of the leading subspaces of each side and k."""
    for side in SIDES:
        for k, cut in pair.cuts.items():
            yield f"{side}.{k}", pair.sines(side, cut)


@metric(
    formula="√(mean sin²θ_i), and sin θ_max, of the principal angles θ",
    null="about ‖ΔW‖·√(2/mn)/gap for a small random update",
    clusters=GAP,
    pitfalls="Two subspaces of a small gap to the rest turn far under any noise: compare with the "
    "null, not with 0.",
    source="Björck & Golub 1973, doi:10.2307/2005662; sine form: Knyazev & Argentati 2002, "
    "doi:10.1137/S1064827500377332",
)
def sine(pair: Pair) -> Values:
    """How far the leading left and right subspaces turned."""
    found: dict[str, float | None] = {}
    for name, sines_T in _each(pair):
        found[f"{name}.rms"] = float(sines_T.square().mean().sqrt())
        found[f"{name}.max"] = float(sines_T[0])
    return found


@metric(
    formula="‖U_beforeᵀ·U_after‖_F²/k = mean cos²θ_i",
    null="1 − (rms sine)²; k/d for unrelated subspaces of d dimensions",
    clusters=GAP,
    pitfalls="Near 1 for small rotations, where `sine` has more digits.",
    source="Soltanolkotabi & Candès 2012, doi:10.1214/12-AOS1034",
)
def affinity(pair: Pair) -> Values:
    """How much of the leading subspaces is shared."""
    return {name: 1 - float(sines_T.square().mean()) for name, sines_T in _each(pair)}


@metric(
    formula="√(Σ sin²θ_i)",
    null="√k times that of `sine`",
    clusters=GAP,
    pitfalls="It grows with k: compare equal k only.",
    source="Conway, Hardin & Sloane 1996, doi:10.1080/10586458.1996.10504585",
)
def chordal(pair: Pair) -> Values:
    """Chordal distance of the leading subspaces."""
    return {name: float(sines_T.norm()) for name, sines_T in _each(pair)}


@metric(
    formula="‖R − B‖_F/√k for the orthogonal R nearest to U_beforeᵀ·U_after and the nearest B that "
    "turns within clusters only (within), and the rms sine (out)",
    null="computed: noise mixes directions within the subspace, too",
    clusters="rotations within a cluster (values nearer than 2·‖ΔW‖₂) and signs do not count",
    pitfalls="Without `within` if the whole subspace is one cluster. A real update has a "
    "larger ‖ΔW‖₂ than a random one of its norm, so its clusters are larger.",
    source="orthogonal Procrustes problem: Schönemann 1966, doi:10.1007/BF02289451",
)
def procrustes(pair: Pair) -> Values:
    """Rotation split into that within the leading subspace and that out of it."""
    found: dict[str, float | None] = {}
    for side in SIDES:
        for k, cut in pair.cuts.items():
            before_LT, after_LT = pair.leading(side, cut)
            found[f"{side}.{k}.out"] = float(pair.sines(side, cut).square().mean().sqrt())
            if pair.clusters[0].stop >= cut:  # any rotation within may be one of equal values
                found[f"{side}.{k}.within"] = None
                continue
            x_TT, _, yh_TT = torch.linalg.svd(before_LT.T @ after_LT)
            found[f"{side}.{k}.within"] = _beyond_clusters(x_TT @ yh_TT, pair.clusters)
    return found


def _beyond_clusters(turn_TT: torch.Tensor, clusters: Sequence[slice]) -> float:
    """‖R − B‖_F/√T for the nearest block-diagonal B of rotations within clusters. For a cluster of
    one this is a sign, which is a convention."""
    t = len(turn_TT)
    apart_TT = turn_TT.clone()
    for cluster in clusters:
        inside = slice(cluster.start, min(cluster.stop, t))
        if inside.start >= t:
            break
        x_CC, _, yh_CC = torch.linalg.svd(turn_TT[inside, inside])
        apart_TT[inside, inside] -= x_CC @ yh_CC
    return float(apart_TT.norm()) / math.sqrt(t)


@metric(
    formula="√(mean ‖U_cᵀ·U′_c‖²/|c|) over the leading 16 directions, c a cluster of before",
    null="√(mean |c|/d) for unrelated bases of d dimensions, and near 1 for a small random update",
    clusters="directions that the update can make change places (values nearer than 2·‖ΔW‖₂) are "
    "compared as a subspace: no swap looks like a rotation",
    pitfalls="If the whole spectrum is one cluster, it is 1 by construction: see `resolved`.",
    source="Weyl 1912, doi:10.1007/BF01456804, for the clusters",
)
def agreement(pair: Pair) -> Values:
    """How much of each leading direction of before is the same direction of after."""
    found: dict[str, float | None] = {}
    for side in SIDES if pair.rank else ():
        overlap_RR = pair.side(side)
        shared, count, single = 0.0, 0, 0
        for cluster in pair.clusters:
            if cluster.start >= LEADING:
                break
            shared += float(overlap_RR[cluster, cluster].square().sum())
            count += cluster.stop - cluster.start
            single += cluster.stop - cluster.start == 1
        found[side] = math.sqrt(min(1.0, shared / count))
        found["resolved"] = float(single)
    return found


@metric(
    formula="√(mean_i max_c ‖U_cᵀ·u′_i‖²) over after's leading 16 directions, c a set of before's "
    "directions with equal values",
    null="√(2·ln K/d) for unrelated bases of d dimensions, and near 1 for a small random update",
    clusters="values equal to 1e-6 count as one set; order does not matter",
    pitfalls="Two near-equal directions that mixed give 0.7 each, which no rotation out of their "
    "plane need have caused.",
    source="maximum of K squared cosines of random directions: Cai, Fan & Jiang 2013, JMLR 14",
)
def best_match(pair: Pair) -> Values:
    """How well each of after's leading directions is found among those of before."""
    return {side: float(_matches(pair, side).square().mean().sqrt()) for side in SIDES if pair.rank}


@metric(
    formula="number of after's leading 16 directions with max_c ‖U_cᵀ·u′_i‖ < 0.5",
    unit="directions",
    null="0 for a small random update",
    clusters="as in `best_match`",
    pitfalls="Of the decomposition of W_after, not of ΔW. Near-equal directions that an update "
    "mixed evenly are intruders by this count, too.",
    source="Shuttleworth, Andreas, Torralba & Sharma 2024, “LoRA vs full fine-tuning: an "
    "illusion of equivalence”, arXiv:2410.21228",
)
def intruders(pair: Pair) -> Values:
    """Number of after's leading directions that are none of before's."""
    return {side: float((_matches(pair, side) < INTRUDER).sum()) for side in SIDES if pair.rank}


def _matches(pair: Pair, side: str) -> torch.Tensor:
    """max over sets c of ‖U_cᵀ·u′_i‖ for after's leading directions i."""
    overlap_RT = pair.side(side)[:, : gap_near(pair.after.s_K[: pair.rank], LEADING)]
    s_R = pair.before.s_K[: pair.rank]
    new = torch.ones_like(s_R, dtype=torch.bool)
    new[1:] = (s_R[:-1] - s_R[1:]) > TIE * s_R[0]
    which_R = new.cumsum(0) - 1
    sums = overlap_RT.new_zeros(int(which_R[-1]) + 1, overlap_RT.shape[1])
    sums.index_add_(0, which_R, overlap_RT.square())
    return sums.max(dim=0).values.sqrt()
