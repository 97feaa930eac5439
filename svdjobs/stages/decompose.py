"""decompose: singular values, and square-side vectors where needed, of every selected matrix.

Written as parts, each with a record beside it, so that a killed run goes on with the next part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING

from svdjobs.checkpoint.identity import identity
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.safetensors_format import OutputTensor, read_header
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.checkpoint.writer import Shard, open_shard
from svdjobs.config import SweepConfig
from svdjobs.errors import IncompleteError, NumericalError, WorkerError
from svdjobs.progress import say, track
from svdjobs.provenance import available_memory_bytes, cores
from svdjobs.records import FactorRecord, FileRecord, Manifest, TensorPlan
from svdjobs.stages import cost, graph
from svdjobs.stages.outputs import begin, require
from svdjobs.storage.store import Store, open_store, try_read_json, write_json

if TYPE_CHECKING:
    import torch

STAGE = "decompose"
VERSION = "1"


@dataclass(frozen=True)
class Part:
    """One file of factors to make. Plain data: it travels to worker processes."""

    store_url: str
    key: str
    source: str
    allow_pickle: bool
    vectors: bool
    tensors: tuple[TensorPlan, ...]

    @property
    def flops(self) -> float:
        """Its cost."""
        return sum(cost.decompose_flops(t.shape, vectors=self.vectors) for t in self.tensors)


def run(
    config: SweepConfig,
    store: Store,
    *,
    checkpoint_ids: Sequence[str] | None = None,
    force: bool = False,
) -> list[Manifest]:
    """Decompose the run's checkpoints, or those named."""
    plan = graph.load_plan(store, config, stage=STAGE)
    wanted = [
        target
        for target in graph.targets(config)
        if checkpoint_ids is None or target.checkpoint_id in checkpoint_ids
    ]
    return [
        decompose_checkpoint(
            store,
            target,
            plan.selected,
            plan.parts,
            workers=config.decompose.workers,
            allow_pickle=config.allow_pickle,
            force=force,
        )
        for target in wanted
    ]


def decompose_checkpoint(
    store: Store,
    target: graph.Target,
    tensors: Sequence[TensorPlan],
    parts: Sequence[Sequence[str]],
    *,
    workers: int = 0,
    allow_pickle: bool = False,
    force: bool = False,
) -> Manifest:
    """Decompose the given tensors of one checkpoint into `factors/<checkpoint id>/`."""
    checkpoint = open_checkpoint(target.source, allow_pickle=allow_pickle)
    output = begin(
        store,
        graph.factors_prefix(target.checkpoint_id),
        stage=STAGE,
        version=VERSION,
        config={"vectors": target.vectors, "parts": [list(part) for part in parts]},
        inputs={"checkpoint": identity(checkpoint, store, graph.IDENTITIES)},
        force=force,
    )
    if output.finished:
        return output.finished
    by_name = {tensor.name: tensor for tensor in tensors}
    work = [
        Part(
            store.url,
            output.key(f"part-{number:05d}.safetensors"),
            target.source,
            allow_pickle,
            target.vectors,
            tuple(by_name[name] for name in names),
        )
        for number, names in enumerate(parts)
    ]
    _make_parts(store, work, workers, target.checkpoint_id, checkpoint)
    fallbacks = []
    for part in work:
        document = json.loads(output.adopt(_record_key(part.key).removeprefix(f"{output.prefix}/")))
        output.add(FileRecord.model_validate(document["file"]))
        records = [FactorRecord.model_validate(item) for item in document["tensors"]]
        fallbacks += [record.name for record in records if record.method == "svd"]
    if fallbacks:
        say(f"{target.checkpoint_id}: direct SVD taken for {', '.join(fallbacks)}")
    return output.commit()


def _record_key(key: str) -> str:
    return key.removesuffix(".safetensors") + ".json"


def _make_parts(
    store: Store, parts: list[Part], workers: int, checkpoint_id: str, checkpoint: Checkpoint
) -> None:
    """Make the parts that are not there yet, in this process or in several."""
    missing = [part for part in parts if try_read_json(store, _record_key(part.key)) is None]
    flops = sum(part.flops for part in missing)
    count = min(workers or _worker_count(missing, flops), len(missing))
    with track(f"decompose {checkpoint_id}", flops) as advance:
        if count <= 1:
            for part in missing:
                make_part(part, store, checkpoint, advance)
            return
        with _limited_threads(max(1, cores() // count)):
            pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))
            with pool:
                futures = {pool.submit(_make_part_in_worker, part): part for part in missing}
                try:
                    for future in as_completed(futures):
                        future.result()
                        advance(futures[future].flops)
                except BrokenProcessPool:
                    raise WorkerError(
                        f"a worker process of decompose died, most likely out of memory. Set "
                        f"decompose.workers below {count} and run again; finished parts are kept."
                    ) from None
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise


