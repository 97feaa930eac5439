"""The blended tensors of a sweep, computed one by one: what `blend` writes and an engine is fed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from svdjobs.checkpoint.identity import companions_digest, identity
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.safetensors_format import FLOATS, SAFETENSORS_NAMES
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.checkpoint.writer import to_storage
from svdjobs.config import SweepConfig
from svdjobs.errors import NumericalError
from svdjobs.parallel import in_order, threads, worker_count
from svdjobs.progress import say
from svdjobs.records import Plan, TensorPlan
from svdjobs.stages import cost, graph
from svdjobs.stages.decompose import Factors
from svdjobs.storage.store import Store

if TYPE_CHECKING:
    import torch

SPECTRUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Blended:
    """What one tensor's blends are made of, whatever alpha."""

    w_MN: torch.Tensor
    d_MN: torch.Tensor
    s_values_K: torch.Tensor
    """Singular values at alpha = 0."""
    s_bases_K: torch.Tensor
    """Singular values at alpha = 1, those of w."""
    guarded: int
    signal_norm: float
    weight_norm: float
    spectrum_error: float | None


@dataclass(frozen=True)
class Sources:
    """Opened inputs of a blend, which belong together.

    In a sweep's usual direction `bases` is after and `values` are of before.
    """

    plan: Plan
    bases: Checkpoint
    factors: Factors
    """Of `bases`."""
    values: Factors
    fingerprints: dict[str, str]


def open_sources(config: SweepConfig, store: Store, *, stage: str) -> Sources:
    """Open the plan, the checkpoint that gives the bases and both factorisations.

    Raises:
        IncompleteError: one is missing, or was made from another checkpoint.
    """
    plan = graph.load_plan(store, config, stage=stage)
    opened, factors, fingerprints = {}, {}, {}
    for role in ("before", "after"):
        checkpoint = open_checkpoint(graph.source(config, role), allow_pickle=config.allow_pickle)
        opened[role], factors[role] = checkpoint, Factors(store, role, stage=stage)
        fingerprints[role] = identity(checkpoint, store, graph.IDENTITIES)
        factors[role].require_origin(checkpoint, fingerprints[role])
    bases = opened[config.bases_of]
    fingerprints["companions"] = companions_digest(bases)
    return Sources(plan, bases, factors[config.bases_of], factors[config.values_of], fingerprints)


def stored_dtype(config: SweepConfig, tensor: TensorPlan) -> str:
    """safetensors dtype a tensor is written in: floats in the storage dtype, others as they are."""
    return SAFETENSORS_NAMES[config.blend.storage_dtype] if tensor.dtype in FLOATS else tensor.dtype


def tensors_at(
    config: SweepConfig, sources: Sources, alpha: float
) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the checkpoint at alpha, to the bit as `blend` would have written it."""
    from svdjobs.kernels.blend import blend

    written = [tensor for tensor in sources.plan.tensors if tensor.skip != "tied"]
    checked = sampled(sources.plan.selected)

    def made(tensor: TensorPlan) -> torch.Tensor:
        if tensor.skip is not None or alpha == 1:
            return sources.bases.read(tensor.name)
        blended = prepare(tensor, sources, check=tensor.name in checked)
        return blend(blended.w_MN, blended.d_MN, alpha)

    workers = worker_count(cost.peak_tensor_bytes(sources.plan.selected))
    with threads(workers) as pool:
        found = in_order(pool, made, written, ahead=2 * workers)
        for tensor, values in zip(written, found, strict=True):
            yield tensor.name, to_storage(values, stored_dtype(config, tensor), tensor.name)


def sampled(selected: list[TensorPlan]) -> set[str]:
    """The first tensor of every shape: those whose blended spectrum is computed again."""
    first: dict[tuple[int, ...], str] = {}
    for tensor in selected:
        first.setdefault(tensor.shape, tensor.name)
    return set(first.values())


def prepare(tensor: TensorPlan, sources: Sources, *, check: bool = False) -> Blended:
    """Everything about one tensor that does not depend on alpha.

    A `check`ed tensor whose W(0) misses its target spectrum is done again by a direct SVD.

    Raises:
        NumericalError: that misses it too.
    """
    from svdjobs.kernels import blend

    w_MN = sources.bases.read(tensor.name)
    s_bases_K, s_values_K = sources.factors.s(tensor.name), sources.values.s(tensor.name)
    ratio = blend.blend_ratio(s_values_K, s_bases_K)
    d_MN = blend.signal(w_MN, s_bases_K, sources.factors.basis(tensor.name), ratio.r_K)
    error = None
    if check:
        target_K = blend.target_spectrum(s_values_K, s_bases_K, 0.0)
        error = blend.spectrum_error(blend.blend(w_MN, d_MN, 0.0), target_K)
        if not error <= SPECTRUM_TOLERANCE:
            say(f"{tensor.name}: blend misses its spectrum by {error:.2g}, taking a direct SVD")
            d_MN = blend.signal_direct(w_MN, s_values_K)
            error = blend.spectrum_error(blend.blend(w_MN, d_MN, 0.0), target_K)
        if not error <= SPECTRUM_TOLERANCE:
            raise NumericalError(
                f"tensor {tensor.name!r} {list(tensor.shape)}: the singular values of W(0) miss "
                f"what they should be by {error:.2g} of the largest, allowed is "
                f"{SPECTRUM_TOLERANCE:.0e}, also after a direct float64 SVD. Leave the tensor out "
                f"with selection.exclude, and please report it."
            )
    return Blended(
        w_MN,
        d_MN,
        s_values_K,
        s_bases_K,
        ratio.guarded,
        float((s_bases_K * ratio.r_K).norm()),
        float(s_bases_K.norm()),
        error,
    )
