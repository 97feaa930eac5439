"""Decomposes checkpoints without a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from svdjobs.checkpoint.classic_pt import log_name, pickled
from svdjobs.checkpoint.identity import identity
from svdjobs.checkpoint.matrices import matrices
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.selection import coverage_line, select
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import SelectionConfig
from svdjobs.errors import ConfigError
from svdjobs.progress import say, track
from svdjobs.records import TensorPlan
from svdjobs.runs import cost, layout
from svdjobs.runs.outputs import find_manifest
from svdjobs.stages.decompose import decompose_checkpoint
from svdjobs.storage.objects import write_bytes
from svdjobs.storage.open import open_store
from svdjobs.storage.store import Store
from svdjobs.weights.factors import Factors

if TYPE_CHECKING:
    import torch


def run(
    model_ids: Sequence[str],
    output_dir: Path,
    *,
    export: bool = False,
    workers: int = 0,
    force: bool = False,
    allow_pickle: bool = False,
    selection: SelectionConfig | None = None,
) -> None:
    """Decompose each checkpoint into `<output_dir>/factors/<name>/`, with vectors.

    Raises:
        ConfigError: two checkpoints have the same name, so the same folder.
    """
    store = open_store(str(output_dir))
    names = [checkpoint_name(source) for source in model_ids]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two checkpoints are called {', '.join(twice)}; decompose them apart.")
    for source, name in zip(model_ids, names, strict=True):
        opened = open_checkpoint(source, allow_pickle=allow_pickle)
        checkpoint = matrices(opened).view
        tensors = select(checkpoint, checkpoint, selection or SelectionConfig())
        say(f"{name}: {coverage_line(tensors)}")
        chosen = [tensor for tensor in tensors if tensor.skip is None]
        earlier = find_manifest(store, layout.factors_prefix(name))
        manifest = decompose_checkpoint(
            store,
            layout.Target(name, source, vectors=True),
            checkpoint,
            identity(opened, store, layout.IDENTITIES),
            chosen,
            cost.balanced_parts(chosen, cost.part_count(chosen)),
            workers=workers,
            force=force,
        )
        assert manifest is not None  # all shards were decomposed, none is missing
        renewed = earlier is None or earlier.fingerprint != manifest.fingerprint
        if export:
            export_pt(store, checkpoint, name, chosen, force=force or renewed)


def checkpoint_name(source: str) -> str:
    """The name of a checkpoint: the last part of its path or hub id.

    A path is resolved first, since `.` and `..` are no names.

    Raises:
        ConfigError: the source is the root folder, which has no name.
    """
    folder = Path(source).expanduser()
    name = (
        folder.resolve().name if folder.exists() else PurePosixPath(source.partition("@")[0]).name
    )
    if not name:
        raise ConfigError(f"{source!r} has no name to call its factors; give another path.")
    return name


def export_pt(
    store: Store,
    checkpoint: Checkpoint,
    name: str,
    tensors: Sequence[TensorPlan],
    *,
    force: bool = False,
) -> None:
    """Write the classic layout: one `<name>/<tensor>.pt` with U, S, Vh (float32) and orig_shape.

    Existing files are kept unless `force` is set. Each file is written atomically.
    """
    factors = Factors(store, name, stage="export")
    with track(f"export {name}", len(tensors)) as advance:
        for tensor in tensors:
            key = f"{name}/{log_name(tensor.name)}.pt"
            if force or not store.exists(key):
                write_bytes(
                    store, key, _classic(checkpoint.read(tensor.name), factors, tensor.name)
                )
            advance(1, tensor.name)


def _classic(w_MN: torch.Tensor, factors: Factors, name: str) -> bytes:
    """Pickle U, S and Vh in float32. Where s is numerically zero, vectors complete the basis."""
    import torch

    from svdjobs.kernels.spectrum import thin_side

    u_MK, vh_KN = thin_side(w_MN, factors.basis(name))
    return pickled(
        {
            "U": u_MK.to(torch.float32),
            "S": factors.s(name).to(torch.float32),
            "Vh": vh_KN.to(torch.float32).contiguous(),
            "orig_shape": tuple(w_MN.shape),
        }
    )
