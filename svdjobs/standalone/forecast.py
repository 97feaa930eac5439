"""Forecasts what a sweep can show, from a few completions of `after`, before it is paid for.

At alpha = 0 the divergence from after is computed exactly, over the vocabulary, on each of the few
completions; at other alphas it is (1 − alpha)² times as much, to second order. It says how far the
log weights of a reading will spread, and so how small an effect reading can show.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, NamedTuple

from svdjobs.config import SweepConfig
from svdjobs.errors import ConfigError
from svdjobs.evaluation import mapping
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.benchmarks.of_run import benchmark_of
from svdjobs.evaluation.engine_holder import EngineHolder
from svdjobs.evaluation.engines.protocol import Trace, make_requests
from svdjobs.evaluation.pilot import points
from svdjobs.evaluation.prompt_sets import make_prompt_set
from svdjobs.progress import track
from svdjobs.records import Interval
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.logs import run_logs
from svdjobs.stages import decompose, plan
from svdjobs.statistics import ASSUMED_WITHIN, Spread, mean_per_token, shown
from svdjobs.storage.store import Store
from svdjobs.variant_config import MapConfig, VariantConfig

if TYPE_CHECKING:
    from svdjobs.evaluation.engines.transformers import TransformersEngine
    from svdjobs.kernels.divergence import Apart


class Forecast(NamedTuple):
    """The forecast of one benchmark."""

    benchmark: str
    completions: int
    """Completions of after that were drawn for the forecast."""
    kl: Interval
    """KL(after ‖ alpha = 0) per token, in nats; clustered by problem."""
    others: list[tuple[str, Interval]]
    """The same of `before` and further checkpoints. Where these are far from after, the report's
    estimate from drawn tokens is too small."""
    by_part: list[tuple[str, float]]
    """The same if only one layer and module family is blended, the largest first."""
    spread: float
    """Expected root mean square of the log weights of a reading at alpha = 0."""
    differ: float
    """Share of the completions that alpha = 0 draws otherwise than after with the same seeds, if
    these couple the draws in the best way."""
    read: float | None
    """Smallest change of accuracy that reading shows in 4 of 5 tries, for the config's numbers."""
    sampled: float | None
    """The same for sampling."""


def run(
    config: SweepConfig, store: Store, *, problems: int = 32, by_part: bool = False
) -> list[Forecast]:
    """Draw one completion for each of the first problems of every benchmark, and forecast.

    The plan and the factors are those of the sweep, which finds them finished. `by_part` also
    blends each layer and module family alone.

    Raises:
        ConfigError: there is no `evaluate` section, or the sweep is reversed.
    """
    if config.direction == "reverse":
        raise ConfigError("a forecast needs direction forward: it blends `after`.")
    evaluate = config.evaluation.model_copy(update={"engine": "transformers", "dtype": "float32"})
    # Decomposition is skipped where nothing needs it; a forecast does.
    needs_factors = config.model_copy(update={"map": MapConfig()})
    plan.run(config, store)
    decompose.run(needs_factors, store)
    checkpoints = RunCheckpoints(needs_factors)
    benchmarks = [
        benchmark_of(
            section.model_copy(update={"limit": min(section.limit or problems, problems)}), store
        )
        for section in config.benchmarks
    ]
    prompts = make_prompt_set(checkpoints, "after", benchmarks)
    with ExitStack() as stack:
        holder = EngineHolder(
            checkpoints, evaluate, store, lambda _: prompts.tokenizer, prompts.longest,
            stack.enter_context(run_logs(store)),
        )  # fmt: skip
        stack.enter_context(closing(holder))
        made = []
        for benchmark, section in zip(benchmarks, config.benchmarks, strict=True):
            engine = holder.engine_with("after")
            requests = make_requests(
                benchmark.problems, prompts.prompts[benchmark.name], 1, evaluate.seed
            )
            label = f"forecast: after answers {len(requests)} problems of {benchmark.name}"
            with track(label, len(requests)) as advance:
                ids = {request.idx: request.prompt_ids for request in requests}
                traces = []
                for completion in engine.generate(requests):
                    traces.append(Trace(ids[completion.idx], completion.token_ids))
                    advance()
            count = len(benchmark_of(section, store).problems)
            made.append(_forecast(config, holder, benchmark, traces, count, by_part=by_part))
    return made


