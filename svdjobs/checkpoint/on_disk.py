"""Provide a checkpoint as a folder on this disk: engines and tokenizers read only paths."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from svdjobs.checkpoint.reader import INDEX, PICKLED_INDEX, Checkpoint
from svdjobs.checkpoint.safetensors_format import OutputTensor
from svdjobs.checkpoint.writer import index_bytes, open_shard, weight_files
from svdjobs.progress import size, track
from svdjobs.storage.as_files import local_folder, require_room
from svdjobs.storage.local import LocalStore
from svdjobs.storage.objects import json_bytes, write_bytes

_FILE_BYTES = 5_000_000_000


@contextmanager
def on_disk(checkpoint: Checkpoint, *, weights: bool = True) -> Iterator[Path]:
    """Provide a folder with the checkpoint while the block runs.

    If the checkpoint lies on this disk and its files hold exactly its tensors, this is its own
    folder. Otherwise it is a temporary copy; with `weights=False` a copy without weights.

    Raises:
        StorageError: the disk has too little space, or a downloaded file differs from its record
            in the manifest beside it.
    """
    if not checkpoint.as_stored:
        with _rewritten(checkpoint, weights=weights) as folder:
            yield folder
        return
    names = ["config.json", *checkpoint.companions()]
    if weights:
        indices = (name for name in (INDEX, PICKLED_INDEX) if checkpoint.store.exists(name))
        names += [*checkpoint.weight_files(), *indices]
    with local_folder(checkpoint.store, names) as folder:
        yield folder


@contextmanager
def _rewritten(checkpoint: Checkpoint, *, weights: bool) -> Iterator[Path]:
    """Write the tensors that svdjobs reads to a temporary folder, so an engine reads the same.

    Tensors that are computed when read are computed; tensors that do not belong are left out.
    """
    planned = [OutputTensor(e.name, e.dtype, e.shape) for e in checkpoint.entries.values()]
    shards = weight_files(planned, _FILE_BYTES)
    total = sum(shard.bytes for shard in shards)
    with tempfile.TemporaryDirectory(prefix="svdjobs-", ignore_cleanup_errors=True) as name:
        folder = LocalStore(name)
        write_bytes(folder, "config.json", json_bytes(checkpoint.config))
        for companion in checkpoint.companions():
            write_bytes(folder, companion, bytes(checkpoint.store.read(companion)))
        if weights:
            require_room(checkpoint.store, Path(name), total)
            with track(f"write {checkpoint.label}", total) as advance:
                for shard in shards:
                    with open_shard(folder, shard.name, shard) as writer:
                        for tensor in shard.tensors:
                            for piece in checkpoint.chunks(tensor.name):
                                writer.write(piece)
                                advance(piece.numel() * piece.element_size(), size(total))
            if index := index_bytes(shards):
                write_bytes(folder, INDEX, index)
        yield Path(name)
