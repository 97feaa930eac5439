"""Draws and grades the completions of one checkpoint on one benchmark, or on a shard of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from svdjobs.errors import IncompleteError, MissingKeyError
from svdjobs.evaluation import grades, second_grades
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.engines.protocol import Request, make_requests
from svdjobs.evaluation.generation import (
    COMPLETIONS,
    ENGINE,
    PROMPTS,
    completions_in,
    generate_missing,
)
from svdjobs.evaluation.output_keys import seed_of, write_source
from svdjobs.evaluation.prompts import prompts_sha256
from svdjobs.evaluation.session import Session
from svdjobs.records import Completion, Grade, Manifest
from svdjobs.runs import layout, shards
from svdjobs.runs.outputs import Output, OutputKey, begin, is_current, read_finished
from svdjobs.storage.objects import clear, write_lines


def draw_shard(
    session: Session, checkpoint_id: str, benchmark: Benchmark, shard: shards.Shard, key: OutputKey
) -> Manifest | None:
    """Draw a shard's completions. Who finishes the last shard joins and grades all of them.

    Returns the manifest of the whole benchmark's completions; None while other shards are missing.
    """
    store = session.store
    prefix = layout.results_prefix(checkpoint_id, benchmark.name)
    whole = shard.of == 1 or is_current(store, prefix, key)
    if not whole and not _generate_shard(session, checkpoint_id, benchmark, shard, key):
        return None
    output = begin(store, prefix, key)
    all_shards = shard.all if shard.of > 1 else []
    if output.finished is None and all_shards:
        try:
            _join(checkpoint_id, all_shards, output)
        except (IncompleteError, MissingKeyError):
            # Another pod has joined the shards and deleted them.
            output = begin(store, prefix, key)
            if output.finished is None:
                raise
    manifest = draw(session, checkpoint_id, benchmark, output, force=False)
    for joined in all_shards:
        clear(store, layout.shard_prefix(checkpoint_id, joined.id))
    return manifest


def shard_is_drawn(
    session: Session, checkpoint_id: str, shard: shards.Shard, key: OutputKey
) -> bool:
    """Whether there is nothing to do for a shard: all are joined and graded, or this one is drawn
    and others are missing."""
    store = session.store
    if is_current(store, layout.results_prefix(checkpoint_id, shard.name), key):
        return grades.find(store, checkpoint_id, shard.name) is not None
    if shard.of == 1 or not is_current(store, *_prefix_and_key(checkpoint_id, shard, key)):
        return False
    return not _all_are_drawn(session, checkpoint_id, shard, key)


def draw(
    session: Session, checkpoint_id: str, benchmark: Benchmark, output: Output, *, force: bool
) -> Manifest:
    """Draw the missing completions of an output, and grade those without current grades."""
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


def run_second_grader(
    session: Session,
    checkpoint_id: str,
    benchmark: Benchmark,
    completions_manifest: Manifest,
    *,
    force: bool = False,
) -> None:
    """Let the second grader judge a benchmark's completions, unless the config says `off`."""
    if session.evaluate.second_grader != "off":
        second_grades.make(
            session.store,
            benchmark,
            checkpoint_id,
            completions_manifest,
            lambda: session.grader.pool,
            force=force,
        )


def _generate_shard(
    session: Session, checkpoint_id: str, benchmark: Benchmark, shard: shards.Shard, key: OutputKey
) -> bool:
    """Generate the completions of a shard. Returns whether all shards of the benchmark are done."""
    output = begin(session.store, *_prefix_and_key(checkpoint_id, shard, key))
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
    return _all_are_drawn(session, checkpoint_id, shard, key)


def _all_are_drawn(
    session: Session, checkpoint_id: str, shard: shards.Shard, key: OutputKey
) -> bool:
    """Whether all shards of the benchmark are drawn, and not joined yet."""
    found = (_prefix_and_key(checkpoint_id, one, key) for one in shard.all)
    return all(is_current(session.store, *one) for one in found)


def _prefix_and_key(
    checkpoint_id: str, shard: shards.Shard, key: OutputKey
) -> tuple[str, OutputKey]:
    """Prefix and key of a shard's output; `key` is that of the whole benchmark."""
    # share: the historic spelling of shard, in stored keys.
    inputs = {**key.inputs, "share": f"{shard.number} of {shard.of}"}
    return layout.shard_prefix(checkpoint_id, shard.id), replace(key, inputs=inputs)


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
