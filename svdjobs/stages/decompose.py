"""decompose: singular values of every selected matrix, and square-side vectors if needed.

The factors are written as parts, each with a record, so a killed run resumes with the next part.
Threads decompose several matrices at a time; the main thread writes them in order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.safetensors_format import SAFETENSORS_NAMES, OutputTensor
from svdjobs.checkpoint.writer import Shard, open_shard
from svdjobs.config import SweepConfig
from svdjobs.devices import Device, Pool, computing, here
from svdjobs.errors import NumericalError
from svdjobs.parallel import in_order
from svdjobs.progress import Advance, say, track
from svdjobs.records import FactorRecord, FileRecord, Manifest, TensorPlan
from svdjobs.runs import cost, layout, shards
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import Output, OutputKey, begin
from svdjobs.storage.objects import record_in, write_json
from svdjobs.storage.store import Store
from svdjobs.weights.factors import BASIS, S, tensor_sha256

if TYPE_CHECKING:
    from svdjobs.kernels.spectrum import Decomposition

STAGE = "decompose"
VERSION = "2"


@dataclass(frozen=True)
class Part:
    """One file of factors, and the tensors in it."""

    key: str
    vectors: str | None
    """The dtype of stored vectors by safetensors' name; None: only singular values."""
    tensors: tuple[TensorPlan, ...]

    @property
    def flops(self) -> float:
        """Operations to decompose its tensors."""
        return sum(cost.decompose_flops(t.shape, vectors=bool(self.vectors)) for t in self.tensors)


def run(
    config: SweepConfig,
    store: Store,
    *,
    shard_id: str | None = None,
    force: bool = False,
) -> list[Manifest]:
    """Decompose the run's checkpoints, or one shard of one of them.

    Returns the manifests of the factors that are complete.
    """
    plan = layout.load_plan(store, config, stage=STAGE)
    shard = (
        shards.shard_with_id(shards.decompose_shards(config, plan), shard_id) if shard_id else None
    )
    checkpoints = RunCheckpoints(config)
    manifests = [
        decompose_checkpoint(
            store,
            target,
            checkpoints.matrices(target.source).view,
            checkpoints.identity(target.source, store),
            plan.selected,
            plan.parts,
            workers=config.decompose.workers,
            device=config.compute.device,
            dtype=SAFETENSORS_NAMES[config.decompose.vectors],
            shard=shard,
            force=force,
        )
        for target in layout.decompose_targets(config)
        if shard is None or target.checkpoint_id == shard.name
    ]
    return [manifest for manifest in manifests if manifest is not None]


def decompose_checkpoint(
    store: Store,
    target: layout.Target,
    checkpoint: Checkpoint,
    origin: str,
    tensors: Sequence[TensorPlan],
    parts: Sequence[Sequence[str]],
    *,
    workers: int = 0,
    device: Device = "cpu",
    dtype: str = "F64",
    shard: shards.Shard | None = None,
    force: bool = False,
) -> Manifest | None:
    """Decompose the given tensors of one checkpoint into `factors/<checkpoint id>/`.

    `dtype` is that of stored vectors, by safetensors' name.
    With a `shard`, decompose its parts only, and return None while parts of other shards are
    missing.
    """
    output = begin(
        store,
        layout.factors_prefix(target.checkpoint_id),
        OutputKey(
            stage=STAGE,
            version=VERSION,
            config={
                "vectors": target.vectors,
                "parts": [list(part) for part in parts],
                **({"dtype": dtype} if target.vectors and dtype != "F64" else {}),
            },
            inputs={"checkpoint": origin},
        ),
        force=force,
    )
    if output.finished:
        return output.finished
    by_name = {tensor.name: tensor for tensor in tensors}
    all_parts = [
        Part(
            output.key(f"part-{number:05d}.safetensors"),
            dtype if target.vectors else None,
            tuple(by_name[name] for name in names),
        )
        for number, names in enumerate(parts)
    ]
    own_parts = all_parts if shard is None else shard.pick(all_parts)
    if missing := _missing_parts(output, own_parts):
        with computing(device, cost.peak_tensor_bytes(tensors), workers=workers) as pool:
            _make_parts(store, missing, pool, target.checkpoint_id, checkpoint)
    if shard is not None and _missing_parts(output, all_parts):
        return None
    fallbacks = []
    for part in all_parts:
        document = json.loads(output.adopt(_record_name(part)))
        output.add(record_in(FileRecord, document["file"], "a part's record"))
        records = [record_in(FactorRecord, item, "a part's record") for item in document["tensors"]]
        fallbacks += [record.name for record in records if record.method == "svd"]
    if fallbacks:
        say(f"{target.checkpoint_id}: used a direct SVD for {', '.join(fallbacks)}")
    return output.commit()


