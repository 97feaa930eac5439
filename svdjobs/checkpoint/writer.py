"""Write a checkpoint file by file and tensor by tensor, in the layout of `save_pretrained`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from svdjobs.checkpoint.reader import SINGLE
from svdjobs.checkpoint.safetensors_format import (
    FLOATS,
    TORCH_NAMES,
    OutputTensor,
    file_order,
    header_bytes,
)
from svdjobs.errors import TensorError
from svdjobs.records import FileRecord
from svdjobs.storage.objects import json_bytes
from svdjobs.storage.store import Sink, Store

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Shard:
    """One weight file and its tensors, in file order."""

    name: str
    tensors: tuple[OutputTensor, ...]

    @property
    def bytes(self) -> int:
        """The size of the tensors in bytes."""
        return sum(tensor.bytes for tensor in self.tensors)


def weight_files(tensors: Sequence[OutputTensor], max_shard_bytes: int) -> list[Shard]:
    """Divide tensors into weight files in the order given, as transformers does.

    A tensor that is larger than a file may be gets a file of its own.
    """
    groups: list[list[OutputTensor]] = [[]]
    for tensor in tensors:
        full = sum(item.bytes for item in groups[-1]) + tensor.bytes > max_shard_bytes
        if groups[-1] and full:
            groups.append([])
        groups[-1].append(tensor)
    count = len(groups)
    names = (
        [SINGLE]
        if count == 1
        else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    )
    return [
        Shard(name, tuple(file_order(group))) for name, group in zip(names, groups, strict=True)
    ]


def index_bytes(shards: Sequence[Shard]) -> bytes | None:
    """Return the content of the index file; None for a single weight file, which needs none."""
    if len(shards) == 1:
        return None
    weight_map = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    metadata = {"total_size": sum(shard.bytes for shard in shards)}
    return json_bytes({"metadata": metadata, "weight_map": dict(sorted(weight_map.items()))})


class ShardWriter:
    """One open weight file. It takes its tensors in file order, whole or in pieces."""

    def __init__(self, sink: Sink, shard: Shard) -> None:
        self._sink = sink
        self._shard = shard
        self._expected = shard.bytes
        self._written = 0
        sink.write(header_bytes(shard.tensors))

    def write(self, tensor: torch.Tensor) -> None:
        """Append a tensor, or the next piece of one, that is already in its storage dtype."""
        import torch

        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        self._written += flat.numel()
        self._sink.write(flat.numpy().data)

    def finish(self, key: str) -> FileRecord:
        """Check that all bytes that the header promises were written. Return the file's record."""
        assert self._written == self._expected, (self._shard.name, self._written, self._expected)
        return self._sink.record(key)


@contextmanager
def open_shard(store: Store, key: str, shard: Shard) -> Iterator[ShardWriter]:
    """Write one weight file. It appears under `key` when the block ends without an exception."""
    with store.sink(key) as sink:
        yield ShardWriter(sink, shard)


def to_storage(tensor: torch.Tensor, dtype: str, name: str) -> torch.Tensor:
    """Cast a tensor to a float storage dtype (safetensors' name). Other dtypes change nothing.

    Raises:
        TensorError: a value does not fit the dtype.
    """
    import torch

    if dtype not in FLOATS:
        return tensor
    wanted: torch.dtype = getattr(torch, TORCH_NAMES[dtype])
    cast = tensor.to(wanted)
    if dtype == "F16" and not bool(cast.isfinite().all()):
        raise TensorError(
            f"tensor {name!r}: {float(tensor.abs().max()):.4g} does not fit float16 (largest "
            f"65504); use storage_dtype float32 or bfloat16."
        )
    return cast
