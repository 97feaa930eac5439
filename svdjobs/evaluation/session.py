"""What an evaluation asks, of whom and with what; a share of an evaluation asks the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from svdjobs.checkpoint.on_disk import on_disk
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.selection import embedding_rows
from svdjobs.config import REPEAT_ID, EvaluateConfig, SweepConfig
from svdjobs.errors import CheckpointError, IncompleteError
from svdjobs.evaluation import (
    engine_choice,
    engine_holder,
    grades,
    likelihoods,
    multi_gpu,
    second_grades,
)
from svdjobs.evaluation.benchmarks.load import Benchmark, load_benchmark
from svdjobs.evaluation.engines.protocol import Engine
from svdjobs.evaluation.generation import Submit
from svdjobs.evaluation.grading.pool import GradingPool
from svdjobs.evaluation.prompts import Prompt, check_room, load_tokenizer, make_prompts
from svdjobs.fingerprint import derived_seed
from svdjobs.records import Completion, Grade, Manifest
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import OutputKey, check_run, note_run, require
from svdjobs.storage.store import Store

STAGE = "evaluate"
VERSION = "4"
# Where and how fast, not what: results are the same whatever these are.
OPERATIONAL = {
    "benchmarks", "devices", "reuse_engine", "gpu_memory_utilization", "tensor_parallel_size",
    "enforce_eager", "teacher_forced", "repeat_after", "allow_lossy_dtype",
    "grade_timeout_seconds", "second_grader", "shards",
    "tokenizer_of_before",  # the tokenizer itself is an input
}  # fmt: skip


@dataclass
class Work:
    """One evaluation of a run: what is asked, and what answers and grades."""

    checkpoints: RunCheckpoints
    evaluate: EvaluateConfig
    store: Store
    benchmarks: list[Benchmark]
    stack: ExitStack
    alone: str | None = None
    """The one checkpoint that is evaluated, if it is only one: no engine is worth sharing."""
    _asking: dict[str, Asking] = field(default_factory=dict, repr=False)
    _engines: engine_holder.Engines | None = field(default=None, repr=False)
    _pool: GradingPool | None = field(default=None, repr=False)
    _gold_errors: dict[str, set[int]] = field(default_factory=dict, repr=False)

    @property
    def config(self) -> SweepConfig:
        """The run's config, as the user gave it."""
        return self.checkpoints.config

    def asking(self, checkpoint_id: str) -> Asking:
        """The prompts of a checkpoint, tokenised when first asked for; most share them."""
        source = tokenizer_source(self.config, checkpoint_id)
        if source not in self._asking:
            self._asking[source] = ask(self.checkpoints, checkpoint_id, self.benchmarks)
        return self._asking[source]

    @property
    def pool(self) -> GradingPool:
        """The grading workers, started when first needed."""
        if self._pool is None:
            pool = GradingPool(self.evaluate.grade_timeout_seconds)
            self._pool = self.stack.enter_context(pool)
        return self._pool

    def grader(self, benchmark: Benchmark) -> Submit:
        """Hands completions to the grading workers, with the golds of the benchmark."""
        golds = {problem.idx: problem.gold for problem in benchmark.problems}
        return lambda completions: self.pool.submit(completions, golds)

    def gold_errors(self, benchmark: Benchmark) -> set[int]:
        """Problems of a benchmark whose gold cannot be read, looked at once."""
        if benchmark.name not in self._gold_errors:
            self._gold_errors[benchmark.name] = grades.unreadable_golds(self.pool, benchmark)
        return self._gold_errors[benchmark.name]

    def engine(self, checkpoint_id: str) -> Engine:
        """The engine with that checkpoint in it; all prompts fit it."""
        if self._engines is None:
            ways = ["after", "before"] if self.config.before_has_own_tokenizer else ["after"]
            self._engines = engine_holder.Engines(
                self.checkpoints,
                self.evaluate,
                self.store,
                lambda way: self.asking(way).tokenizer,
                max(self.asking(way).longest for way in ways),
                self.alone,
            )
            self.stack.callback(self._engines.close)
        return self._engines.holding(checkpoint_id)

    def grade(
        self,
        checkpoint_id: str,
        benchmark: Benchmark,
        completions: Manifest,
        graded: tuple[Sequence[Completion], Sequence[Grade]] | None,
        *,
        force: bool,
    ) -> Manifest:
        """Grades of the checkpoint's completions, some of them or all made on the way."""
        return grades.make(
            self.store, checkpoint_id, benchmark, completions, lambda: self.pool,
            lambda: self.gold_errors(benchmark), graded=graded, force=force,
        )  # fmt: skip

    def take_likelihoods(
        self, checkpoint_id: str, benchmark: Benchmark, results: Manifest, *, force: bool
    ) -> None:
        """How likely the checkpoint finds after's answers, while the engine holds it.

        A `before` with a tokenizer of its own reads none: they are other token ids to it.
        """
        if checkpoint_id == "before" and self.config.before_has_own_tokenizer:
            return
        likelihoods.make(
            self.store,
            benchmark,
            checkpoint_id,
            results,
            self.evaluate.teacher_forced,
            lambda: self.asking(checkpoint_id).prompts[benchmark.name],
            lambda: self.engine(checkpoint_id),
            force=force,
        )

    def grade_again(
        self, checkpoint_id: str, benchmark: Benchmark, results: Manifest, *, force: bool
    ) -> None:
        """Let the second grader look at the checkpoint's completions, unless it is off."""
        if self.evaluate.second_grader != "off":
            second_grades.make(
                self.store, benchmark, checkpoint_id, results, lambda: self.pool, force=force
            )


