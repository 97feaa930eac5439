"""Gives an engine a checkpoint of a run: weight files to start from, or tensors to swap in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from svdjobs.checkpoint.documents import COMPANIONS
from svdjobs.checkpoint.on_disk import on_disk
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.config import REPEAT_ID, alpha_id
from svdjobs.errors import IncompleteError
from svdjobs.evaluation.engines.protocol import Weights
from svdjobs.records import Manifest
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import find_manifest, require
from svdjobs.storage.as_files import local_folder
from svdjobs.storage.store import Store
from svdjobs.weights.blended import open_sources, tensors_at

if TYPE_CHECKING:
    import torch

STAGE = "evaluate"
WEIGHT_FILE_SUFFIXES = (".safetensors", ".safetensors.index.json")


def has_files_to_start_from(store: Store, checkpoint_id: str) -> bool:
    """Whether a checkpoint has weight files, from which an engine can start.

    True for `before` and `after`, which no run writes.
    """
    prefix = f"{layout.CHECKPOINTS}/{checkpoint_id}"
    manifest = find_manifest(store, prefix)
    return manifest is None or has_weight_files(manifest)


def has_weight_files(manifest: Manifest) -> bool:
    """Whether the manifest of a blended checkpoint lists weight files."""
    return any(file.key.endswith(WEIGHT_FILE_SUFFIXES) for file in manifest.files)


def weights_of(
    checkpoints: RunCheckpoints,
    store: Store,
    checkpoint_id: str,
    disk: ExitStack,
    *,
    with_weight_files: bool,
) -> Weights:
    """The files and tensors of a checkpoint of the run.

    The folder has the config and companion files, and weight files only `with_weight_files`. It is
    on this disk until `disk` is closed. Tensors of `before` and `after` are read from their weight
    files; those of an alpha are computed from the weights that give the bases, and D
    (`weights/blended.py`).

    Raises:
        IncompleteError: the run has no checkpoint with this id.
    """
    config = checkpoints.config
    sources = {"before": config.before, "after": config.after, REPEAT_ID: config.after}
    if checkpoint_id in sources:
        checkpoint = checkpoints.open(sources[checkpoint_id])
        folder = disk.enter_context(on_disk(checkpoint, weights=with_weight_files))
        return Weights(checkpoint.label, str(folder), partial(_read, checkpoint))
    for alpha in config.alphas:
        if alpha_id(alpha) == checkpoint_id:
            folder = disk.enter_context(_alpha_on_disk(store, alpha, with_weight_files))
            tensors = partial(_computed, checkpoints, store, alpha)
            return Weights(checkpoint_id, str(folder), tensors)
    raise IncompleteError(
        f"no checkpoint {checkpoint_id!r} in this run; it has "
        f"{', '.join(layout.evaluated_ids(config))}."
    )


def _computed(
    checkpoints: RunCheckpoints, store: Store, alpha: float
) -> Iterator[tuple[str, torch.Tensor]]:
    sources = open_sources(checkpoints, store, stage=STAGE)
    return tensors_at(checkpoints.config, sources, alpha)


def _read(checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """Read the tensors of a checkpoint, except an lm_head that is tied to the embedding."""
    for name in checkpoint.entries:
        if not (checkpoint.tied and name == "lm_head.weight"):
            yield name, checkpoint.read(name)


def _alpha_on_disk(
    store: Store, alpha: float, with_weight_files: bool
) -> AbstractContextManager[Path]:
    """The files of a blended checkpoint, in a folder on this disk."""
    prefix = layout.checkpoint_prefix(alpha)
    (manifest,) = require(store, [prefix], stage=STAGE)
    wanted = {"config.json", *COMPANIONS}
    names = [
        file.key
        for file in manifest.files
        if file.key in wanted or (with_weight_files and file.key.endswith(WEIGHT_FILE_SUFFIXES))
    ]
    return local_folder(store, names, below=prefix)
