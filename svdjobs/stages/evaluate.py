"""evaluate: ask every checkpoint the same questions with the same seeds, grade, summarise.

Each completion is kept from the moment it is drawn, in a journal beside the output to be, so a
killed run draws only what is missing. Grading goes on in worker processes meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from svdjobs.checkpoint.identity import companions_digest, identity
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import REPEAT_ID, EvaluateConfig, SweepConfig, derived_seed
from svdjobs.errors import IncompleteError
from svdjobs.evaluation.problems import Benchmark, load_benchmark
from svdjobs.evaluation.prompts import (
    Prompt,
    check_room,
    load_tokenizer,
    make_prompts,
    prompts_sha256,
)
from svdjobs.evaluation.requests import Engine, make_requests
from svdjobs.evaluation.workers import GradingPool
from svdjobs.records import Manifest
from svdjobs.stages import engines, fleet, graph, likelihoods
from svdjobs.stages.drawing import drawn
from svdjobs.stages.grading import conclude, unreadable_golds
from svdjobs.stages.outputs import (
    Output,
    begin,
    check_run,
    find_manifest,
    is_current,
    note_run,
    require,
)
from svdjobs.storage.store import Store

STAGE = "evaluate"
VERSION = "3"
# Where and how fast, not what: results are the same whatever these are.
OPERATIONAL = {
    "benchmarks", "devices", "reuse_engine", "gpu_memory_utilization", "tensor_parallel_size",
    "enforce_eager", "teacher_forced", "repeat_after", "allow_lossy_dtype",
    "grade_timeout_seconds",
}  # fmt: skip


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
    _gold_errors: dict[str, set[int]] = field(default_factory=dict, repr=False)

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

    def gold_errors(self, benchmark: Benchmark) -> set[int]:
        """Problems of a benchmark whose gold cannot be read, looked at once."""
        if benchmark.name not in self._gold_errors:
            self._gold_errors[benchmark.name] = unreadable_golds(self.pool, benchmark)
        return self._gold_errors[benchmark.name]

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
    """Evaluate the run's checkpoints, or those named, on every benchmark.

    What the settings cannot do is found before anything that is there makes way for it.
    """
    if config.evaluate is None:
        raise IncompleteError("this config has no `evaluate` section.")
    fleet.join(config.evaluate)
    check_run(store, config)
    note_run(store, config)
    benchmarks = [load_benchmark(benchmark) for benchmark in config.evaluate.benchmarks]
    evaluate = engines.settle(config, store)
    groups = fleet.device_groups(evaluate)
    ids = graph.evaluated_ids(config) if checkpoint_ids is None else checkpoint_ids
    wanted = in_order_of_work(ids)
    manifests: list[Manifest] = []
    with ExitStack() as stack:
        work = _Work(config, evaluate, store, benchmarks, stack)
        what = _identities(work, wanted)
        places = {key: graph.results_prefix(*key) for key in what}
        if force or not all(is_current(store, places[key], **what[key]) for key in what):
            engines.require(evaluate)
            assert work.asking.prompts
        outputs = {key: begin(store, places[key], **what[key], force=force) for key in what}
        unfinished = [
            i for i in wanted if any(outputs[i, b.name].finished is None for b in benchmarks)
        ]
        if len(groups) > 1 and len(unfinished) > 1:
            fleet.run(config, store, unfinished, groups)
            outputs = {key: begin(store, places[key], **what[key]) for key in what}
        for checkpoint_id in wanted:
            for benchmark in benchmarks:
                output = outputs[checkpoint_id, benchmark.name]
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


def _identities(
    work: _Work, checkpoint_ids: Sequence[str]
) -> dict[tuple[str, str], dict[str, Any]]:
    """By checkpoint and benchmark, what makes an evaluation this one: the arguments of `begin` and
    `is_current`."""
    config = work.config
    tokenizer = open_checkpoint(_tokenizer(config), allow_pickle=config.allow_pickle)
    tokens = companions_digest(tokenizer)
    found = {}
    for checkpoint_id in checkpoint_ids:
        origin = _origin(config, work.store, checkpoint_id)
        for benchmark in work.benchmarks:
            inputs = {"checkpoint": origin, "benchmark": benchmark.sha256, "tokenizer": tokens}
            found[checkpoint_id, benchmark.name] = {
                "stage": STAGE,
                "version": VERSION,
                "config": _settings(work.evaluate, checkpoint_id),
                "inputs": inputs,
            }
    return found


def _origin(config: SweepConfig, store: Store, checkpoint_id: str) -> str:
    """Fingerprint of a checkpoint.

    Raises:
        IncompleteError: there is none of that name, or it has not been blended.
    """
    if checkpoint_id in ("before", "after", REPEAT_ID):
        source = config.before if checkpoint_id == "before" else config.after
        opened = open_checkpoint(source, allow_pickle=config.allow_pickle)
        # Its companions decide where completions stop.
        return f"{identity(opened, store, graph.IDENTITIES)}/{companions_digest(opened)}"
    if checkpoint_id in graph.evaluated_ids(config):
        (manifest,) = require(store, [f"{graph.CHECKPOINTS}/{checkpoint_id}"], stage=STAGE)
        return manifest.fingerprint
    raise IncompleteError(
        f"no checkpoint {checkpoint_id!r} in this run; it has "
        f"{', '.join(graph.evaluated_ids(config))}."
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
    gold_errors = work.gold_errors(benchmark)
    completions = drawn(
        output, requests, lambda: work.engine(checkpoint_id), work.pool, golds, label
    )
    conclude(
        evaluate, checkpoint_id, benchmark, prompts_sha256(prompts), output, completions,
        work.pool, gold_errors,
    )  # fmt: skip


def _seed(evaluate: EvaluateConfig, checkpoint_id: str) -> int:
    """All checkpoints share the seeds, but for after's repetition."""
    if checkpoint_id == REPEAT_ID:
        return derived_seed(evaluate.seed, REPEAT_ID)
    return evaluate.seed


def _settings(evaluate: EvaluateConfig, checkpoint_id: str) -> dict[str, Any]:
    """What decides completions and grades, besides the checkpoint and the problems."""
    settings = evaluate.model_dump(mode="json", exclude=OPERATIONAL)
    if evaluate.engine == "vllm":  # it makes its own batches
        del settings["batch_size"]
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
            settled = config.evaluate
            if manifest is not None:
                for key in ("engine", "dtype"):
                    if getattr(settled, key) == "auto":
                        value = chosen.setdefault(key, manifest.config.get(key))
                        settled = settled.model_copy(update={key: value})
            settings = _settings(settled, checkpoint_id)
            fits = manifest is not None and (manifest.config, manifest.inputs["benchmark"]) == (
                settings,
                sha256,
            )
            found[prefix] = manifest if fits else None
    return found