def _worker_count(parts: list[Part], flops: float) -> int:
    """One process per core while memory lasts; none where starting them costs more than it saves.

    Eigen-solvers of this size use one core well and many badly.
    """
    if flops < 2e12:
        return 1
    each = cost.PROCESS_BYTES + cost.peak_tensor_bytes([t for part in parts for t in part.tensors])
    return max(1, min(cores(), int(0.8 * available_memory_bytes() // each)))


@contextmanager
def _limited_threads(count: int) -> Iterator[None]:
    """Worker processes started in the block use `count` threads each."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    saved = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(count)))
    try:
        yield
    finally:
        for name, value in saved.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _make_part_in_worker(part: Part) -> None:
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    checkpoint = open_checkpoint(part.source, allow_pickle=part.allow_pickle)
    make_part(part, open_store(part.store_url), checkpoint)


def make_part(
    part: Part,
    store: Store,
    checkpoint: Checkpoint,
    advance: Callable[[float, str], None] | None = None,
) -> None:
    """Decompose the tensors of one part, one in memory at a time, and write its file and record.

    Raises:
        NumericalError: a tensor whose decomposition fails its checks twice.
        TensorError: a tensor that is not finite.
    """
    from svdjobs.kernels.spectrum import decompose

    layout = Shard(part.key, tuple(_stored(part)))
    records = []
    with open_shard(store, part.key, layout) as writer:
        for tensor in part.tensors:
            try:
                found = decompose(checkpoint.read(tensor.name), vectors=part.vectors)
            except NumericalError as error:
                raise NumericalError(
                    f"{checkpoint.label}: tensor {tensor.name!r} {list(tensor.shape)}: {error}. "
                    f"Leave it out with selection.exclude, and please report it."
                ) from None
            if found.basis_KK is not None:
                writer.write(found.basis_KK)
            writer.write(found.s_K)
            shape = (tensor.shape[0], tensor.shape[1])
            records.append(
                FactorRecord(
                    name=tensor.name, shape=shape, method=found.method, checks=found.checks
                )
            )
            if advance:
                flops = cost.decompose_flops(tensor.shape, vectors=part.vectors)
                advance(flops, tensor.name)
        file = writer.finish(part.key)
    document = {
        "file": file.model_dump(),
        "tensors": [record.model_dump(mode="json") for record in records],
    }
    write_json(store, _record_key(part.key), document)


def _stored(part: Part) -> Iterator[OutputTensor]:
    for tensor in part.tensors:
        k = min(tensor.shape)
        if part.vectors:
            yield OutputTensor(f"{tensor.name}.basis", "F64", (k, k))
        yield OutputTensor(f"{tensor.name}.s", "F64", (k,))


class Factors:
    """The finished factors of one checkpoint, read tensor by tensor."""

    def __init__(self, store: Store, checkpoint_id: str, *, stage: str) -> None:
        prefix = graph.factors_prefix(checkpoint_id)
        (self.manifest,) = require(store, [prefix], stage=stage)
        entries = {
            entry.name: entry
            for file in self.manifest.files
            if file.key.endswith(".safetensors")
            for entry in read_header(store, f"{prefix}/{file.key}")
        }
        self._tensors = Checkpoint(f"factors of {checkpoint_id}", store, {}, entries)

    def require_origin(self, checkpoint: Checkpoint, identity_: str) -> None:
        """Make sure these are the factors of that checkpoint.

        Raises:
            IncompleteError: the checkpoint has changed since it was decomposed.
        """
        if self.manifest.inputs["checkpoint"] != identity_:
            raise IncompleteError(
                f"{checkpoint.label} has changed since it was decomposed. Run `svdjobs decompose` "
                f"again first."
            )

    def s(self, name: str) -> torch.Tensor:
        """Singular values, float64, descending."""
        return self._tensors.read(f"{name}.s")

    def basis(self, name: str) -> torch.Tensor:
        """Square-side vectors as columns, float64 K×K."""
        return self._tensors.read(f"{name}.basis")
