"""evaluate: ask every checkpoint the same questions with the same seeds, grade, summarise.

Each completion is kept from the moment it is drawn, in a journal beside the output to be, so a
killed run draws only what is missing. Grading goes on in worker processes meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from svdjobs.checkpoint.identity import companions_digest, identity
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import REPEAT_ID, EvaluateConfig, SweepConfig, derived_seed
from svdjobs.errors import IncompleteError
from svdjobs.evaluation.problems import Benchmark, load_benchmark
from svdjobs.evaluation.prompts import Prompt, check_room, load_tokenizer, make_prompts
from svdjobs.evaluation.requests import Engine, Request, make_requests
from svdjobs.evaluation.summary import details, summarise
from svdjobs.evaluation.workers import GradingPool
from svdjobs.progress import track
from svdjobs.records import Completion, Grade, Manifest, Summary
from svdjobs.stages import engines, fleet, graph, likelihoods
from svdjobs.stages.outputs import (
    Output,
    begin,
    check_run,
    find_manifest,
    note_run,
    reopen,
    require,
)
from svdjobs.storage.store import Store, read_json, write_lines

STAGE = "evaluate"
VERSION = "3"
COMPLETIONS = "completions.jsonl"
JOURNAL = "completions.journal"
ENGINE = "engine.json"
# Where and how fast, not what: results are the same whatever these are.
OPERATIONAL = {
    "benchmarks", "devices", "reuse_engine", "gpu_memory_utilization", "tensor_parallel_size",
    "enforce_eager", "teacher_forced", "repeat_after", "allow_lossy_dtype",
}  # fmt: skip
# Completions handed to the grading workers together.
GRADED_TOGETHER = 32


@dataclass
class _Work:
    """One evaluation of a run: what is asked, and what answers and grades."""

    config: SweepConfig
    evaluate: EvaluateConfig
    store: Store
    benchmarks: list[Benchmark]
    stack: ExitStack
    _asking: _Asking | None = field(default=None, repr=False)
    _engines: engines.Engines | None = field(default=None, repr=False)
    _pool: GradingPool | None = field(default=None, repr=False)

    @property
    def asking(self) -> _Asking:
        """The prompts, tokenised when first asked for."""
        self._asking = self._asking or _ask(self.config, self.evaluate, self.benchmarks)
        return self._asking

    @property
    def pool(self) -> GradingPool:
        """The grading workers, started when first needed."""
        if self._pool is None:
            pool = GradingPool(self.evaluate.grade_timeout_seconds)
            self._pool = self.stack.enter_context(pool)
        return self._pool

    def engine(self, checkpoint_id: str) -> Engine:
        """The engine with that checkpoint in it; all prompts fit it."""
        if self._engines is None:
            asking = self.asking
            longest = max(len(p.ids) for prompts in asking.prompts.values() for p in prompts)
            self._engines = engines.Engines(
                self.config, self.evaluate, self.store, asking.tokenizer, longest
            )
            self.stack.callback(self._engines.close)
        return self._engines.holding(checkpoint_id)

    def take_likelihoods(
        self, checkpoint_id: str, benchmark: Benchmark, results: Manifest, *, force: bool
    ) -> None:
        """How likely the checkpoint finds after's answers, while the engine holds it."""
        likelihoods.make(
            self.store,
            benchmark,
            checkpoint_id,
            results,
            self.evaluate.teacher_forced,
            lambda: self.asking.prompts[benchmark.name],
            lambda: self.engine(checkpoint_id),
            force=force,
        )


def run(
    config: SweepConfig,
    store: Store,
    *,
    checkpoint_ids: Sequence[str] | None = None,
    force: bool = False,
) -> list[Manifest]:
    """Evaluate the run's checkpoints, or those named, on every benchmark."""
    if config.evaluate is None:
        raise IncompleteError("this config has no `evaluate` section.")
    check_run(store, config)
    note_run(store, config)
    benchmarks = [load_benchmark(benchmark) for benchmark in config.evaluate.benchmarks]
    evaluate = engines.settle(config, store)
    wanted = in_order_of_work(
        graph.evaluated_ids(config) if checkpoint_ids is None else checkpoint_ids
    )
    manifests: list[Manifest] = []
    with ExitStack() as stack:
        work = _Work(config, evaluate, store, benchmarks, stack)
        outputs = {i: [_output(work, i, b, force=force) for b in benchmarks] for i in wanted}
        unfinished = [i for i in wanted if any(o.finished is None for o in outputs[i])]
        if len(groups := fleet.device_groups(evaluate)) > 1 and len(unfinished) > 1:
            fleet.run(config, store, unfinished, groups)
            outputs = {i: [_output(work, i, b) for b in benchmarks] for i in wanted}
        for checkpoint_id in wanted:
            for benchmark, output in zip(benchmarks, outputs[checkpoint_id], strict=True):
                if output.finished is None:
                    _evaluate(work, checkpoint_id, benchmark, output)
                assert output.finished is not None
                manifests.append(output.finished)
                if evaluate.teacher_forced:
                    work.take_likelihoods(checkpoint_id, benchmark, output.finished, force=force)
    return manifests


