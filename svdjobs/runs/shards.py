"""Divides the work of a stage into shards, one for each pod of a fan-out:

    decompose   after-000                     a shard of a checkpoint's factors
    blend       alpha-0.2000                  an alpha
    evaluate    alpha-0.2000, math-500-000    a checkpoint, and a shard of a benchmark's problems

The pod that finishes the last shard of an output joins all shards, so no pod waits for another.

In evaluate, each pod begins the output of its shard, generates, commits, and then asks whether all
shards of the benchmark are current. If not, it ends. If so, it begins the output of the whole
benchmark, joins the shards into it, commits and grades it, and clears the shards. If two pods
commit their shards at the same moment, both see that all are current, and both join; the bytes are
the same. A pod that then misses a cleared shard takes the output that the other pod has finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from svdjobs.checkpoint.sources import in_shared_cache
from svdjobs.config import ENGINES, VARIANTS, SweepConfig, alpha_id
from svdjobs.errors import ConfigError
from svdjobs.progress import say
from svdjobs.records import Plan
from svdjobs.runs import cost, layout
from svdjobs.runs.checkpoints import hub_sources

Item = TypeVar("Item")
ASSUMED_SHARDS = 16
"""Number of shards of one checkpoint, for lack of a plan to compute it from."""


class Shard(NamedTuple):
    """A shard of an output: every `of`-th item, beginning with item `number`."""

    name: str
    """The checkpoint or benchmark that is divided."""
    number: int
    of: int

    @property
    def id(self) -> str:
        """The id on a command line, e.g. `after-000`."""
        return f"{self.name}-{self.number:03d}"

    @property
    def all(self) -> list[Shard]:
        """All shards of the same output."""
        return [self._replace(number=number) for number in range(self.of)]

    def pick(self, items: Sequence[Item]) -> list[Item]:
        """The items of this shard."""
        return list(items[self.number :: self.of])


def decompose_shards(config: SweepConfig, plan: Plan | None) -> list[Shard]:
    """Shards of every checkpoint to decompose; all cost about the same, as their parts do.

    Without a plan their number is `decompose.shards`, or `ASSUMED_SHARDS`.
    """
    if plan is None:
        count = config.decompose.shards or ASSUMED_SHARDS
    else:
        count = min(config.decompose.shards or cost.shard_count(plan.selected), len(plan.parts))
    return [
        Shard(target.checkpoint_id, number, count)
        for target in layout.decompose_targets(config)
        for number in range(count)
    ]


def evaluate_shards(config: SweepConfig) -> list[Shard]:
    """Shards of every benchmark, the same for all checkpoints; none without `evaluate`."""
    count = config.evaluate.shards if config.evaluate else 0
    return [
        Shard(benchmark.name, number, count)
        for benchmark in config.benchmarks
        for number in range(count)
    ]


def evaluations(config: SweepConfig, checkpoint_id: str | None = None) -> list[tuple[str, str]]:
    """Checkpoint id and shard id of every evaluation of a checkpoint.

    Without `checkpoint_id`: of every checkpoint but `after`, which is evaluated before the others,
    since they read its completions; and once of all variants, which one pod evaluates. With
    `evaluate.engines`: an entry for each engine, and none for `after`.
    """
    if config.evaluate and config.evaluate.engines:
        return [] if checkpoint_id else [(ENGINES, one) for one in engine_ids(config)]
    ids = [i for i in layout.evaluated_ids(config) if i not in config.variants]
    wanted = [checkpoint_id] if checkpoint_id else ids
    found = [
        (evaluated, shard.id)
        for evaluated in wanted
        if checkpoint_id or evaluated != "after"
        for shard in evaluate_shards(config)
    ]
    if checkpoint_id is None and (config.variants or config.map):
        found.append((VARIANTS, "all"))
    return found


def engine_ids(config: SweepConfig) -> list[str]:
    """Ids of the pods that share all evaluations; empty without `evaluate.engines`."""
    count = (config.evaluate.engines if config.evaluate else None) or 0
    return [f"engine-{number:03d}" for number in range(count)]


def fan_outs(config: SweepConfig, plan: Plan | None) -> dict[str, Any]:
    """The lists of ids that a workflow fans out over, by name.

    For `rotations`, `metrics`, `variants` and `gate`: whether the config wants them.
    """
    engines = engine_ids(config)
    baselines = layout.baseline_ids(config) if config.evaluate and not engines else []
    if baselines:
        baselines += config.checkpoints
    return {
        "fetch": [
            layout.slug(source)
            for source in hub_sources(config)
            if plan is None or not in_shared_cache(source)
        ],
        "decompose": [shard.id for shard in decompose_shards(config, plan)],
        "alphas": [alpha_id(alpha) for alpha in config.alphas],
        "baselines": [checkpoint_id for checkpoint_id in baselines if checkpoint_id != "after"],
        "evaluate": [shard.id for shard in evaluate_shards(config) if not engines],
        "engines": engines,
        "rotations": config.rotations is not None,
        "metrics": config.metrics is not None,
        "variants": bool(config.variants or config.map) and not engines,
        "gate": config.gate is not None,
    }


def shard_with_id(shards: Sequence[Shard], shard_id: str) -> Shard:
    """The shard with an id.

    Raises:
        ConfigError: no shard has this id.
    """
    for shard in shards:
        if shard.id == shard_id:
            return shard
    some = ", ".join(shard.id for shard in shards[:8])
    raise ConfigError(
        f"no shard {shard_id!r} in this run; it has {some or 'none'}"
        f"{' …' if len(shards) > 8 else ''}."
    )


def items_at_index(items: Sequence[Item], index: int, of: int) -> list[Item]:
    """Every `of`-th item, beginning with item `index`: the work of one pod of an indexed Job.

    Say so if the index has no item, because there are fewer items than pods.
    """
    if index >= len(items):
        say(f"index {index}: nothing to do, there are {len(items)} shards")
    return list(items[index::of])


def write_fan_outs(fan_outs: Mapping[str, Any], folder: Path) -> None:
    """Write each fan-out to `<name>.json`, which a workflow reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in fan_outs.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def alpha_named(config: SweepConfig, name: str) -> float:
    """The alpha of the config with an id such as `alpha-0.2000`, or with a number.

    Raises:
        ConfigError: the config has no such alpha.
    """
    for alpha in config.alphas:
        if name in (alpha_id(alpha), str(alpha)) or _number(name) == alpha:
            return alpha
    raise ConfigError(f"--alpha {name}: the config has {', '.join(map(str, config.alphas))}.")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
