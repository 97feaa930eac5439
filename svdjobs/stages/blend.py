"""blend: write one checkpoint per alpha, in one pass over the weights.

Each tensor is read once, and its D is computed once. It is then written at every alpha while the
next tensors are prepared. Memory depends on the largest tensor and the number of threads, not on
the number of alphas. A weight file whose record exists is not written again, so a killed run
resumes with the next weight file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from svdjobs.checkpoint.card import BLEND_META, blend_meta, model_card
from svdjobs.checkpoint.classic_pt import log_name, pickled
from svdjobs.checkpoint.reader import INDEX, Checkpoint, config_dtype_fields
from svdjobs.checkpoint.safetensors_format import SAFETENSORS_NAMES, OutputTensor
from svdjobs.checkpoint.writer import (
    Shard,
    ShardWriter,
    index_bytes,
    open_shard,
    to_storage,
    weight_files,
)
from svdjobs.config import SweepConfig
from svdjobs.devices import Pool, computing_beside
from svdjobs.parallel import in_order, threads, worker_count
from svdjobs.progress import Advance, say, track
from svdjobs.records import BlendRecord, CastRecord, FileRecord, Manifest, Plan, TensorPlan
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import Output, OutputKey, begin
from svdjobs.statistics import LARGEST_CAST_ERROR, cast_error_total
from svdjobs.storage.objects import record_in, write_bytes, write_json
from svdjobs.storage.store import Store
from svdjobs.weights.blended import (
    PreparedMatrix,
    PreparedTensor,
    Sources,
    StoredTensor,
    names_to_check,
    open_sources,
    peak_bytes,
    prepare_tensor,
    stored_dtype,
    stored_tensors,
)

if TYPE_CHECKING:
    import torch

    from svdjobs.kernels.cast import Kept

STAGE = "blend"
VERSION = "4"
# Weight files that are open at a time, one per alpha; the usual limit is 1,024 open files.
ALPHAS_PER_PASS = 64
# A chunk of this size stays in a core's cache through the blend, three casts and the hash. That is
# four times faster than chunks of a million.
CHUNK_ELEMENTS = 1 << 16


@dataclass
class _Job:
    """The checkpoint of one alpha that is being made. Without a writer it is measured only."""

    alpha: float
    output: Output
    writer: ShardWriter | None = None
    records: list[BlendRecord] = field(default_factory=list)
    logs: list[FileRecord] = field(default_factory=list)


def run(
    config: SweepConfig,
    store: Store,
    *,
    alphas: Sequence[float] | None = None,
    force: bool = False,
) -> list[Manifest]:
    """Write the checkpoints of all alphas of the run, or of `alphas`."""
    wanted = config.alphas if alphas is None else alphas
    if not wanted:
        return []
    sources = open_sources(RunCheckpoints(config), store, stage=STAGE)
    plan = sources.plan
    jobs = []
    for alpha in wanted:
        settings = {
            "alpha": alpha,
            "names": [config.before, config.after],
            **layout.direction_settings(config),
            "skipped": {t.name: t.skip for t in plan.tensors if t.skip},
            **config.blend.model_dump(mode="json"),
        }
        prefix = layout.checkpoint_prefix(alpha)
        output = begin(
            store,
            prefix,
            OutputKey(
                stage=STAGE,
                version=VERSION,
                config=settings,
                inputs=sources.fingerprints,
            ),
            force=force,
        )
        jobs.append(_Job(alpha, output))
    pending = [job for job in jobs if job.output.finished is None]
    for start in range(0, len(pending), ALPHAS_PER_PASS):
        _blend_alphas(config, store, sources, pending[start:][:ALPHAS_PER_PASS])
    return [job.output.finished for job in jobs if job.output.finished is not None]


def _blend_alphas(
    config: SweepConfig,
    store: Store,
    sources: Sources,
    jobs: list[_Job],
) -> None:
    """Write the checkpoints of some alphas, one weight file after the other."""
    plan, bases = sources.plan, sources.bases
    tensors = stored_tensors(sources)
    storage = SAFETENSORS_NAMES[config.blend.storage_dtype]
    outputs = [OutputTensor(t.name, stored_dtype(config, t), t.shape) for t in tensors]
    all_files = weight_files(outputs, config.blend.max_shard_bytes)
    by_name = {tensor.name: tensor for tensor in tensors}
    checked = names_to_check(plan.selected)
    total = sum(weight_file.bytes for weight_file in all_files) * len(jobs)
    sizes = {job.alpha: store.sizes(job.output.prefix) for job in jobs}
    missing = {
        weight_file.name: [
            j for j in jobs if not j.output.part_is_done(_record_name(weight_file), sizes[j.alpha])
        ]
        for weight_file in all_files
    }
    ahead = [
        by_name[t.name]
        for weight_file in all_files
        if missing[weight_file.name]
        for t in weight_file.tensors
    ]

    def prepare(tensor: StoredTensor) -> PreparedTensor:
        return prepare_tensor(tensor, sources, checked)

    bytes_each, device = peak_bytes(sources), config.compute.device
    workers = worker_count(bytes_each)
    with (
        track(f"blend {len(jobs)} alphas", total) as advance,
        threads(workers) as pool,
        computing_beside(Pool(pool, workers), device, bytes_each) as preparing,
    ):
        chosen = [tensor for tensor in ahead if tensor.chosen]
        blends = in_order(preparing.threads, prepare, chosen, ahead=2 * preparing.workers)
        for weight_file in all_files:
            pending = missing[weight_file.name]
            advance(weight_file.bytes * (len(jobs) - len(pending)))
            if pending:
                _write_weight_file(
                    store,
                    weight_file,
                    pending,
                    [by_name[tensor.name] for tensor in weight_file.tensors],
                    blends,
                    bases,
                    storage,
                    Pool(pool, workers),
                    config=config,
                    advance=advance,
                )
    for job in jobs:
        _finish(config, plan, bases, all_files, job)


def _record_name(weight_file: Shard) -> str:
    return f"svd_logs/{weight_file.name}.json"


def _write_weight_file(
    store: Store,
    weight_file: Shard,
    jobs: list[_Job],
    tensors: list[StoredTensor],
    blends: Iterator[PreparedTensor],
    bases: Checkpoint,
    storage: str,
    pool: Pool,
    *,
    config: SweepConfig,
    advance: Advance,
) -> None:
    """Write one weight file of several alphas, some of them by each thread."""
    workers = pool.workers
    with ExitStack() as stack:
        for job in jobs:
            if config.blend.write_checkpoints:
                key = job.output.key(weight_file.name)
                job.writer = stack.enter_context(open_shard(store, key, weight_file))
            job.records, job.logs = [], []
        for tensor, stored in zip(tensors, weight_file.tensors, strict=True):
            if tensor.chosen:
                prepared = next(blends)
                # A thread writes some of the alphas, chunk by chunk: what their casts have in
                # common is computed once.
                shares = [jobs[start::workers] for start in range(min(workers, len(jobs)))]
                running = [
                    pool.threads.submit(
                        _write_blends, store, tensor.name, prepared, some, storage, config
                    )
                    for some in shares
                ]
                # If one fails, ExitStack closes the files, so no other may still be writing.
                wait(running)
                for future in running:
                    future.result()
            else:
                _copy(tensor, bases, jobs, stored.dtype)
            advance(stored.bytes * len(jobs), tensor.name)
        files = [
            job.writer.finish(job.output.key(weight_file.name)) if job.writer else None
            for job in jobs
        ]
    for job, file in zip(jobs, files, strict=True):
        document = {
            "file": file.model_dump() if file else None,
            "tensors": [record.model_dump(mode="json") for record in job.records],
            "logs": [log.model_dump() for log in job.logs],
        }
        write_json(store, job.output.key(_record_name(weight_file)), document)


def _write_blends(
    store: Store,
    name: str,
    prepared: PreparedTensor,
    jobs: Sequence[_Job],
    storage: str,
    config: SweepConfig,
) -> None:
    """Write one tensor at some alphas, and measure what each dtype keeps of its matrices."""
    if not prepared.alone and any(job.writer for job in jobs):
        _write_and_measure(name, prepared.w, prepared.d, jobs, storage, write=True, measure=False)
    for tensor, matrix in prepared.parts:
        w, d = matrix.w_MN.reshape(-1), matrix.d_MN.reshape(-1)
        measured = _write_and_measure(tensor.name, w, d, jobs, storage, write=prepared.alone)
        for job, casts in zip(jobs, measured, strict=True):
            _record_matrix(store, tensor, matrix, job, _records(casts, matrix, job), config)


def _write_and_measure(
    name: str,
    w: torch.Tensor,
    d: torch.Tensor,
    jobs: Sequence[_Job],
    storage: str,
    *,
    write: bool,
    measure: bool = True,
) -> list[dict[str, Kept]]:
    """Blend a flat tensor chunk by chunk. Returns what each cast keeps of it, for each alpha."""
    import torch

    from svdjobs.kernels import cast
    from svdjobs.kernels.blend import blend

    sums = [{name: cast.Kept(0.0, 0.0) for name in cast.CAST_DTYPES} for _ in jobs]
    pairs = zip(
        w.split(CHUNK_ELEMENTS),  # type: ignore[no-untyped-call]
        d.split(CHUNK_ELEMENTS),  # type: ignore[no-untyped-call]
        strict=True,
    )
    for w_C, d_C in pairs:
        w32_C = w_C.to(torch.float32)
        casts = {
            n: cast.Cast(w32_C, d_C, dtype) for n, dtype in cast.CAST_DTYPES.items() if measure
        }
        for job, own in zip(jobs, sums, strict=True):
            w_alpha_C = blend(w_C if job.alpha == 1 else w32_C, d_C, job.alpha)
            if write and job.writer:
                job.writer.write(to_storage(w_alpha_C, storage, name))
            for dtype, found in casts.items() if job.alpha != 1 else ():
                kept = found.kept(w_alpha_C, job.alpha)
                before = own[dtype]
                own[dtype] = cast.Kept(
                    before.projection + kept.projection, before.error + kept.error
                )
    return sums


def _records(casts: dict[str, Kept], matrix: PreparedMatrix, job: _Job) -> dict[str, CastRecord]:
    from svdjobs.kernels import cast

    change = (1 - job.alpha) * matrix.signal_norm
    signal = cast.signal(matrix.signal_norm**2, job.alpha)
    return {
        name: CastRecord(
            projection=kept.projection, signal=signal, error=kept.error, change=change**2
        )
        for name, kept in casts.items()
    }


def _record_matrix(
    store: Store,
    tensor: TensorPlan,
    matrix: PreparedMatrix,
    job: _Job,
    casts: dict[str, CastRecord],
    config: SweepConfig,
) -> None:
    """Record one blended matrix, with its spectra in a log file."""
    import torch

    from svdjobs.kernels import blend

    target_K = blend.target_spectrum(matrix.s_values_K, matrix.s_bases_K, job.alpha)
    sigma = {config.values_of: matrix.s_values_K, config.bases_of: matrix.s_bases_K}
    svd_logs = config.blend.svd_logs
    log_file = f"svd_logs/alpha_{job.alpha:g}/{log_name(tensor.name)}.pt"
    if svd_logs:
        content = {
            "sigma_before": sigma["before"],
            "sigma_after": sigma["after"],
            "sigma_blend": target_K,
            "shape": torch.tensor(tensor.shape),
            "alpha": torch.tensor(job.alpha, dtype=torch.float64),
        }
        key = job.output.key(log_file)
        job.logs.append(write_bytes(store, key, pickled(content)))
    job.records.append(
        BlendRecord(
            name=tensor.name,
            shape=(tensor.shape[0], tensor.shape[1]),
            guarded=matrix.guarded,
            signal_norm=matrix.signal_norm,
            weight_norm=matrix.weight_norm,
            casts=casts,
            spectrum_error=matrix.spectrum_error,
            log_file=log_file if svd_logs else "",
        )
    )


def _copy(tensor: StoredTensor, bases: Checkpoint, jobs: list[_Job], dtype: str) -> None:
    """Write a skipped tensor with the values of the bases, piece by piece."""
    writers = [job.writer for job in jobs if job.writer]
    if not writers:
        return
    for piece in bases.chunks(tensor.name):
        cast = to_storage(piece, dtype, tensor.name)
        for writer in writers:
            writer.write(cast)


def _finish(
    config: SweepConfig,
    plan: Plan,
    bases: Checkpoint,
    all_files: list[Shard],
    job: _Job,
) -> None:
    """Write the files of a checkpoint other than its weights, then the manifest."""
    output = job.output
    records: list[BlendRecord] = []
    for weight_file in all_files:
        document = json.loads(output.adopt(_record_name(weight_file)))
        if document["file"]:
            output.add(record_in(FileRecord, document["file"], "a weight file's record"))
        for log in document["logs"]:
            output.add(record_in(FileRecord, log, "a weight file's record"))
        records += [
            record_in(BlendRecord, item, "a weight file's record") for item in document["tensors"]
        ]
    for name in bases.companions():
        output.write(name, bytes(bases.store.read(name)))
    if config.blend.write_checkpoints and (index := index_bytes(all_files)):
        output.write(INDEX, index)
    output.write_json("config.json", config_dtype_fields(bases.config, config.blend.storage_dtype))
    output.write_json(BLEND_META, blend_meta(config, plan, job.alpha, records))
    output.write("README.md", model_card(config, job.alpha, records).encode())
    output.commit()
    _warn_of_rounding(config, job.alpha, records)


def _warn_of_rounding(config: SweepConfig, alpha: float, records: Sequence[BlendRecord]) -> None:
    """Warn if the storage dtype rounds away most of a blend."""
    dtype = config.blend.storage_dtype
    error = cast_error_total(records)[dtype]
    if error is not None and error > LARGEST_CAST_ERROR:
        say(
            f"alpha {alpha:g}: rounding noise in blend.storage_dtype {dtype} is {error:.2g} times "
            f"the difference between the blend and {config.bases_of}"
        )
