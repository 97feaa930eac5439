"""Metrics of singular values: the spectra of before and after, and how one became the other."""

from __future__ import annotations

import math

import numpy as np
import torch

from svdjobs.kernels import rotation
from svdjobs.kernels.metrics.pair import KS, Pair, permuted
from svdjobs.kernels.metrics.registry import Values, metric
from svdjobs.kernels.spectrum import gram, singular_values, stable_rank

TAIL = 0.1
"""Share of the eigenvalues that are the tail of a power law."""
VALUES_ONLY = "none: only singular values, no vectors"


@metric(
    formula="‖s_after − s_before‖ / ‖s_before‖",
    null="r/√max(m, n) for a random update of relative norm r",
    clusters=VALUES_ONLY,
    pitfalls="A uniform scaling of the matrix moves every value; see `uniform_scale`.",
    source="first-order perturbation: Δs_i = u_iᵀ·ΔW·v_i (Stewart & Sun 1990, chapter IV)",
)
def nss(pair: Pair) -> float | None:
    """Normalised spectral shift: how far the singular values moved, relative to their norm."""
    return rotation.nss(pair.before.s_K, pair.after.s_K)


@metric(
    formula="c − 1 for the c that makes ‖s_after − c·s_before‖ smallest",
    null="about r²/2: noise adds its own energy",
    clusters=VALUES_ONLY,
    pitfalls="Weight decay scales matrices, and a norm layer after them undoes it.",
    source="least squares: c = ⟨s_after, s_before⟩/‖s_before‖²",
)
def uniform_scale(pair: Pair) -> float | None:
    """How much all singular values grew together."""
    scale = float(pair.before.s_K.square().sum())
    return float(pair.after.s_K @ pair.before.s_K) / scale - 1 if scale else None


@metric(
    formula="‖s_after − c·s_before‖ / ‖s_before‖ with the c of `uniform_scale`",
    null="nearly that of `nss`: a random update hardly scales the matrix",
    clusters=VALUES_ONLY,
    pitfalls="Large values dominate the norm; the map of ratios shows small ones.",
    source="least squares",
)
def shift_beyond_scale(pair: Pair) -> float | None:
    """What is left of the spectral shift once the best uniform scaling is taken out."""
    scale = uniform_scale(pair)
    if scale is None:
        return None
    left = pair.after.s_K - (1 + scale) * pair.before.s_K
    return float(left.norm()) / pair.before_norm


@metric(
    formula="‖W‖_F²/s₁²: before, and after minus before",
    null="near 0: the change that noise of the update's size makes",
    clusters=VALUES_ONLY,
    pitfalls="It is set by s₁; one outlier direction makes any matrix look low-rank.",
    source="Rudelson & Vershynin 2007, arXiv:math/0503442",
)
def stable_rank_of(pair: Pair) -> Values:
    """Number of directions as strong as the first that would have the matrix's energy."""
    before, after = stable_rank(pair.before.s_K), stable_rank(pair.after.s_K)
    return _change(before, after)


@metric(
    formula="exp(−Σ p_i·ln p_i), p_i = s_i/Σs: before, and after minus before",
    unit="directions",
    null="slightly positive: noise fills weak directions",
    clusters=VALUES_ONLY,
    pitfalls="Weak directions count; it rises when noise is added to a low-rank matrix.",
    source="Roy & Vetterli 2007, “The effective rank”, EUSIPCO",
)
def effective_rank(pair: Pair) -> Values:
    """Number of directions that the spectrum is spread over, by its entropy."""
    return _change(_entropy_rank(pair.before.s_K), _entropy_rank(pair.after.s_K))


def _entropy_rank(s_K: torch.Tensor) -> float | None:
    total = float(s_K.sum())
    if not total:
        return None
    p_K = s_K / total
    return math.exp(-float(torch.special.xlogy(p_K, p_K).sum()))


@metric(
    formula="Σ_{i≤k} s_i² / Σ s_i²: before, and after minus before, for k = 16, 64, 256",
    null="slightly negative: noise adds energy everywhere",
    clusters=VALUES_ONLY,
    pitfalls="Depends on the shape: compare matrices of one family.",
    source="explained variance of principal components (Jolliffe 2002, section 6.1)",
)
def top_energy(pair: Pair) -> Values:
    """Share of the matrix's energy in its leading directions."""
    found: dict[str, float | None] = {}
    for k in KS:
        if k < pair.k:
            change = _change(_share(pair.before.s_K, k), _share(pair.after.s_K, k))
            found |= {f"{k}.{name}": value for name, value in change.items()}
    return found


def _share(s_K: torch.Tensor, k: int) -> float | None:
    total = float(s_K.square().sum())
    return float(s_K[:k].square().sum()) / total if total else None


@metric(
    formula="α = 1 + T/Σ_{i≤T} ln(λ_i/λ_{T+1}) over the T = K/10 largest λ = s², and its error "
    "(α − 1)/√T; the same with the entries in random order",
    null="the exponent of permuted entries: what the distribution of entries alone gives",
    clusters=VALUES_ONLY,
    pitfalls="The tail's length is a choice. A matrix of independent entries has an exponent, too: "
    "only the difference from `permuted` is about structure.",
    source="Hill 1975, doi:10.1214/aos/1176343247; Martin & Mahoney 2021, JMLR 22(165)",
)
def power_law(pair: Pair) -> Values:
    """Exponent of the power law of after's largest eigenvalues: how heavy the tail is."""
    own = _hill(pair.after.s_K)
    if own is None:
        return {}
    exponent, error = own
    shuffled = _hill(singular_values(gram(permuted(pair.after.w_MN))))
    return {
        "after": exponent,
        "error": error,
        "permuted": shuffled[0] if shuffled else None,
    }


def _hill(s_K: torch.Tensor) -> tuple[float, float] | None:
    count = int(TAIL * len(s_K))
    if count < 10 or float(s_K[count]) <= 0:
        return None
    logs = np.log(s_K[: count + 1].square().cpu().numpy())
    excess = float((logs[:count] - logs[count]).mean())
    return (1 + 1 / excess, 1 / excess / math.sqrt(count)) if excess > 0 else None


def _change(before: float | None, after: float | None) -> dict[str, float | None]:
    change = None if before is None or after is None else after - before
    return {"before": before, "change": change}
