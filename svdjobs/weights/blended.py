"""Computes the tensors of a blend, which `blend` writes and an engine swaps in."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

from svdjobs.checkpoint.matrices import Matrices
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.safetensors_format import FLOATS, SAFETENSORS_NAMES
from svdjobs.checkpoint.writer import to_storage
from svdjobs.config import SweepConfig
from svdjobs.devices import here
from svdjobs.errors import NumericalError
from svdjobs.parallel import in_order, threads, worker_count
from svdjobs.progress import say
from svdjobs.records import Plan, TensorPlan
from svdjobs.runs import cost, layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.storage.store import Store
from svdjobs.weights.factors import Factors

if TYPE_CHECKING:
    import torch

SPECTRUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class PreparedMatrix:
    """One matrix and its D, which give the blend at every alpha."""

    w_MN: torch.Tensor
    d_MN: torch.Tensor
    s_values_K: torch.Tensor
    """Singular values at alpha = 0."""
    s_bases_K: torch.Tensor
    """Singular values at alpha = 1, which are those of W."""
    guarded: int
    signal_norm: float
    weight_norm: float
    spectrum_error: float | None


class Decomposed(Protocol):
    """The decomposed matrices of a checkpoint, read from a run or computed."""

    def s(self, name: str) -> torch.Tensor:
        """Singular values, float64, descending."""

    def basis(self, name: str) -> torch.Tensor:
        """Square-side vectors as columns, float64 K×K."""


@dataclass(frozen=True)
class Sources:
    """The opened inputs of a blend, checked to belong together.

    Usually `bases` is `after` and `values` are those of `before`; a reversed sweep exchanges them.
    """

    plan: Plan
    bases: Checkpoint
    """The checkpoint as it is stored."""
    matrices: Matrices
    """The same checkpoint as matrices."""
    factors: Decomposed
    """Factors of `bases`."""
    values: Decomposed
    """Factors of the other checkpoint."""
    fingerprints: dict[str, str]


def open_sources(checkpoints: RunCheckpoints, store: Store, *, stage: str) -> Sources:
    """Open the plan, the checkpoint that gives the bases, and the factors of both checkpoints.

    Raises:
        IncompleteError: one is missing, or was made from other weights.
    """
    config = checkpoints.config
    plan = layout.load_plan(store, config, stage=stage)
    factors, fingerprints = {}, {}
    for role in ("before", "after"):
        source = layout.source(config, role)
        factors[role] = Factors(store, role, stage=stage)
        fingerprints[role] = checkpoints.identity(source, store)
        factors[role].require_origin(checkpoints.open(source), fingerprints[role])
    bases = layout.source(config, config.bases_of)
    fingerprints["companions"] = checkpoints.companions(bases)
    return Sources(
        plan,
        checkpoints.open(bases),
        checkpoints.matrices(bases),
        factors[config.bases_of],
        factors[config.values_of],
        fingerprints,
    )


class StoredTensor(NamedTuple):
    """One tensor as the checkpoint stores it, and the plans of the matrices in it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    holds: tuple[TensorPlan, ...]

    @property
    def chosen(self) -> list[TensorPlan]:
        """The matrices in it that are blended."""
        return [tensor for tensor in self.holds if tensor.skip is None]


@dataclass(frozen=True)
class PreparedTensor:
    """One stored tensor and its D, both flat, and its matrices that are blended."""

    w: torch.Tensor
    d: torch.Tensor
    parts: list[tuple[TensorPlan, PreparedMatrix]]
    alone: bool
    """Whether the tensor is one matrix and nothing else."""


class PreparedTensors:
    """Keeps W and D of tensors for the next alpha, as far as the memory suffices."""

    def __init__(self, budget_bytes: int = 0) -> None:
        self._left = budget_bytes
        self._kept: dict[str, PreparedTensor] = {}

    def of(self, stored: StoredTensor, sources: Sources, checked: set[str]) -> PreparedTensor:
        """W and D of one stored tensor, computed unless they were kept."""
        if stored.name in self._kept:
            return self._kept[stored.name]
        prepared = prepare_tensor(stored, sources, checked)
        size = prepared.w.nbytes + prepared.d.nbytes
        if size <= self._left:
            self._left -= size
            self._kept[stored.name] = prepared
        return prepared


def stored_tensors(sources: Sources) -> list[StoredTensor]:
    """Every tensor that a blend stores, sorted by name; of a tied pair only the embedding."""
    plans = {tensor.name: tensor for tensor in sources.plan.tensors}
    stored = []
    for name, matrices in sorted(sources.matrices.names_in().items()):
        entry = sources.bases.entries[name]
        holds = tuple(plans[matrix] for matrix in matrices)
        if not any(tensor.skip == "tied" for tensor in holds):
            stored.append(StoredTensor(name, entry.shape, entry.dtype, holds))
    return stored


def stored_dtype(config: SweepConfig, tensor: StoredTensor) -> str:
    """The safetensors dtype to write a tensor in: the storage dtype for floats, else its own."""
    return SAFETENSORS_NAMES[config.blend.storage_dtype] if tensor.dtype in FLOATS else tensor.dtype


def peak_bytes(sources: Sources) -> int:
    """Peak memory of one process for one tensor while it is blended."""
    # W and D of a tensor with several matrices are in memory beside those of one matrix.
    several = max(
        (
            math.prod(stored.shape) * 8
            for stored in stored_tensors(sources)
            if stored.chosen and len(stored.holds) > 1
        ),
        default=0,
    )
    return several + cost.peak_tensor_bytes(sources.plan.selected)