def _forecast(
    config: SweepConfig,
    holder: EngineHolder,
    benchmark: Benchmark,
    traces: Sequence[Trace],
    problems: int,
    *,
    by_part: bool,
) -> Forecast:
    engine = _transformers(holder.engine_with("after"))
    states = [s for trace in traces for s in engine.states([trace])]
    head = copy.deepcopy(engine.head)

    evaluate = config.evaluation
    temperature = evaluate.temperature or 1.0

    def apart(own: TransformersEngine) -> list[Apart]:
        from svdjobs.kernels.divergence import apart_of_states

        found = (s for trace in traces for s in own.states([trace]))
        return [
            apart_of_states(after_TH, head, own_TH, own.head, temperature)
            for after_TH, own_TH in zip(states, found, strict=True)
        ]

    def kl_of(own: TransformersEngine) -> Interval:
        return mean_per_token([found.kl_T.tolist() for found in apart(own)])

    def blended(only: Collection[str] | None = None) -> TransformersEngine:
        """The engine with before's singular values in some matrices; None: in all."""
        spec = VariantConfig(before="values")
        return _transformers(holder.engine_with_variant("forecast", spec, only)[0])

    import torch

    with torch.inference_mode():
        whole = apart(blended())
        parts = _parts(holder) if by_part else []
        split = []
        with track(f"forecast: {len(parts)} parts of {benchmark.name}", len(parts)) as advance:
            for part in parts:
                split.append((part.name, kl_of(blended(part.matrices)).value))
                advance()
        # Last, since a checkpoint with another config gets an engine of its own.
        others = [
            (name, kl_of(_transformers(holder.engine_with(name))))
            for name in layout.read_ids(config)
            if name in ("before", *config.checkpoints)
        ]
    # The variance of a log weight is twice the divergence of the whole completion.
    spread = math.sqrt(2 * math.fsum(float(own.kl_T.sum()) for own in whole) / len(whole))
    # With the same seeds two completions differ only if the draw of some token does.
    differ = math.fsum(1 - float((1 - own.variation_T).prod()) for own in whole) / len(whole)
    reading = Spread(0.0, spread**2 * 2 * ASSUMED_WITHIN)
    sampling = Spread(0.0, 2 * ASSUMED_WITHIN * differ)
    read = evaluate.read_per_problem if evaluate.readable else 0
    return Forecast(
        benchmark.name,
        len(traces),
        mean_per_token([own.kl_T.tolist() for own in whole]),
        others,
        sorted(split, key=lambda part: -part[1]),
        spread,
        differ,
        shown(reading, problems, read) if read else None,
        shown(sampling, problems, evaluate.n_samples) if evaluate.temperature else None,
    )


def _transformers(engine: object) -> TransformersEngine:
    from svdjobs.evaluation.engines.transformers import TransformersEngine

    assert isinstance(engine, TransformersEngine)
    if not engine.head_gives_logits:
        raise ConfigError(
            "this architecture changes its logits after its head (a scale or a soft cap), which a "
            "forecast does not follow. `svdjobs plan --pilot` needs no forecast."
        )
    return engine


def _parts(holder: EngineHolder) -> list[mapping.Part]:
    """Each layer and module family."""
    selected = holder.weights.sources.plan.selected
    grid = MapConfig(rewind="values", nulls=0)
    return mapping.parts(grid, selected, holder.weights.sources.bases.config)[:-1]


def plain(kl: Interval) -> str:
    """`2.4e-05 [1.7e-05, 3.1e-05]`."""
    interval = "" if kl.low is None or kl.high is None else f" [{kl.low:.2g}, {kl.high:.2g}]"
    return f"{kl.value:.2g}{interval}"


def words(found: Forecast, config: SweepConfig) -> list[str]:
    """The forecast as lines for a terminal."""
    evaluate = config.evaluation
    lines = [
        f"{found.benchmark}: KL(after ‖ alpha = 0) is {plain(found.kl)} nats per token, on "
        f"{found.completions} completions; at other alphas about (1 − alpha)² times as much",
    ]
    ways = []
    if found.read is not None:
        ways.append(f"reading {evaluate.read_per_problem} shows {points(found.read)} points")
    if found.sampled is not None:
        ways.append(f"sampling {evaluate.n_samples} shows {points(found.sampled)}")
    if ways:
        lines.append(
            f"{found.benchmark}: the smallest change of accuracy at alpha = 0 that completions of "
            f"each problem show in 4 of 5 tries: {', '.join(ways)} (about "
            f"{100 * found.differ:.2g} % of the sampled ones differ; assuming that half of a "
            f"completion's variance lies between problems)"
        )
    lines += [
        f"{found.benchmark}: KL(after ‖ {name}) is {plain(kl)} nats per token, exactly"
        for name, kl in found.others
    ]
    total = math.fsum(value for _, value in found.by_part)
    if total:
        shares = ", ".join(f"{name} {100 * v / total:.0f} %" for name, v in found.by_part[:8])
        lines.append(
            f"{found.benchmark}: of the divergence when each part is blended alone ({total:.2g} "
            f"together): {shares}{' …' if len(found.by_part) > 8 else ''}"
        )
    return lines
