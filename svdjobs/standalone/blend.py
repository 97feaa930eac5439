"""Blends two state dicts in memory, as the stages plan, decompose and blend do with checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from svdjobs.checkpoint.in_memory import in_memory
from svdjobs.checkpoint.matrices import matrices
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.selection import TOKEN_EMBEDDING
from svdjobs.config_file import parse_config
from svdjobs.records import Plan
from svdjobs.stages import plan
from svdjobs.stages.decompose import decompose_tensor
from svdjobs.storage.memory import MemoryStore
from svdjobs.weights.blended import Sources, tensors_at

if TYPE_CHECKING:
    import torch

    from svdjobs.kernels.spectrum import Decomposition

StateDict = Mapping[str, "torch.Tensor"]


def run(
    before: StateDict,
    after: StateDict,
    alpha: float,
    *,
    config: Mapping[str, Any] | None = None,
    selection: Mapping[str, Any] | str | None = None,
) -> dict[str, torch.Tensor]:
    """The tensors of `after`, blended at alpha, with the bits of the stage `blend` in float32.

    One matrix at a time is decomposed; nothing is written.

    Raises:
        CheckpointError: the two cannot be blended; the error gives every reason.
        ConfigError: alpha or a key of the selection is wrong.
    """
    document = {"name": "state-dict", "before": "before", "after": "after", "alphas": [alpha]}
    chosen = {} if selection is None else {"selection": selection}
    sweep = parse_config({**document, **chosen}, where="blend_state_dict")
    roles = {"before": before, "after": after}
    stored = {role: in_memory(role, held, config or {}) for role, held in roles.items()}
    views = {role: matrices(checkpoint) for role, checkpoint in stored.items()}
    opened = {role: found.view for role, found in views.items()}
    made = plan.make(sweep, MemoryStore(), opened)
    sources = Sources(
        made,
        stored["after"],
        views["after"],
        _OnDemand(made, opened["after"], vectors=True),
        _OnDemand(made, opened["before"], vectors=False),
        {},
    )
    blended = dict(tensors_at(sweep, sources, sweep.alphas[0]))
    # A tied head is not stored apart, but a model's state dict has it under its own name.
    embedding = next((name for name in blended if TOKEN_EMBEDDING.search(name)), "")
    for name in after.keys() - blended.keys():
        blended[name] = blended.get(embedding, after[name])
    return {name: blended[name] for name in after}


class _OnDemand:
    """Decomposes each matrix when its singular values are asked for.

    The vectors are kept until they are asked for, once, by the same thread: those of all matrices
    would take more memory than the matrices.
    """

    def __init__(self, made: Plan, checkpoint: Checkpoint, *, vectors: bool) -> None:
        self._tensors = {tensor.name: tensor for tensor in made.selected}
        self._checkpoint = checkpoint
        self._vectors = vectors
        self._kept: dict[str, Decomposition] = {}

    def s(self, name: str) -> torch.Tensor:
        """Singular values, float64, descending."""
        found = decompose_tensor(self._checkpoint, self._tensors[name], vectors=self._vectors)
        if self._vectors:
            self._kept[name] = found
        return found.s_K

    def basis(self, name: str) -> torch.Tensor:
        """Square-side vectors as columns, float64 K×K."""
        basis_KK = self._kept.pop(name).basis_KK
        assert basis_KK is not None  # vectors are computed for it
        return basis_KK
