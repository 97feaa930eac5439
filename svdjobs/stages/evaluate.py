"""evaluate: ask every checkpoint the same questions with the same seeds, grade.

Each completion is kept from the moment it is drawn, in a journal beside the output to be, so a
killed run draws only what is missing. Grading goes on in worker processes meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from svdjobs.config import SweepConfig
from svdjobs.errors import IncompleteError, MissingKeyError
from svdjobs.evaluation import engine_choice, multi_gpu
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.engines.protocol import make_requests
from svdjobs.evaluation.generation import COMPLETIONS, ENGINE, PROMPTS, completions_in, drawn
from svdjobs.evaluation.prompts import prompts_sha256
from svdjobs.evaluation.results import in_order_of_work
from svdjobs.evaluation.session import Work, identities, opened, seed_of
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
    """Evaluate the run's checkpoints, or those named, on every benchmark.

    What the settings cannot do is found before anything that is there makes way for it.
    """
    manifests: list[Manifest] = []
    with opened(config, store) as work:
        evaluate, benchmarks = work.evaluate, work.benchmarks
        groups = multi_gpu.device_groups(evaluate)
        ids = layout.evaluated_ids(config) if checkpoint_ids is None else checkpoint_ids
        wanted = in_order_of_work(ids)
        what = identities(work, wanted)
        places = {key: layout.results_prefix(*key) for key in what}
        if force or not all(is_current(store, places[key], what[key]) for key in what):
            engine_choice.require(evaluate)
            for checkpoint_id in wanted:
                work.asking(checkpoint_id)
        outputs = {key: begin(store, places[key], what[key], force=force) for key in what}
        unfinished = [
            i for i in wanted if any(outputs[i, b.name].finished is None for b in benchmarks)
        ]
        if len(groups) > 1 and len(unfinished) > 1:
            multi_gpu.run(config, store, unfinished, groups)
            outputs = {key: begin(store, places[key], what[key]) for key in what}
        for checkpoint_id in wanted:
            for benchmark in benchmarks:
                finished = _evaluate(
                    work, checkpoint_id, benchmark, outputs[checkpoint_id, benchmark.name],
                    force=force,
                )  # fmt: skip
                manifests.append(finished)
                if evaluate.teacher_forced:
                    work.take_likelihoods(checkpoint_id, benchmark, finished, force=force)
        pairs = [(checkpoint_id, benchmark) for checkpoint_id in wanted for benchmark in benchmarks]
        for (checkpoint_id, benchmark), finished in zip(pairs, manifests, strict=True):
            work.grade_again(checkpoint_id, benchmark, finished, force=force)
    return manifests


def foresee(config: SweepConfig, store: Store) -> None:
    """Refuse, before anything is computed, an engine that evaluation would refuse hours later.

    Raises:
        ConfigError: it is not installed, or leaves the GPUs of this machine idle.
    """
    evaluate = config.evaluate
    if evaluate is None:
        return
    multi_gpu.join(evaluate)
    ids = layout.evaluated_ids(config)
    places = [layout.results_prefix(i, b.name) for i in ids for b in config.benchmarks]
    if not all(find_manifest(store, place) for place in places):
        after = RunCheckpoints(config).headers(config.after)
        chosen = engine_choice.choose_engine(evaluate, after)
        engine_choice.require(evaluate.model_copy(update={"engine": chosen}))


def run_share(
    config: SweepConfig, store: Store, *, checkpoint_id: str, unit: str
) -> Manifest | None:
    """Evaluate one checkpoint on one share of a benchmark's problems, as a pod does.

    The last share to be drawn is followed by grading them all, to the same output as `run`'s; None
    while shares of others are missing.
    """
    shares = shards.evaluate_shares(config)
    share = shards.named(shares, unit)
    with opened(config, store, alone=checkpoint_id) as work:
        (benchmark,) = (b for b in work.benchmarks if b.name == share.name)
        what = identities(work, [checkpoint_id])[checkpoint_id, benchmark.name]
        place = layout.results_prefix(checkpoint_id, benchmark.name)
        if not is_current(store, place, what):
            engine_choice.require(work.evaluate)
            work.asking(checkpoint_id)
            of_benchmark = [s for s in shares if s.name == share.name]
            if share.of > 1 and not _draw_share(work, checkpoint_id, benchmark, share, what):
                return None
            output = begin(store, place, what)
            if output.finished is None and share.of > 1:
                try:
                    _join(checkpoint_id, of_benchmark, output)
                except (IncompleteError, MissingKeyError):
                    # Another pod has just done so, and cleared the shares away.
                    output = begin(store, place, what)
                    if output.finished is None:
                        raise
            _evaluate(work, checkpoint_id, benchmark, output, force=False)
            for one in of_benchmark if share.of > 1 else ():
                clear(store, layout.share_prefix(checkpoint_id, one.id))
        manifest = find_manifest(store, place)
        if manifest is not None:
            work.grade(checkpoint_id, benchmark, manifest, None, force=False)
            if work.evaluate.teacher_forced:
                work.take_likelihoods(checkpoint_id, benchmark, manifest, force=False)
            work.grade_again(checkpoint_id, benchmark, manifest, force=False)
        return manifest


def _draw_share(
    work: Work, checkpoint_id: str, benchmark: Benchmark, share: shards.Share, what: OutputKey
) -> bool:
    """Draw the completions of a share; whether all shares of the benchmark are there now."""

    def place(number: int) -> tuple[str, OutputKey]:
        one = share._replace(number=number)
        inputs = {**what.inputs, "share": f"{number} of {share.of}"}
        return layout.share_prefix(checkpoint_id, one.id), replace(what, inputs=inputs)

    prefix, identity = place(share.number)
    output = begin(work.store, prefix, identity)
    if output.finished is None:
        problems = share.pick(benchmark.problems)
        prompts = share.pick(work.asking(checkpoint_id).prompts[benchmark.name])
        seed = seed_of(work.evaluate, checkpoint_id)
        requests = make_requests(problems, prompts, work.evaluate.n_samples, seed)
        label = f"evaluate {checkpoint_id} on {share.id}"
        drawn(output, requests, lambda: work.engine(checkpoint_id), lambda _: None, label)
        if not work.store.exists(output.key(ENGINE)):  # more shares than problems: nothing to draw
            output.put_json(ENGINE, [])
        output.adopt(ENGINE)
        output.commit()
    places = (place(number) for number in range(share.of))
    return all(is_current(work.store, where, which) for where, which in places)


def _join(checkpoint_id: str, shares: Sequence[shards.Share], output: Output) -> None:
    """Put the completions of all shares where those of a whole evaluation lie."""
    completions: list[Completion] = []
    ran: list[dict[str, Any]] = []
    for share in shares:
        prefix = layout.share_prefix(checkpoint_id, share.id)
        completions += completions_in(read_finished(output.store, prefix, COMPLETIONS))
        settings = json.loads(read_finished(output.store, prefix, ENGINE))
        ran += [item for item in settings if item not in ran]
    completions.sort(key=lambda c: (c.idx, c.sample_index))
    output.put_json(ENGINE, ran)
    lines = [completion.model_dump_json() for completion in completions]
    write_lines(output.store, output.key(COMPLETIONS), lines)


def _evaluate(
    work: Work, checkpoint_id: str, benchmark: Benchmark, output: Output, *, force: bool
) -> Manifest:
    """Draw what is missing, grading on the way, and grade what was drawn before."""
    graded: tuple[Sequence[Completion], Sequence[Grade]] | None = None
    if output.finished is None:
        evaluate, prompts = work.evaluate, work.asking(checkpoint_id).prompts[benchmark.name]
        seed = seed_of(evaluate, checkpoint_id)
        requests = make_requests(benchmark.problems, prompts, evaluate.n_samples, seed)
        label = f"evaluate {checkpoint_id} on {benchmark.name}"
        work.gold_errors(benchmark)  # none readable: refused before anything is drawn
        completions = drawn(
            output, requests, lambda: work.engine(checkpoint_id), work.grader(benchmark), label
        )
        output.adopt(ENGINE)
        output.write_json(PROMPTS, {"prompts_sha256": prompts_sha256(prompts)})
        finished = output.commit()
        graded = completions, work.pool.collect()
    else:
        finished = output.finished
    work.grade(checkpoint_id, benchmark, finished, graded, force=force)
    return finished