@contextmanager
def opened(config: SweepConfig, store: Store, *, alone: str | None = None) -> Iterator[Work]:
    """Begin an evaluation: of the whole run, or of one checkpoint `alone`, as a pod does.

    Raises:
        IncompleteError: the config has an alpha that the plan lacks.
        ConfigError, BenchmarkError: it has no `evaluate` section, or one that cannot be done.
    """
    multi_gpu.join(config.evaluation)
    check_run(store, config)
    layout.refuse_unplanned(store, config)
    note_run(store, config)
    benchmarks = [load_benchmark(benchmark) for benchmark in config.benchmarks]
    checkpoints = RunCheckpoints(config)
    evaluate = engine_choice.settle(checkpoints, store, alone=alone)
    with ExitStack() as stack:
        yield Work(checkpoints, evaluate, store, benchmarks, stack, alone)


def identities(work: Work, checkpoint_ids: Sequence[str]) -> dict[tuple[str, str], OutputKey]:
    """By checkpoint and benchmark, what makes an evaluation this one."""
    config = work.config
    tokens: dict[str, str] = {}
    found = {}
    for checkpoint_id in checkpoint_ids:
        source = tokenizer_source(config, checkpoint_id)
        if source not in tokens:
            tokens[source] = work.checkpoints.companions(source)
        origin = _origin(work.checkpoints, work.store, checkpoint_id)
        for benchmark in work.benchmarks:
            inputs = {
                "checkpoint": origin,
                "benchmark": benchmark.sha256,
                "tokenizer": tokens[source],
            }
            settings = settings_of(work.evaluate, checkpoint_id)
            found[checkpoint_id, benchmark.name] = OutputKey(STAGE, VERSION, settings, inputs)
    return found


def _origin(checkpoints: RunCheckpoints, store: Store, checkpoint_id: str) -> str:
    """Fingerprint of a checkpoint.

    Raises:
        IncompleteError: there is none of that name, or it has not been blended.
    """
    config = checkpoints.config
    if checkpoint_id in ("before", "after", REPEAT_ID):
        source = config.before if checkpoint_id == "before" else config.after
        # Its companions decide where completions stop.
        return f"{checkpoints.identity(source, store)}/{checkpoints.companions(source)}"
    if checkpoint_id in layout.evaluated_ids(config):
        (manifest,) = require(store, [f"{layout.CHECKPOINTS}/{checkpoint_id}"], stage=STAGE)
        return manifest.fingerprint
    raise IncompleteError(
        f"no checkpoint {checkpoint_id!r} in this run; it has "
        f"{', '.join(layout.evaluated_ids(config))}."
    )