def _record_name(part: Part) -> str:
    return part.key.rpartition("/")[2].removesuffix(".safetensors") + ".json"


def _missing_parts(output: Output, parts: Sequence[Part]) -> list[Part]:
    """The parts that are missing or incomplete in the store."""
    sizes = output.store.sizes(output.prefix)
    return [part for part in parts if not output.part_is_done(_record_name(part), sizes)]


def _make_parts(
    store: Store,
    missing: list[Part],
    pool: Pool,
    checkpoint_id: str,
    checkpoint: Checkpoint,
) -> None:
    """Decompose the tensors of the missing parts, and write each part."""
    vectors = missing[0].vectors

    def decompose(tensor: TensorPlan) -> Decomposition:
        return decompose_tensor(checkpoint, tensor, vectors=bool(vectors))

    tensors = [tensor for part in missing for tensor in part.tensors]
    flops = sum(part.flops for part in missing)
    with track(f"decompose {checkpoint_id}", flops) as advance:
        decompositions = in_order(pool.threads, decompose, tensors, ahead=2 * pool.workers)
        for part in missing:
            _write_part(part, store, decompositions, advance)


def decompose_tensor(checkpoint: Checkpoint, tensor: TensorPlan, *, vectors: bool) -> Decomposition:
    """Read one tensor, and decompose it on the device of this thread.

    Raises:
        NumericalError: both decompositions, by the Gram matrix and direct, fail their checks.
        TensorError: the tensor is not finite.
    """
    from svdjobs.kernels.spectrum import decompose

    try:
        found = decompose(checkpoint.read(tensor.name).to(here()), vectors=vectors)
    except NumericalError as error:
        raise NumericalError(
            f"{checkpoint.label}: tensor {tensor.name!r} {list(tensor.shape)}: {error}. "
            f"Leave it out with selection.exclude, and report it as a bug."
        ) from None
    basis_KK = None if found.basis_KK is None else found.basis_KK.cpu()
    return found._replace(s_K=found.s_K.cpu(), basis_KK=basis_KK)


def _write_part(
    part: Part, store: Store, decompositions: Iterator[Decomposition], advance: Advance
) -> None:
    """Write a part's file while its decompositions arrive, then its record."""
    records = []
    with open_shard(store, part.key, Shard(part.key, tuple(_output_tensors(part)))) as writer:
        for tensor in part.tensors:
            factors = next(decompositions)
            digests = {}
            for kind, values in ((BASIS, factors.basis_KK), (S, factors.s_K)):
                if values is not None:
                    if kind == BASIS and part.vectors == "F32":
                        values = values.float()
                    writer.write(values)
                    digests[kind] = tensor_sha256(values)
            records.append(
                FactorRecord(
                    name=tensor.name,
                    shape=(tensor.shape[0], tensor.shape[1]),
                    method=factors.method,
                    checks=factors.checks,
                    sha256=digests,
                )
            )
            advance(cost.decompose_flops(tensor.shape, vectors=bool(part.vectors)), tensor.name)
        file = writer.finish(part.key)
    document = {
        "file": file.model_dump(),
        "tensors": [record.model_dump(mode="json") for record in records],
    }
    write_json(store, f"{part.key.rpartition('/')[0]}/{_record_name(part)}", document)


def _output_tensors(part: Part) -> Iterator[OutputTensor]:
    for tensor in part.tensors:
        k = min(tensor.shape)
        if part.vectors:
            yield OutputTensor(f"{tensor.name}.{BASIS}", part.vectors, (k, k))
        yield OutputTensor(f"{tensor.name}.{S}", "F64", (k,))
