"""Gives an engine a checkpoint of a run: weight files to start from, or tensors to swap in."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from svdjobs.checkpoint.documents import COMPANIONS
from svdjobs.checkpoint.on_disk import on_disk
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.config import REPEAT_ID, alpha_id
from svdjobs.errors import EvaluationError, IncompleteError
from svdjobs.evaluation.engines.protocol import Weights
from svdjobs.provenance import memory_limit_bytes
from svdjobs.records import Manifest
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import find_manifest, require
from svdjobs.storage.as_files import local_folder
from svdjobs.storage.store import Store
from svdjobs.variant_config import VariantConfig
from svdjobs.weights.blended import (
    PreparedTensors,
    Sources,
    open_sources,
    origins_at,
    tensors_at,
)
from svdjobs.weights.variants import Variant

if TYPE_CHECKING:
    import torch

STAGE = "evaluate"
# The share of the memory that keeps W and D of tensors from one alpha to the next.
PREPARED_SHARE = 4
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


class RunWeights:
    """The weights of a run's checkpoints and variants, for one process that evaluates them."""

    def __init__(self, checkpoints: RunCheckpoints, store: Store) -> None:
        self._checkpoints = checkpoints
        self._config = checkpoints.config
        self._store = store
        self._disk = ExitStack()
        self._after: Weights | None = None
        self._variants: dict[str, Variant] = {}

    @cached_property
    def sources(self) -> Sources:
        """What blends and variants are computed from."""
        return open_sources(self._checkpoints, self._store, stage=STAGE)

    @cached_property
    def _prepared(self) -> PreparedTensors:
        return PreparedTensors(memory_limit_bytes() // PREPARED_SHARE)

    def of(self, checkpoint_id: str, *, with_weight_files: bool) -> Weights:
        """The files and tensors of a checkpoint of the run.

        The folder has the config and companion files, and weight files only `with_weight_files`. It
        is on this disk until `close`. Tensors of `before`, `after` and further checkpoints are read
        from their weight files; those of an alpha are computed from the weights that give the
        bases, and D (`weights/blended.py`).

        Raises:
            IncompleteError: the run has no checkpoint with this id.
            EvaluationError: weight files of a variant are wanted, which has none.
        """
        config = self._config
        sources = {"before": config.before, "after": config.after, REPEAT_ID: config.after}
        if source := {**sources, **config.checkpoints}.get(checkpoint_id):
            checkpoint = self._checkpoints.open(source)
            folder = self._disk.enter_context(on_disk(checkpoint, weights=with_weight_files))
            names = [name for name in checkpoint.entries if _is_stored(checkpoint, name)]
            read = partial(_read, checkpoint)
            origins: dict[str, Hashable] = dict.fromkeys(names, ("checkpoint", source, None))
            return Weights(
                checkpoint.label, str(folder), partial(read, names), origins=origins, some=read
            )
        if spec := config.variants.get(checkpoint_id):
            if with_weight_files:
                raise EvaluationError(
                    f"the variant {checkpoint_id} has no weight files to start an engine from. The "
                    f"running engine must take new weights: set evaluate.reuse_engine to true."
                )
            return self._weights_of(self.variant(checkpoint_id, spec))
        for alpha in config.alphas:
            if alpha_id(alpha) == checkpoint_id:
                return self._of_alpha(alpha, with_weight_files=with_weight_files)
        raise IncompleteError(
            f"no checkpoint {checkpoint_id!r} in this run; it has "
            f"{', '.join(layout.evaluated_ids(config))}."
        )

    def variant(self, checkpoint_id: str, spec: VariantConfig) -> Variant:
        """A variant of the config, which remembers the sizes of its changes."""
        if checkpoint_id not in self._variants:
            label = f"variants.{checkpoint_id}"
            self._variants[checkpoint_id] = Variant(spec, label, self._checkpoints, self.sources)
        return self._variants[checkpoint_id]

    def of_variant(
        self, label: str, spec: VariantConfig, only: Collection[str] | None = None
    ) -> tuple[Weights, Variant]:
        """The tensors of weights that are no checkpoint of the run, for an engine that holds
        another checkpoint with after's config; and the variant, which knows the sizes of its
        changes once they are read. With `only`, it changes no other matrices."""
        variant = Variant(spec, label, self._checkpoints, self.sources, only)
        return self._weights_of(variant), variant

    def _weights_of(self, variant: Variant) -> Weights:
        if self._after is None:  # a map has hundreds of variants
            self._after = self.of("after", with_weight_files=False)
        after = self._after
        origins = {**after.origins, **dict.fromkeys(variant.touched, variant)}
        tensors = partial(variant.tensors, list(after.origins))
        return Weights(variant.label, after.folder, tensors, origins, variant.tensors)

    def _of_alpha(self, alpha: float, *, with_weight_files: bool) -> Weights:
        on_this_disk = _alpha_on_disk(self._store, alpha, with_weight_files)
        folder = self._disk.enter_context(on_this_disk)

        def tensors(names: Collection[str] | None = None) -> Iterator[tuple[str, torch.Tensor]]:
            return tensors_at(self._config, self.sources, alpha, names, self._prepared)

        if with_weight_files:  # a pod that starts its engine from them need not open the factors
            return Weights(alpha_id(alpha), str(folder), tensors)
        origins = origins_at(self._config, self.sources, alpha)
        return Weights(alpha_id(alpha), str(folder), tensors, origins, tensors)

    def close(self) -> None:
        """Remove folders that were made on this disk."""
        self._after = None
        self._disk.close()


def _is_stored(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a tensor is not an lm_head that is tied to the embedding."""
    return not (checkpoint.tied and name == "lm_head.weight")


def _read(checkpoint: Checkpoint, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
    for name in checkpoint.entries:
        if name in names:
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