def tokenizer_source(config: SweepConfig, checkpoint_id: str) -> str:
    """The checkpoint whose tokenizer a checkpoint is asked with."""
    if checkpoint_id == "before" and config.before_has_own_tokenizer:
        return config.before
    return config.tokenizer or config.after


class Asking(NamedTuple):
    """What checkpoints share: the tokenizer, and the prompts of each benchmark by its name."""

    tokenizer: Any
    prompts: dict[str, list[Prompt]]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(prompt.ids) for prompts in self.prompts.values() for prompt in prompts)


def tokenizer_in(checkpoints: RunCheckpoints, source: str) -> Any:
    """The tokenizer of a checkpoint.

    Raises:
        CheckpointError: there is none, or it cannot be loaded.
    """
    with on_disk(checkpoints.headers(source), weights=False) as folder:
        return load_tokenizer(str(folder))


def ask(checkpoints: RunCheckpoints, checkpoint_id: str, benchmarks: Sequence[Benchmark]) -> Asking:
    """Tokenise every benchmark, once for all checkpoints that are asked as this one is, and make
    sure that all prompts fit. Headers and tokenizer are enough.

    Raises:
        CheckpointError: no tokenizer, or a prompt that contains a token which is not embedded.
        BenchmarkError: a prompt that does not fit the context.
    """
    config, evaluate = checkpoints.config, checkpoints.config.evaluation
    tokenizer = tokenizer_in(checkpoints, tokenizer_source(config, checkpoint_id))
    otherwise = checkpoint_id == "before" and config.before_has_own_tokenizer
    whose = config.before if otherwise else config.after
    checkpoint = checkpoints.headers(whose)
    text = checkpoint.config.get("text_config") or checkpoint.config
    asked: dict[str, list[Prompt]] = {}
    for benchmark in benchmarks:
        prompts = make_prompts(benchmark.problems, evaluate.prompt, tokenizer)
        lengths = {prompt.idx: len(prompt.ids) for prompt in prompts}
        context = text.get("max_position_embeddings")
        check_room(lengths, context, evaluate.max_tokens, benchmark=benchmark.name)
        _refuse_strangers(prompts, checkpoint, benchmark.name)
        asked[benchmark.name] = prompts
    return Asking(tokenizer, asked)


def _refuse_strangers(prompts: Sequence[Prompt], checkpoint: Checkpoint, benchmark: str) -> None:
    """Make sure that a checkpoint embeds every token of the prompts."""
    rows = embedding_rows(checkpoint)
    largest = max(prompts, key=lambda prompt: max(prompt.ids), default=None)
    if rows is not None and largest is not None and max(largest.ids) >= rows:
        raise CheckpointError(
            f"benchmark {benchmark}, problem {largest.idx}: its prompt has token "
            f"{max(largest.ids)}, but {checkpoint.label} embeds {rows:,} tokens only. Set "
            f"`tokenizer` to the checkpoint that this one was trained from."
        )


def seed_of(evaluate: EvaluateConfig, checkpoint_id: str) -> int:
    """All checkpoints share the seeds, but for after's repetition."""
    if checkpoint_id == REPEAT_ID:
        return derived_seed(evaluate.seed, REPEAT_ID)
    return evaluate.seed


def settings_of(evaluate: EvaluateConfig, checkpoint_id: str) -> dict[str, Any]:
    """What decides completions, besides the checkpoint and the problems."""
    settings = evaluate.model_dump(mode="json", exclude=OPERATIONAL)
    if evaluate.engine == "vllm":  # it makes its own batches
        del settings["batch_size"]
    return {**settings, "seed": seed_of(evaluate, checkpoint_id)}
