"""A checkpoint as a folder on this disk, for engines and tokenizers, which read paths only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from svdjobs.checkpoint.reader import INDEX, Checkpoint
from svdjobs.storage.fetch import local_folder

_PICKLED_INDEX = "pytorch_model.bin.index.json"


@contextmanager
def on_disk(checkpoint: Checkpoint, *, weights: bool = True) -> Iterator[Path]:
    """The checkpoint's folder while the block runs: its own where it lies on this disk, else a
    temporary copy, without the weights if those are not asked for.

    Raises:
        StorageError: too little disk, or a file that is not what the manifest beside it lists.
    """
    names = ["config.json", *checkpoint.companions()]
    if weights:
        indices = (name for name in (INDEX, _PICKLED_INDEX) if checkpoint.store.exists(name))
        names += [*checkpoint.weight_files(), *indices]
    with local_folder(checkpoint.store, names) as folder:
        yield folder