def in_order_of_work(checkpoint_ids: Sequence[str]) -> list[str]:
    """After first: a reused engine starts with it, and the others read its answers."""
    rank = {"after": 0, REPEAT_ID: 1, "before": 3}  # before differs in all its weights
    return sorted(checkpoint_ids, key=lambda checkpoint_id: rank.get(checkpoint_id, 2))


def regrade(config: SweepConfig, store: Store) -> list[Manifest]:
    """Grade the finished evaluations of a run again, without drawing anything."""
    finished = [prefix for prefix, manifest in current_results(config, store).items() if manifest]
    if not finished:
        raise IncompleteError(f"{store.url} has no finished evaluation to grade again.")
    for prefix in finished:
        reopen(store, prefix)
    chosen = {prefix.split("/")[1] for prefix in finished}
    return run(
        config, store, checkpoint_ids=[i for i in graph.evaluated_ids(config) if i in chosen]
    )


def _output(
    work: _Work, checkpoint_id: str, benchmark: Benchmark, *, force: bool = False
) -> Output:
    config, store = work.config, work.store
    if checkpoint_id in ("before", "after", REPEAT_ID):
        source = config.before if checkpoint_id == "before" else config.after
        opened = open_checkpoint(source, allow_pickle=config.allow_pickle)
        # Its companions decide where completions stop.
        origin = f"{identity(opened, store, graph.IDENTITIES)}/{companions_digest(opened)}"
    elif checkpoint_id in graph.evaluated_ids(config):
        (manifest,) = require(store, [f"checkpoints/{checkpoint_id}"], stage=STAGE)
        origin = manifest.fingerprint
    else:
        raise IncompleteError(
            f"no checkpoint {checkpoint_id!r} in this run; it has "
            f"{', '.join(graph.evaluated_ids(config))}."
        )
    tokenizer = open_checkpoint(_tokenizer(config), allow_pickle=config.allow_pickle)
    return begin(
        store,
        graph.results_prefix(checkpoint_id, benchmark.name),
        stage=STAGE,
        version=VERSION,
        config=_settings(work.evaluate, checkpoint_id),
        inputs={
            "checkpoint": origin,
            "benchmark": benchmark.sha256,
            "tokenizer": companions_digest(tokenizer),
        },
        force=force,
    )


def _tokenizer(config: SweepConfig) -> str:
    return config.tokenizer or config.after


class _Asking(NamedTuple):
    """What all checkpoints share: the tokenizer, and the prompts of each benchmark by its name."""

    tokenizer: Any
    prompts: dict[str, list[Prompt]]


def _ask(config: SweepConfig, evaluate: EvaluateConfig, benchmarks: Sequence[Benchmark]) -> _Asking:
    """Tokenise every benchmark, once for all checkpoints, and make sure that all prompts fit."""
    opened = open_checkpoint(_tokenizer(config), allow_pickle=config.allow_pickle)
    tokenizer = load_tokenizer(opened.store.url)
    after = open_checkpoint(config.after, allow_pickle=config.allow_pickle).config
    context = (after.get("text_config") or after).get("max_position_embeddings")
    asked: dict[str, list[Prompt]] = {}
    for benchmark in benchmarks:
        prompts = make_prompts(benchmark.problems, evaluate.prompt, tokenizer)
        lengths = {prompt.idx: len(prompt.ids) for prompt in prompts}
        check_room(lengths, context, evaluate.max_tokens, benchmark=benchmark.name)
        asked[benchmark.name] = prompts
    return _Asking(tokenizer, asked)


def _evaluate(work: _Work, checkpoint_id: str, benchmark: Benchmark, output: Output) -> None:
    """Draw what is missing, grade, summarise, commit."""
    evaluate, prompts = work.evaluate, work.asking.prompts[benchmark.name]
    seed = _seed(evaluate, checkpoint_id)
    requests = make_requests(benchmark.problems, prompts, evaluate.n_samples, seed)
    golds = {problem.idx: problem.gold for problem in benchmark.problems}
    label = f"evaluate {checkpoint_id} on {benchmark.name}"
    completions = _drawn(
        output, requests, lambda: work.engine(checkpoint_id), work.pool, golds, label
    )
    grades = sorted(work.pool.collect(), key=lambda g: (g.idx, g.sample_index))
    grades = work.pool.classify(grades)
    engine = read_json(output.store, output.key(ENGINE))
    output.adopt(ENGINE)
    summary = summarise(checkpoint_id, benchmark, prompts, evaluate, completions, grades, engine)
    lines = [grade.model_dump_json() for grade in grades]
    output.add(write_lines(output.store, output.key("grades.jsonl"), lines))
    output.write_json("summary.json", summary.model_dump(mode="json"))
    output.write_json("results.json", details(summary, benchmark, completions, grades))
    output.commit()


