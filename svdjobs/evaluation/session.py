"""The session of one evaluation: its prompts, engine and grader, each made on first use.

A pod that evaluates one shard opens a session just like a process that evaluates a whole run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from svdjobs.config import EvaluateConfig, SweepConfig
from svdjobs.evaluation import engine_choice, multi_gpu
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.benchmarks.of_run import benchmark_of
from svdjobs.evaluation.engine_holder import EngineHolder
from svdjobs.evaluation.engines.protocol import Engine
from svdjobs.evaluation.generation import Timed
from svdjobs.evaluation.grader import Grader
from svdjobs.evaluation.prompt_sets import PromptSet, make_prompt_set, tokenizer_source
from svdjobs.runs import layout, timings
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.logs import RunLogs, run_logs
from svdjobs.runs.outputs import check_run, note_run
from svdjobs.storage.store import Store


@dataclass
class Session:
    """Prompts, engine and grader of one evaluation."""

    checkpoints: RunCheckpoints
    evaluate: EvaluateConfig
    """The config's section with every `auto` resolved."""
    store: Store
    benchmarks: list[Benchmark]
    grader: Grader
    stack: ExitStack
    """Closes what the session has opened."""
    only_checkpoint: str | None = None
    """The checkpoint of a pod, which evaluates no other. Its engine starts with this checkpoint's
    weight files if the run has them."""
    _prompt_sets: dict[str, PromptSet] = field(default_factory=dict, repr=False)
    _engine_holder: EngineHolder | None = field(default=None, repr=False)

    @property
    def config(self) -> SweepConfig:
        """The run's config, as the user gave it."""
        return self.checkpoints.config

    def prompt_set(self, checkpoint_id: str) -> PromptSet:
        """Tokenizer and prompts of a checkpoint.

        All share one set, unless `before` has its own tokenizer.
        """
        source = tokenizer_source(self.config, checkpoint_id)
        if source not in self._prompt_sets:
            self._prompt_sets[source] = make_prompt_set(
                self.checkpoints, checkpoint_id, self.benchmarks
            )
        return self._prompt_sets[source]

    def engine_with(self, checkpoint_id: str) -> Engine:
        """The engine, with a checkpoint's weights in it and a context for the longest prompt."""
        return self.engine_holder.engine_with(checkpoint_id)

    @cached_property
    def logs(self) -> RunLogs:
        """The log files of this process."""
        return self.stack.enter_context(run_logs(self.store))

    def timed(self, what: Literal["draw", "read"], checkpoint_id: str, benchmark: str) -> Timed:
        """Notes how long the engine takes to draw or read with a checkpoint."""

        def note(engine: Engine, tokens: int, seconds: float) -> None:
            timings.note(
                self.logs,
                timings.Timing(
                    what=what,
                    engine=engine.description,
                    checkpoint=checkpoint_id,
                    benchmark=benchmark,
                    tokens=tokens,
                    seconds=seconds,
                ),
            )

        return note

    @property
    def engine_holder(self) -> EngineHolder:
        """The holder of the engine, which it starts on first use."""
        if self._engine_holder is None:
            ids = ["after", "before"] if self.config.before_has_own_tokenizer else ["after"]
            self._engine_holder = EngineHolder(
                self.checkpoints,
                self.evaluate,
                self.store,
                lambda checkpoint_id: self.prompt_set(checkpoint_id).tokenizer,
                max(self.prompt_set(checkpoint_id).longest for checkpoint_id in ids),
                self.logs,
                self.only_checkpoint,
            )
            self.stack.callback(self._engine_holder.close)
        return self._engine_holder


@contextmanager
def open_session(
    config: SweepConfig, store: Store, *, only_checkpoint: str | None = None
) -> Iterator[Session]:
    """Open the session of a whole run, or of one checkpoint of it.

    Raises:
        OutputError: the store holds another run.
        IncompleteError: an alpha of the config is missing in the plan.
        ConfigError, BenchmarkError: there is no `evaluate` section, or it cannot be used.
    """
    # First, since it decides which GPUs this process sees: CUDA reads that once.
    multi_gpu.select_gpus(config.evaluation)
    check_run(store, config)
    layout.check_alphas_are_planned(store, config)
    note_run(store, config)
    benchmarks = [benchmark_of(benchmark, store) for benchmark in config.benchmarks]
    checkpoints = RunCheckpoints(config)
    evaluate = engine_choice.resolve_auto_settings(
        checkpoints, store, only_checkpoint=only_checkpoint
    )
    with ExitStack() as stack:
        grader = stack.enter_context(closing(Grader(evaluate.grade_timeout_seconds)))
        yield Session(checkpoints, evaluate, store, benchmarks, grader, stack, only_checkpoint)
