"""evaluate: generate completions with every checkpoint, from the same prompts and seeds, and grade.

Each completion is written to a journal at once, so a killed run generates only the missing ones
when it is resumed. Worker processes grade completions while the engine generates others.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from svdjobs.config import VARIANTS, SweepConfig
from svdjobs.errors import IncompleteError, MissingKeyError
from svdjobs.evaluation import (
    engine_choice,
    grades,
    likelihoods,
    mapping,
    multi_gpu,
    second_grades,
)
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.engines.protocol import Request, make_requests
from svdjobs.evaluation.generation import (
    COMPLETIONS,
    ENGINE,
    PROMPTS,
    completions_in,
    generate_missing,
)
from svdjobs.evaluation.output_keys import evaluation_keys, seed_of, write_source
from svdjobs.evaluation.prompt_sets import check_prompts
from svdjobs.evaluation.prompts import prompts_sha256
from svdjobs.evaluation.results import evaluation_order
from svdjobs.evaluation.session import Session, open_session
from svdjobs.progress import TimeLeft
from svdjobs.records import Completion, Grade, Manifest
from svdjobs.runs import layout, shards
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import (
    Output,
    OutputKey,
    begin,
    find_manifest,
    is_current,
    read_finished,
)
from svdjobs.storage.objects import clear, write_lines
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
        unfinished = [
            i
            for i in wanted
            if not all(_is_finished(session, i, b, keys, outputs, force=force) for b in benchmarks)
        ]
        groups = multi_gpu.device_groups(session.evaluate)
        if len(groups) > 1 and len(unfinished) > 1:
            if force:  # the processes make these, and this one must not make them once more
                for pair in keys:
                    clear(store, layout.likelihoods_prefix(*pair))
                    clear(store, layout.second_grades_prefix(*pair))
                for benchmark in benchmarks if VARIANTS in ids else ():
                    clear(store, layout.map_prefix(benchmark.name))
                force = False
            multi_gpu.run(config, store, unfinished, groups)
            outputs = {pair: begin(store, prefixes[pair], keys[pair]) for pair in prefixes}
        elif unfinished and VARIANTS in ids and (config.variants or config.map):
            session.engine_holder.check_takes_variants()  # before hours of sampling, not after them
        left = _left(session, keys, outputs, force=force)
        for checkpoint_id in wanted:
            for benchmark in benchmarks:
                pair = checkpoint_id, benchmark.name
                if pair in outputs:
                    with left.one(("draw", *pair)):
                        manifests[pair] = _generate_and_grade(
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
            _run_second_grader(session, checkpoint_id, named[name], manifest, force=force)
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


def run_shard(
    config: SweepConfig, store: Store, *, checkpoint_id: str, shard_id: str
) -> Manifest | None:
    """Evaluate one checkpoint on one shard of a benchmark's problems, in a pod.

    The id `variants` stands for all variants and the map, which are not divided into shards. A
    checkpoint that only reads is read by the pod of the first shard. Returns None for both, and
    while other shards are missing. The pod that finishes the last shard joins and grades all of
    them; the output is the same as that of `run`.
    """
    if checkpoint_id == VARIANTS:
        run(config, store, checkpoint_ids=[VARIANTS])
        return None
    all_shards = shards.evaluate_shards(config)
    shard = shards.shard_with_id(all_shards, shard_id)
    with open_session(config, store, only_checkpoint=checkpoint_id) as session:
        (benchmark,) = (b for b in session.benchmarks if b.name == shard.name)
        key = _keys(session, [checkpoint_id])[checkpoint_id, benchmark.name]
        if checkpoint_id not in layout.sampled_ids(config):
            if shard.number == 0:
                _check_settings(session, [checkpoint_id])
                likelihoods.make(session, checkpoint_id, benchmark, key)
            return None
        prefix = layout.results_prefix(checkpoint_id, benchmark.name)
        if not is_current(store, prefix, key):
            _check_settings(session, [checkpoint_id])
            if shard.of > 1 and not _generate_shard(session, checkpoint_id, benchmark, shard, key):
                return None
        output = begin(store, prefix, key)
        of_benchmark = [s for s in all_shards if s.name == shard.name and shard.of > 1]
        if output.finished is None and of_benchmark:
            try:
                _join(checkpoint_id, of_benchmark, output)
            except (IncompleteError, MissingKeyError):
                # Another pod has joined the shards and deleted them.
                output = begin(store, prefix, key)
                if output.finished is None:
                    raise
        completions_manifest = _generate_and_grade(
            session, checkpoint_id, benchmark, output, force=False
        )
        for joined in of_benchmark:
            clear(store, layout.shard_prefix(checkpoint_id, joined.id))
        likelihoods.make(session, checkpoint_id, benchmark, key)
        _run_second_grader(session, checkpoint_id, benchmark, completions_manifest, force=False)
        return completions_manifest


def _keys(session: Session, checkpoint_ids: Sequence[str]) -> dict[tuple[str, str], OutputKey]:
    return evaluation_keys(
        session.checkpoints, session.evaluate, session.store, checkpoint_ids, session.benchmarks
    )


def _is_finished(
    session: Session,
    checkpoint_id: str,
    benchmark: Benchmark,
    keys: Mapping[tuple[str, str], OutputKey],
    outputs: Mapping[tuple[str, str], Output],
    *,
    force: bool,
) -> bool:
    """Whether a checkpoint has drawn all it should on a benchmark, or read it if it draws none."""
    pair = checkpoint_id, benchmark.name
    if pair in outputs:
        return outputs[pair].finished is not None
    return not force and likelihoods.is_finished(session, *pair, keys[pair])


def _left(
    session: Session,
    keys: Mapping[tuple[str, str], OutputKey],
    outputs: Mapping[tuple[str, str], Output],
    *,
    force: bool,
) -> TimeLeft:
    """The drawings and readings that are not finished."""
    pieces: dict[Hashable, str] = {}
    for pair, key in keys.items():
        if pair in outputs and outputs[pair].finished is None:
            pieces["draw", *pair] = f"draw {pair[1]}"
        if force or not likelihoods.is_finished(session, *pair, key):
            pieces["read", *pair] = f"read {pair[1]}"
    return TimeLeft("drawings and readings", pieces)


def _check_settings(session: Session, checkpoint_ids: Sequence[str]) -> None:
    """Check the engine, and the prompts of every checkpoint.

    Raises:
        ConfigError, CheckpointError, BenchmarkError: they cannot be used.
    """
    engine_choice.check_engine(session.evaluate)
    for checkpoint_id in checkpoint_ids:
        check_prompts(session.checkpoints, checkpoint_id, session.prompt_set(checkpoint_id).prompts)


def _requests(
    session: Session, checkpoint_id: str, benchmark: Benchmark, shard: shards.Shard | None = None
) -> list[Request]:
    """Requests for all completions of a benchmark, or of one shard of its problems."""
    problems = benchmark.problems
    prompts = session.prompt_set(checkpoint_id).prompts[benchmark.name]
    if shard is not None:
        problems, prompts = shard.pick(problems), shard.pick(prompts)
    seed = seed_of(session.evaluate, checkpoint_id)
    return make_requests(problems, prompts, session.evaluate.n_samples, seed)


def _generate_shard(
    session: Session, checkpoint_id: str, benchmark: Benchmark, shard: shards.Shard, key: OutputKey
) -> bool:
    """Generate the completions of a shard. Returns whether all shards of the benchmark are done."""

    def prefix_and_key(number: int) -> tuple[str, OutputKey]:
        # share: the historic spelling of shard, in stored keys.
        inputs = {**key.inputs, "share": f"{number} of {shard.of}"}
        prefix = layout.shard_prefix(checkpoint_id, shard._replace(number=number).id)
        return prefix, replace(key, inputs=inputs)

    output = begin(session.store, *prefix_and_key(shard.number))
    if output.finished is None:
        requests = _requests(session, checkpoint_id, benchmark, shard)
        label = f"evaluate {checkpoint_id} on {shard.id}"
        # The pod that joins the shards grades all completions, so none are graded here.
        generate_missing(
            output,
            requests,
            lambda: session.engine_with(checkpoint_id),
            lambda _: None,
            label,
            session.timed("draw", checkpoint_id, benchmark.name),
        )
        # A shard without problems has started no engine.
        if not session.store.exists(output.key(ENGINE)):
            output.put_json(ENGINE, [])
        output.adopt(ENGINE)
        output.commit()
    return all(is_current(session.store, *prefix_and_key(number)) for number in range(shard.of))


def _join(checkpoint_id: str, all_shards: Sequence[shards.Shard], output: Output) -> None:
    """Write the completions of all shards to the output of the whole evaluation."""
    completions: list[Completion] = []
    engines: list[dict[str, Any]] = []
    for shard in all_shards:
        prefix = layout.shard_prefix(checkpoint_id, shard.id)
        completions += completions_in(read_finished(output.store, prefix, COMPLETIONS))
        settings = json.loads(read_finished(output.store, prefix, ENGINE))
        engines += [item for item in settings if item not in engines]
    completions.sort(key=lambda c: (c.idx, c.sample_index))
    output.put_json(ENGINE, engines)
    lines = [completion.model_dump_json() for completion in completions]
    write_lines(output.store, output.key(COMPLETIONS), lines)


def _generate_and_grade(
    session: Session, checkpoint_id: str, benchmark: Benchmark, output: Output, *, force: bool
) -> Manifest:
    """Generate the missing completions of an output, and grade those without current grades."""
    graded: tuple[Sequence[Completion], Sequence[Grade]] | None = None
    completions_manifest = output.finished
    if completions_manifest is None:
        # Fails if the benchmark has no readable gold, before the engine generates anything.
        session.grader.unreadable_golds(benchmark)
        completions = generate_missing(
            output,
            _requests(session, checkpoint_id, benchmark),
            lambda: session.engine_with(checkpoint_id),
            session.grader.submitter(benchmark),
            f"evaluate {checkpoint_id} on {benchmark.name}",
            session.timed("draw", checkpoint_id, benchmark.name),
        )
        output.adopt(ENGINE)
        prompts = session.prompt_set(checkpoint_id).prompts[benchmark.name]
        output.write_json(PROMPTS, {"prompts_sha256": prompts_sha256(prompts)})
        write_source(output, session.config, checkpoint_id)
        completions_manifest = output.commit()
        graded = completions, session.grader.pool.collect()
    grades.make(
        session.store,
        checkpoint_id,
        benchmark,
        completions_manifest,
        session.grader,
        graded=graded,
        force=force,
    )
    return completions_manifest


def _run_second_grader(
    session: Session,
    checkpoint_id: str,
    benchmark: Benchmark,
    completions_manifest: Manifest,
    *,
    force: bool,
) -> None:
    if session.evaluate.second_grader != "off":
        second_grades.make(
            session.store,
            benchmark,
            checkpoint_id,
            completions_manifest,
            lambda: session.grader.pool,
            force=force,
        )
