"""Units of a fan-out: what one pod does of a stage, under a short id.

    decompose   after-000                     a share of the parts of a checkpoint's factors
    blend       alpha-0.2000                  an alpha
    evaluate    alpha-0.2000, math-500-000    a checkpoint, and a share of a benchmark's problems

Whoever finishes the last share of an output makes it whole, so no pod waits for others.
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
ASSUMED_SHARES = 16
"""Decompose shares of one checkpoint, where plan has not yet counted them."""


class Share(NamedTuple):
    """One of several equal shares of an output: every `of`-th item from `number` on."""

    name: str
    """Of a checkpoint or a benchmark."""
    number: int
    of: int

    @property
    def id(self) -> str:
        """As it stands on a command line."""
        return f"{self.name}-{self.number:03d}"

    def pick(self, items: Sequence[Item]) -> list[Item]:
        """This share of some items."""
        return list(items[self.number :: self.of])


def decompose_shares(config: SweepConfig, plan: Plan | None) -> list[Share]:
    """Shares of every checkpoint to decompose; parts cost about the same, and so do shares.

    Without a plan, as many as were asked for, or `ASSUMED_SHARES`.
    """
    if plan is None:
        count = config.decompose.shards or ASSUMED_SHARES
    else:
        count = min(config.decompose.shards or cost.share_count(plan.selected), len(plan.parts))
    return [
        Share(target.checkpoint_id, number, count)
        for target in layout.decomposed(config)
        for number in range(count)
    ]


def evaluate_shares(config: SweepConfig) -> list[Share]:
    """Shares of every benchmark, the same for each checkpoint; none without an evaluation."""
    count = config.evaluate.shards if config.evaluate else 0
    return [
        Share(benchmark.name, number, count)
        for benchmark in config.benchmarks
        for number in range(count)
    ]


def evaluations(config: SweepConfig, checkpoint_id: str | None = None) -> list[tuple[str, str]]:
    """Checkpoint and share of every evaluation of one checkpoint, or of all but after, which comes
    before them, since they read its answers."""
    wanted = [checkpoint_id] if checkpoint_id else layout.evaluated_ids(config)
    return [
        (evaluated, share.id)
        for evaluated in wanted
        if checkpoint_id or evaluated != "after"
        for share in evaluate_shares(config)
    ]


def fan_outs(config: SweepConfig, plan: Plan | None) -> dict[str, Any]:
    """What a workflow fans out over, by name: lists of ids; `rotations`, `gate`: whether there is
    one. Without a plan, what may be assumed."""
    baselines = layout.baseline_ids(config) if config.evaluate else []
    return {
        "decompose": [share.id for share in decompose_shares(config, plan)],
        "alphas": [alpha_id(alpha) for alpha in config.alphas],
        "baselines": [checkpoint_id for checkpoint_id in baselines if checkpoint_id != "after"],
        "evaluate": [share.id for share in evaluate_shares(config)],
        "rotations": config.rotations is not None,
        "gate": config.gate is not None,
    }


def named(shares: Sequence[Share], unit: str) -> Share:
    """The share of that id.

    Raises:
        ConfigError: there is none.
    """
    for share in shares:
        if share.id == unit:
            return share
    some = ", ".join(share.id for share in shares[:8])
    raise ConfigError(
        f"no unit {unit!r} in this run; it has {some or 'none'}{' …' if len(shares) > 8 else ''}."
    )


def at(items: Sequence[Item], index: int, of: int) -> list[Item]:
    """The units of one of several indices: every `of`-th, so that any number of them covers all.

    None, with a word, where there are more indices than units.
    """
    if index >= len(items):
        say(f"index {index}: nothing to do, there are {len(items)} units")
    return list(items[index::of])


def write(units: Mapping[str, Any], folder: Path) -> None:
    """Write each fan-out to `<name>.json`, which a workflow reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in units.items():
        (folder / f"{name}.json").write_text(json.dumps(value))


def alpha_named(config: SweepConfig, name: str) -> float:
    """The alpha of an id such as `alpha-0.2000`, or of its number.

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
