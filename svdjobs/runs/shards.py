"""Shards: how much of a stage one pod does. A fan-out has a pod for each of its units:

    decompose   after-000                     a shard of a checkpoint's factors
    blend       alpha-0.2000                  an alpha
    evaluate    alpha-0.2000, math-500-000    a checkpoint, and a shard of a benchmark's problems

The pod that finishes the last shard of an output joins them, so no pod waits for another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from svdjobs.config import SweepConfig, alpha_id
from svdjobs.errors import ConfigError
from svdjobs.progress import say
from svdjobs.records import Plan
from svdjobs.runs import cost, layout

Item = TypeVar("Item")
ASSUMED_SHARDS = 16
"""Shards of one checkpoint's factors, while there is no plan to count them by."""


class Shard(NamedTuple):
    """One of the equal shards of an output: every `of`-th item, beginning with `number`."""

    name: str
    """The checkpoint or the benchmark that is divided."""
    number: int
    of: int

    @property
    def id(self) -> str:
        """The id that a command line takes."""
        return f"{self.name}-{self.number:03d}"

    def pick(self, items: Sequence[Item]) -> list[Item]:
        """The items that belong to this shard."""
        return list(items[self.number :: self.of])


def decompose_shards(config: SweepConfig, plan: Plan | None) -> list[Shard]:
    """Shares of every checkpoint to decompose; parts cost about the same, and so do shards.

    Without a plan, as many as were asked for, or `ASSUMED_SHARDS`.
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
    """Shares of every benchmark, the same for each checkpoint; none without an evaluation."""
    count = config.evaluate.shards if config.evaluate else 0
    return [
        Shard(benchmark.name, number, count)
        for benchmark in config.benchmarks
        for number in range(count)
    ]


def evaluations(config: SweepConfig, checkpoint_id: str | None = None) -> list[tuple[str, str]]:
    """Checkpoint id and shard id of every evaluation of one checkpoint. Without one: of all but
    after, which is evaluated first, since the others read its completions."""
    wanted = [checkpoint_id] if checkpoint_id else layout.evaluated_ids(config)
    return [
        (evaluated, shard.id)
        for evaluated in wanted
        if checkpoint_id or evaluated != "after"
        for shard in evaluate_shards(config)
    ]


def fan_outs(config: SweepConfig, plan: Plan | None) -> dict[str, Any]:
    """What a workflow fans out over, by name: lists of ids; for `rotations` and `gate`, whether the
    sweep has one."""
    baselines = layout.baseline_ids(config) if config.evaluate else []
    return {
        "decompose": [shard.id for shard in decompose_shards(config, plan)],
        "alphas": [alpha_id(alpha) for alpha in config.alphas],
        "baselines": [checkpoint_id for checkpoint_id in baselines if checkpoint_id != "after"],
        "evaluate": [shard.id for shard in evaluate_shards(config)],
        "rotations": config.rotations is not None,
        "gate": config.gate is not None,
    }


def shard_with_id(shards: Sequence[Shard], unit: str) -> Shard:
    """The shard that has an id.

    Raises:
        ConfigError: none has it.
    """
    for shard in shards:
        if shard.id == unit:
            return shard
    some = ", ".join(shard.id for shard in shards[:8])
    raise ConfigError(
        f"no shard {unit!r} in this run; it has {some or 'none'}{' …' if len(shards) > 8 else ''}."
    )


def items_at_index(items: Sequence[Item], index: int, of: int) -> list[Item]:
    """The units of index `index` of `of`: every `of`-th unit. All indices together cover all units.

    A message says so if there are fewer units than indices and this index has none.
    """
    if index >= len(items):
        say(f"index {index}: nothing to do, there are {len(items)} units")
    return list(items[index::of])


def write_fan_outs(units: Mapping[str, Any], folder: Path) -> None:
    """Write each fan-out to `<name>.json`, for a workflow to read."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in units.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def alpha_named(config: SweepConfig, name: str) -> float:
    """The alpha that an id such as `alpha-0.2000`, or a number, names.

    Raises:
        ConfigError: the config does not have it.
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
