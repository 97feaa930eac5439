"""evaluate: generate completions with every checkpoint, from the same prompts and seeds, and grade.

Each completion is written to a journal at once, so a killed run generates only the missing ones
when it is resumed. Worker processes grade completions while the engine generates others.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

from svdjobs.config import ENGINES, VARIANTS, SweepConfig
from svdjobs.evaluation import drawing, engine_choice, likelihoods, mapping, multi_gpu, queue
from svdjobs.evaluation.output_keys import evaluation_keys
from svdjobs.evaluation.prompt_sets import check_prompts
from svdjobs.evaluation.results import evaluation_order
from svdjobs.evaluation.session import Session, open_session
from svdjobs.progress import TimeLeft
from svdjobs.records import Manifest
from svdjobs.runs import layout, shards
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import (
    Output,
    OutputKey,
    begin,
    find_manifest,
    is_current,
)
from svdjobs.storage.objects import clear
from svdjobs.storage.store import Store


def run(
    config: SweepConfig,
    store: Store,
    *,
    checkpoint_ids: Sequence[str] | None = None,
    force: bool = False,
) -> list[Manifest]:
    """Evaluate the run's checkpoints, or `checkpoint_ids` of them, on every benchmark.

    Returns the manifests of the completions; checkpoints that only read have none. The settings are
    checked before any existing output is cleared.
    """
    manifests: dict[tuple[str, str], Manifest] = {}
    with open_session(config, store) as session:
        benchmarks = session.benchmarks
        ids = _named(config, checkpoint_ids)
        wanted = evaluation_order([i for i in ids if i != VARIANTS])
        keys = _keys(session, wanted)
        sampled = set(layout.sampled_ids(config))
        prefixes = {pair: layout.results_prefix(*pair) for pair in keys if pair[0] in sampled}
        if force or not all(is_current(store, prefixes[pair], keys[pair]) for pair in prefixes):
            _check_settings(session, wanted)
        outputs = {pair: begin(store, prefixes[pair], keys[pair], force=force) for pair in prefixes}
        missing = _missing(session, keys, outputs, force=force)
        # A checkpoint that draws is finished before it has read.
        ends = {pair: "draw" if pair in outputs else "read" for pair in keys}
        unfinished = [
            i for i in wanted if any((ends[i, b.name], i, b.name) in missing for b in benchmarks)
        ]
        groups = multi_gpu.device_groups(session.evaluate)
        if len(groups) > 1 and unfinished:
            if force:  # the processes make these, and this one must not make them once more
                for pair in keys:
                    clear(store, layout.likelihoods_prefix(*pair))
                    clear(store, layout.second_grades_prefix(*pair))
                for benchmark in benchmarks if VARIANTS in ids else ():
                    clear(store, layout.map_prefix(benchmark.name))
                force = False
            rest = [VARIANTS] if VARIANTS in ids else []
            multi_gpu.run(config, store, [*unfinished, *rest], groups)
            outputs = {pair: begin(store, prefixes[pair], keys[pair]) for pair in prefixes}
            missing = {}
        elif unfinished and VARIANTS in ids and (config.variants or config.map):
            session.engine_holder.check_takes_variants()  # before hours of sampling, not after them
        left = TimeLeft("drawings and readings", missing)
        for checkpoint_id in wanted:
            for benchmark in benchmarks:
                pair = checkpoint_id, benchmark.name
                if pair in outputs:
                    with left.one(("draw", *pair)):
                        manifests[pair] = drawing.draw(
                            session, checkpoint_id, benchmark, outputs[pair], force=force
                        )
                # While the engine still holds this checkpoint.
                with left.one(("read", *pair)):
                    likelihoods.make(session, checkpoint_id, benchmark, keys[pair], force=force)
        if VARIANTS in ids:
            for benchmark in benchmarks:
                mapping.make(session, benchmark, force=force)
        named = {benchmark.name: benchmark for benchmark in benchmarks}
        for (checkpoint_id, name), manifest in manifests.items():
            drawing.run_second_grader(session, checkpoint_id, named[name], manifest, force=force)
    return list(manifests.values())


def _named(config: SweepConfig, checkpoint_ids: Sequence[str] | None) -> list[str]:
    """The checkpoints to evaluate. The id `variants` stands for all variants and the map."""
    if checkpoint_ids is None:
        return [*layout.evaluated_ids(config), VARIANTS]
    variants = config.variants if VARIANTS in checkpoint_ids else ()
    return [*checkpoint_ids, *(name for name in variants if name not in checkpoint_ids)]


def check_engine_before_sweep(config: SweepConfig, store: Store) -> None:
    """Check the engine before the sweep computes anything: `run` would fail hours later.

    Raises:
        ConfigError: the engine is not installed, or leaves the GPUs of this machine idle.
    """
    evaluate = config.evaluate
    if evaluate is None:
        return
    multi_gpu.select_gpus(evaluate)
    benchmarks = config.benchmarks
    prefixes = [
        *(layout.results_prefix(i, b.name) for i in layout.sampled_ids(config) for b in benchmarks),
        *(
            layout.likelihoods_prefix(i, b.name)
            for i in layout.read_ids(config)
            for b in benchmarks
        ),
    ]
    if not all(find_manifest(store, prefix) for prefix in prefixes):
        after = RunCheckpoints(config).headers(config.after)
        engine = engine_choice.choose_engine(evaluate, after)
        engine_choice.check_engine(evaluate.model_copy(update={"engine": engine}))


def run_shared(
    config: SweepConfig, store: Store, *, checkpoint_ids: Sequence[str] | None = None
) -> None:
    """The same as `run`, beside other processes that do the same: each piece of work is done by one
    of them."""
    with open_session(config, store) as session:
        queue.walk(session, ids=_named(config, checkpoint_ids), check=_check_settings)


def run_shard(
    config: SweepConfig, store: Store, *, checkpoint_id: str, shard_id: str
) -> Manifest | None:
    """Evaluate one checkpoint on one shard of a benchmark's problems, in a pod.

    The id `variants` stands for all variants and the map, which are not divided into shards, and
    `engines` for all that the run lacks, which this pod shares with others (`queue`). A checkpoint
    that only reads is read by the pod of the first shard. Returns None for these, and while other
    shards are missing. The pod that finishes the last shard joins and grades all of them; the
    output is the same as that of `run`.
    """
    if checkpoint_id == ENGINES:
        run_shared(config, store)
        return None
    if checkpoint_id == VARIANTS:
        run(config, store, checkpoint_ids=[VARIANTS])
        return None
    shard = shards.shard_with_id(shards.evaluate_shards(config), shard_id)
    with open_session(config, store, only_checkpoint=checkpoint_id) as session:
        (benchmark,) = (b for b in session.benchmarks if b.name == shard.name)
        key = _keys(session, [checkpoint_id])[checkpoint_id, benchmark.name]
        if checkpoint_id not in layout.sampled_ids(config):
            if shard.number == 0:
                _check_settings(session, [checkpoint_id])
                likelihoods.make(session, checkpoint_id, benchmark, key)
            return None
        if not is_current(store, layout.results_prefix(checkpoint_id, benchmark.name), key):
            _check_settings(session, [checkpoint_id])
        manifest = drawing.draw_shard(session, checkpoint_id, benchmark, shard, key)
        if manifest is not None:
            likelihoods.make(session, checkpoint_id, benchmark, key)
            drawing.run_second_grader(session, checkpoint_id, benchmark, manifest)
        return manifest


def _keys(session: Session, checkpoint_ids: Sequence[str]) -> dict[tuple[str, str], OutputKey]:
    return evaluation_keys(
        session.checkpoints, session.evaluate, session.store, checkpoint_ids, session.benchmarks
    )


def _missing(
    session: Session,
    keys: Mapping[tuple[str, str], OutputKey],
    outputs: Mapping[tuple[str, str], Output],
    *,
    force: bool,
) -> dict[Hashable, str]:
    """The drawings and readings that are not finished: `(what, checkpoint, benchmark)` → kind."""
    pieces: dict[Hashable, str] = {}
    for pair, key in keys.items():
        if pair in outputs and outputs[pair].finished is None:
            pieces["draw", *pair] = f"draw {pair[1]}"
        if force or not likelihoods.is_finished(session, *pair, key):
            pieces["read", *pair] = f"read {pair[1]}"
    return pieces


def _check_settings(session: Session, checkpoint_ids: Sequence[str]) -> None:
    """Check the engine, and the prompts of every checkpoint.

    Raises:
        ConfigError, CheckpointError, BenchmarkError: they cannot be used.
    """
    engine_choice.check_engine(session.evaluate)
    for checkpoint_id in checkpoint_ids:
        check_prompts(session.checkpoints, checkpoint_id, session.prompt_set(checkpoint_id).prompts)