def origins_at(config: SweepConfig, sources: Sources, alpha: float) -> dict[str, Hashable]:
    """Where each tensor of the checkpoint at alpha comes from: its bases as they are stored, its
    bases in the storage dtype, or the blend."""
    found: dict[str, Hashable] = {}
    source = layout.source(config, config.bases_of)
    for tensor in stored_tensors(sources):
        written = stored_dtype(config, tensor)
        kept = written if written not in (tensor.dtype, "F32") else None
        blended = tensor.chosen and alpha != 1
        found[tensor.name] = ("alpha", alpha) if blended else ("checkpoint", source, kept)
    return found


def tensors_at(
    config: SweepConfig,
    sources: Sources,
    alpha: float,
    names: Collection[str] | None = None,
    kept: PreparedTensors | None = None,
) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of the checkpoint at alpha, with exactly the bits that `blend` writes.

    All of them, or those with `names`. `kept` has W and D of other alphas.
    """
    from svdjobs.kernels.blend import blend

    stored = [s for s in stored_tensors(sources) if names is None or s.name in names]
    checked = names_to_check(sources.plan.selected)
    prepared_tensors = kept or PreparedTensors()

    def blended(tensor: StoredTensor) -> torch.Tensor:
        if not tensor.chosen or alpha == 1:
            return sources.bases.read(tensor.name)
        prepared = prepared_tensors.of(tensor, sources, checked)
        return blend(prepared.w, prepared.d, alpha).reshape(tensor.shape)

    workers = worker_count(peak_bytes(sources))
    with threads(workers) as pool:
        all_values = in_order(pool, blended, stored, ahead=2 * workers)
        for tensor, values in zip(stored, all_values, strict=True):
            yield tensor.name, to_storage(values, stored_dtype(config, tensor), tensor.name)


def prepare_tensor(stored: StoredTensor, sources: Sources, checked: set[str]) -> PreparedTensor:
    """Compute what does not depend on alpha for one stored tensor.

    If the tensor holds several matrices, D is composed of theirs and zero elsewhere.
    """
    import torch

    pieces = sources.matrices.pieces
    if all(tensor.name not in pieces for tensor in stored.holds):  # it is one matrix
        (tensor,) = stored.holds
        matrix = prepare_matrix(tensor, sources, check=tensor.name in checked)
        return PreparedTensor(
            matrix.w_MN.reshape(-1), matrix.d_MN.reshape(-1), [(tensor, matrix)], alone=True
        )
    w = sources.bases.read(stored.name).reshape(-1)
    d = torch.zeros(w.shape, dtype=torch.float32)
    parts = []
    for tensor in stored.chosen:
        piece = pieces[tensor.name]
        matrix = prepare_matrix(tensor, sources, check=tensor.name in checked, w_MN=piece.of(w))
        piece.put(d, matrix.d_MN)
        parts.append((tensor, replace(matrix, w_MN=piece.of(w), d_MN=piece.of(d))))
    return PreparedTensor(w, d, parts, alone=False)


def names_to_check(selected: list[TensorPlan]) -> set[str]:
    """Names of the first tensor of every shape, whose blended spectrum is checked."""
    first: dict[tuple[int, ...], str] = {}
    for tensor in selected:
        first.setdefault(tensor.shape, tensor.name)
    return set(first.values())


def prepare_matrix(
    tensor: TensorPlan,
    sources: Sources,
    *,
    check: bool = False,
    w_MN: torch.Tensor | None = None,
) -> PreparedMatrix:
    """Compute what does not depend on alpha for one matrix, on the device of this thread.

    Without `w_MN`, read its values. The result is on the CPU.

    With `check`, compute the spectrum of W(0); if it misses the target, use a direct SVD instead.

    Raises:
        NumericalError: W(0) misses the target spectrum by the direct SVD, too.
    """
    from svdjobs.kernels import blend

    w_MN = sources.matrices.view.read(tensor.name) if w_MN is None else w_MN.contiguous()
    s_bases_K, s_values_K = sources.factors.s(tensor.name), sources.values.s(tensor.name)
    ratio = blend.blend_ratio(s_values_K, s_bases_K)
    on_MN, device = w_MN.to(here()), here()
    basis_KK = sources.factors.basis(tensor.name).to(device)
    d_MN = blend.signal(on_MN, s_bases_K.to(device), basis_KK, ratio.r_K.to(device))
    error = None
    if check:
        target_K = blend.target_spectrum(s_values_K, s_bases_K, 0.0).to(device)
        error = blend.spectrum_error(blend.blend(on_MN, d_MN, 0.0), target_K)
        if not error <= SPECTRUM_TOLERANCE:  # true for NaN, too
            say(f"{tensor.name}: blend misses its spectrum by {error:.2g}, using a direct SVD")
            d_MN = blend.signal_direct(on_MN, s_values_K.to(device))
            error = blend.spectrum_error(blend.blend(on_MN, d_MN, 0.0), target_K)
        if not error <= SPECTRUM_TOLERANCE:
            raise NumericalError(
                f"tensor {tensor.name!r} {list(tensor.shape)}: the singular values of W(0) miss "
                f"their targets by {error:.2g} of the largest, also with a direct float64 SVD; "
                f"allowed is {SPECTRUM_TOLERANCE:.0e}. Leave the tensor out with "
                f"selection.exclude, and report it as a bug."
            )
    return PreparedMatrix(
        w_MN,
        d_MN.cpu(),
        s_values_K,
        s_bases_K,
        ratio.guarded,
        float((s_bases_K * ratio.r_K).norm()),
        float(s_bases_K.norm()),
        error,
    )