def _drawn(
    output: Output,
    requests: Sequence[Request],
    engine: Callable[[], Engine],
    pool: GradingPool,
    golds: Mapping[int, str],
    label: str,
) -> list[Completion]:
    """All completions by problem and sample: read where they are there, drawn where not; each is
    handed to the grading workers on the way."""
    store, key = output.store, output.key(COMPLETIONS)
    if not store.exists(key):
        with store.journal(output.key(JOURNAL)) as journal:
            found = [Completion.model_validate_json(line) for line in journal.lines]
            pool.submit(found, golds)
            done = {(c.idx, c.sample_index) for c in found}
            if len(done) < len(requests):
                running = engine()
                output.put_json(ENGINE, running.settings)
                found += _collected(running, requests, done, journal.append, pool, golds, label)
        found.sort(key=lambda c: (c.idx, c.sample_index))
        write_lines(store, key, [completion.model_dump_json() for completion in found])
    else:
        found = [
            Completion.model_validate_json(line) for line in bytes(store.read(key)).splitlines()
        ]
        pool.submit(found, golds)
    output.adopt(COMPLETIONS)
    store.delete(output.key(JOURNAL))
    return found


def _collected(
    engine: Engine,
    requests: Sequence[Request],
    done: set[tuple[int, int]],
    keep: Callable[[str], None],
    pool: GradingPool,
    golds: Mapping[int, str],
    label: str,
) -> list[Completion]:
    """Completions as the engine finishes them, kept one by one."""
    drawn: list[Completion] = []
    left = {request.idx: 0 for request in requests}
    for request in requests:
        left[request.idx] += request[:2] not in done
    tokens, cut, graded, started = 0, 0, 0, time.monotonic()
    with track(label, len(requests)) as advance:
        advance(len(done))
        for completion in engine.generate(requests, done):
            keep(completion.model_dump_json())
            drawn.append(completion)
            tokens += completion.completion_tokens
            cut += completion.finish_reason == "length"
            left[completion.idx] -= 1
            rate = tokens / max(time.monotonic() - started, 1e-9)
            problems = sum(not count for count in left.values())
            advance(1, f"{problems} problems, {rate:.0f} tokens/s, {cut} cut off")
            if len(drawn) - graded >= GRADED_TOGETHER:
                pool.submit(drawn[graded:], golds)
                graded = len(drawn)
        pool.submit(drawn[graded:], golds)
    return drawn


def _seed(evaluate: EvaluateConfig, checkpoint_id: str) -> int:
    """All checkpoints share the seeds, but for after's repetition."""
    if checkpoint_id == REPEAT_ID:
        return derived_seed(evaluate.seed, REPEAT_ID)
    return evaluate.seed


def _settings(evaluate: EvaluateConfig, checkpoint_id: str) -> dict[str, Any]:
    """What decides completions and grades, besides the checkpoint and the problems."""
    settings = evaluate.model_dump(mode="json", exclude=OPERATIONAL)
    return {**settings, "seed": _seed(evaluate, checkpoint_id)}


def current_results(config: SweepConfig, store: Store) -> dict[str, Manifest | None]:
    """Manifest of every evaluation the config asks for, by prefix.

    None where there is none, or one made with other settings or problems: pairing such results
    would compare answers to different questions. What the config leaves to `auto` must agree among
    the results themselves.
    """
    found: dict[str, Manifest | None] = {}
    chosen: dict[str, Any] = {}
    for section in config.evaluate.benchmarks if config.evaluate else ():
        assert config.evaluate is not None
        sha256 = load_benchmark(section).sha256
        for checkpoint_id in in_order_of_work(graph.evaluated_ids(config)):
            prefix = graph.results_prefix(checkpoint_id, section.name)
            manifest = find_manifest(store, prefix)
            settings = _settings(config.evaluate, checkpoint_id)
            if manifest is not None:
                for key in ("engine", "dtype"):
                    if settings[key] == "auto":
                        settings[key] = chosen.setdefault(key, manifest.config.get(key))
            fits = manifest is not None and (manifest.config, manifest.inputs["benchmark"]) == (
                settings,
                sha256,
            )
            found[prefix] = manifest if fits else None
    return found


def load_summary(store: Store, prefix: str) -> Summary:
    """The summary of a finished evaluation."""
    return Summary.model_validate(read_json(store, f"{prefix}/summary.json"))


def load_grades(store: Store, prefix: str) -> list[Grade]:
    """The grades of a finished evaluation."""
    lines = bytes(store.read(f"{prefix}/grades.jsonl")).splitlines()
    return [Grade.model_validate_json(line) for line in lines]
