"""How much an evaluation draws and reads, how long that takes, and how small a change it shows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from svdjobs.config import EvaluateConfig, SweepConfig
from svdjobs.evaluation import gpu_memory, mapping, speeds
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.pilot import Pilot, look, points
from svdjobs.evaluation.prompt_sets import PromptSet
from svdjobs.progress import duration
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.statistics import (
    ASSUMED_WITHIN,
    Spread,
    completions_to_show,
    problems_to_show,
    shown,
)
from svdjobs.storage.store import Store


class Questions(NamedTuple):
    """What a user asks about an evaluation that has not been made."""

    pilot: Store | None = None
    """A smaller run of the same sweep: how long answers are, how fast they are drawn, and how much
    differences vary."""
    gpu: str | None = None
    """Name of a GPU in `speeds.GPUS`. None: the pilot's machine, or this one."""
    effect: float | None = None
    """A difference in accuracy, as a fraction, that the sweep should show."""


class Amount(NamedTuple):
    """What an evaluation does on one benchmark."""

    benchmark: str
    prompts: list[int]
    """Lengths of the prompts in tokens."""
    prompt_tokens: int
    """Over all completions to draw."""
    sampled: int
    """Checkpoints that draw completions."""
    read: int
    """Checkpoints, variants and cells of the map that read after's completions; after twice."""
    tokens: float
    """Length of a completion: the mean of the pilot, else the largest."""
    pilot: Pilot | None

    @property
    def problems(self) -> int:
        """Number of problems."""
        return len(self.prompts)

    def drawn_tokens(self, evaluate: EvaluateConfig) -> float:
        """Tokens to draw."""
        return self.problems * evaluate.n_samples * self.sampled * self.tokens

    def read_tokens(self, evaluate: EvaluateConfig) -> float:
        """Tokens whose log-probability is computed."""
        return self.problems * evaluate.read_per_problem * self.read * self.tokens

    def words(self, config: SweepConfig) -> Iterator[str]:
        """The numbers of completions and tokens."""
        evaluate = config.evaluation
        completions = self.problems * evaluate.n_samples * self.sampled
        most = "about" if self.pilot else "at most"
        yield (
            f"{self.benchmark}: {self.problems:,} problems × {evaluate.n_samples} completions × "
            f"{self.sampled} checkpoints = {completions:,} completions; prompts of "
            f"{min(self.prompts):,} to {max(self.prompts):,} tokens, {self.prompt_tokens:,} in all,"
            f" and {most} {self.drawn_tokens(evaluate):,.0f} generated tokens"
        )
        if self.read:
            answers = self.problems * evaluate.read_per_problem
            map_cells = " and cells of the map" if config.map else ""
            yield (
                f"{self.benchmark}: {self.read} checkpoints{map_cells} read {answers:,} of after's "
                f"completions each, {most} {self.read_tokens(evaluate):,.0f} tokens"
            )


def words(
    checkpoints: RunCheckpoints,
    store: Store,
    benchmarks: Sequence[Benchmark],
    of_after: PromptSet,
    of_before: PromptSet,
    asked: Questions | None,
) -> Iterator[str]:
    """Lines for the user about all benchmarks; `of_after` and `of_before` are the prompts.

    Raises:
        ConfigError: the pilot has not evaluated a benchmark.
    """
    config, asked = checkpoints.config, asked or Questions()
    read = _readings(checkpoints, store) if config.evaluation.read != 0 else 0
    amounts = [
        _amount(config, read, benchmark, of_after, of_before, asked) for benchmark in benchmarks
    ]
    for amount in amounts:
        yield from amount.words(config)
    yield _hours(checkpoints, amounts, asked)
    if config.evaluation.engine != "transformers":
        yield _gpus(checkpoints, amounts, asked.gpu)
    for amount in amounts:
        yield from _smallest_effects(config, amount, asked.effect)


def _amount(
    config: SweepConfig,
    read: int,
    benchmark: Benchmark,
    of_after: PromptSet,
    of_before: PromptSet,
    asked: Questions,
) -> Amount:
    evaluate = config.evaluation
    count = len(layout.sampled_ids(config))
    lengths, lengths_of_before = (
        [len(prompt.ids) for prompt in of.prompts[benchmark.name]] for of in (of_after, of_before)
    )
    pilot = look(config, asked.pilot, benchmark.name) if asked.pilot else None
    return Amount(
        benchmark.name,
        lengths,
        (sum(lengths) * (count - 1) + sum(lengths_of_before)) * evaluate.n_samples,
        count,
        read,
        pilot.tokens if pilot else evaluate.max_tokens,
        pilot,
    )


