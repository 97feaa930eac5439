"""A checkpoint whose tensors are in memory, such as the state dict of a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from svdjobs.checkpoint.dtypes import as_array
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.safetensors_format import SAFETENSORS_NAMES, TensorEntry
from svdjobs.errors import TensorError
from svdjobs.storage.memory import MemoryStore

if TYPE_CHECKING:
    import torch


def in_memory(
    label: str, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> Checkpoint:
    """View tensors as a checkpoint; `config` is that of config.json, or empty.

    Raises:
        TensorError: a value is no tensor, or has a dtype that checkpoints do not have.
    """
    import torch

    entries, held = {}, {}
    for name, tensor in tensors.items():
        if not torch.is_tensor(tensor):
            raise TensorError(
                f"{label}: {name!r} is a {type(tensor).__name__}, expected a tensor. Give the "
                f"state dict of a model, as model.state_dict() returns it."
            )
        dtype = SAFETENSORS_NAMES.get(str(tensor.dtype).removeprefix("torch."))
        if dtype is None:
            raise TensorError(
                f"{label}: tensor {name!r} has dtype {tensor.dtype}, expected one of "
                f"{', '.join(SAFETENSORS_NAMES)}."
            )
        entries[name] = TensorEntry(name, dtype, tuple(tensor.shape), "memory", 0)
        held[name] = as_array(tensor.detach().cpu())
    return Checkpoint(label, MemoryStore(label), dict(config), entries, pickled=held)