def _readings(checkpoints: RunCheckpoints, store: Store) -> int:
    """How often after's completions are read."""
    config, cells = checkpoints.config, 0
    if config.map:
        selected = layout.load_plan(store, config, stage="plan").selected
        after = checkpoints.headers(config.after)
        parts = mapping.parts(config.map, selected, after.config)
        cells = sum(len(list(mapping.variants_of(config.map, part))) for part in parts)
    return len(layout.read_ids(config)) + 1 + cells  # after reads twice


def _hours(checkpoints: RunCheckpoints, amounts: Sequence[Amount], asked: Questions) -> str:
    """How long the evaluation takes."""
    evaluate = checkpoints.config.evaluation
    speed = speeds.of_run(asked.pilot) if asked.pilot and not asked.gpu else None
    if speed is None:
        parameters = speeds.active_parameters(*_after(checkpoints))
        dtype = _dtype(evaluate)
        known = speeds.of_gpu(asked.gpu, parameters, dtype) if asked.gpu else None
        speed = known or speeds.of_this_machine(parameters, dtype)
    drawn = math.fsum(a.drawn_tokens(evaluate) + a.prompt_tokens for a in amounts) / speed.draws
    read = math.fsum(a.read_tokens(evaluate) for a in amounts) / speed.reads
    most = "about" if all(amount.pilot for amount in amounts) else "at most about"
    reading = f" and {duration(read)} to read" if read else ""
    return (
        f"evaluation: {most} {duration(drawn)} to draw{reading}, {speed.source}; starting the "
        f"engine comes on top"
    )


def _gpus(checkpoints: RunCheckpoints, amounts: Sequence[Amount], gpu: str | None) -> str:
    """The GPUs that an engine needs."""
    evaluate = checkpoints.config.evaluation
    longest = max(length for amount in amounts for length in amount.prompts)
    dtype = _dtype(evaluate)
    need = gpu_memory.Need.of(*_after(checkpoints), dtype, longest + evaluate.max_tokens)
    return gpu_memory.words(need, evaluate, dtype, gpu)


def _after(checkpoints: RunCheckpoints) -> tuple[dict[str, int], dict[str, Any]]:
    """Numbers of elements of after's tensors, without a tied lm_head, and its config."""
    after = checkpoints.headers(checkpoints.config.after)
    elements = {
        entry.name: entry.elements
        for entry in after.entries.values()
        if not (after.tied and entry.name == "lm_head.weight")
    }
    return elements, after.config


def _dtype(evaluate: EvaluateConfig) -> str:
    return "float32" if evaluate.dtype == "auto" else evaluate.dtype


def _smallest_effects(config: SweepConfig, amount: Amount, effect: float | None) -> Iterator[str]:
    """The smallest difference that sampling and reading show, and what a wished one needs."""
    evaluate, pilot = config.evaluation, amount.pilot
    sampled, read = (
        (pilot.sampled, pilot.read) if pilot else (Spread(0.0, 2 * ASSUMED_WITHIN), None)
    )
    where = (
        f"{pilot.checkpoint_id} in the pilot's {pilot.problems} problems"
        if pilot
        else "assuming that half of a completion's variance lies between problems"
    )
    ways = {
        "sampling": (sampled, evaluate.n_samples),
        "reading": (read, evaluate.read_per_problem),
    }
    known = {
        way: (spread, n, found)
        for way, (spread, n) in ways.items()
        if spread and n and (found := shown(spread, amount.problems, n)) is not None
    }
    if known:
        changes = " and ".join(
            f"{way} {_completions(n)} of each problem shows a change of {points(found)} points"
            for way, (_, n, found) in known.items()
        )
        yield f"{amount.benchmark}: {changes}, in 4 of 5 tries ({where})"
    if pilot is None and evaluate.readable and evaluate.read_per_problem:
        yield (
            f"{amount.benchmark}: reading shows far smaller changes; how small, a pilot tells "
            f"(--pilot) or `svdjobs forecast`"
        )
    for way, (spread, n, _) in known.items() if effect else ():
        yield f"{amount.benchmark}: {_needed(way, spread, n, amount.problems, effect or 0.0)}"


def _needed(way: str, spread: Spread, n: int, problems: int, effect: float) -> str:
    """What it takes to show a change of `effect`."""
    wished = f"to show a change of {points(effect)} points, {way} needs"
    completions = completions_to_show(spread, problems, effect)
    more = problems_to_show(spread, n, effect)
    by_problems = "more problems than there are" if more is None else f"{more:,} problems"
    if completions is None:
        return (
            f"{wished} {by_problems} with {_completions(n)} each: these {problems:,} differ too "
            f"much for any number of completions"
        )
    return (
        f"{wished} {_completions(completions)} of each of the {problems:,} problems, or "
        f"{by_problems} with {n} each"
    )


def _completions(n: int) -> str:
    return "1 completion" if n == 1 else f"{n:,} completions"
