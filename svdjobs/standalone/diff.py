"""Compares checkpoints by their weights alone: no config, no evaluation, one page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from svdjobs.config import SweepConfig
from svdjobs.config_file import apply_override, parse_config
from svdjobs.errors import ConfigError
from svdjobs.progress import duration, say
from svdjobs.records import MetricsRow, Plan
from svdjobs.reporting.data import Table
from svdjobs.reporting.plan_text import describe_pair
from svdjobs.reporting.sections.metrics import family_table, verdict
from svdjobs.runs import cost
from svdjobs.runs.rows import load_rows
from svdjobs.stages import metrics, plan, report
from svdjobs.standalone.decompose import checkpoint_name
from svdjobs.storage.open import open_store


class Difference(NamedTuple):
    """What a comparison found."""

    verdict: list[str]
    table: Table
    """By module family, at most 100 columns wide."""
    rows: list[MetricsRow]
    """Of matrices and of heads."""
    report_url: str


def config_of(
    sources: Sequence[str],
    *,
    store_url: str = "",
    allow_pickle: bool = False,
    overrides: Sequence[str] = (),
) -> SweepConfig:
    """The config of a comparison: the first checkpoint is `before`, the last one `after`.

    Raises:
        ConfigError: there are fewer than two checkpoints, or an override is wrong.
    """
    if len(sources) < 2:
        raise ConfigError("give two checkpoints or more: the first is compared with the last.")
    names = [_name(source) for source in sources]
    between: dict[str, str] = {}
    for number, source in enumerate(sources[1:-1], start=1):
        own = names[number]
        free = own not in (*between, "before", "after") and not own.startswith(("alpha-", "map-"))
        between[own if free else f"{number}-{own}"] = source
    document: dict[str, Any] = {
        "name": f"{names[0]}-{names[-1]}",
        "before": sources[0],
        "after": sources[-1],
        "checkpoints": between,
        "alphas": [],
        "store": store_url or f"runs/diff/{names[0]}-{names[-1]}",
        "allow_pickle": allow_pickle,
        "selection": {"minimum_coverage": 0},
        "metrics": {},
        "report": {"title": f"{names[0]} → {names[-1]}"},
    }
    for override in overrides:
        apply_override(document, override)
    return parse_config(document, where="command line")


def run(config: SweepConfig, *, force: bool = False) -> Difference:
    """Say what will be done, measure every matrix, and write the report."""
    store = open_store(config.store_url)
    made = plan.run(config, store, force=force)
    for line in (*describe_pair(made, "compared"), *_cost(config, made)):
        say(line)
    metrics.run(config, store, force=force)
    report.run(config, store, force=force)
    rows = load_rows(store, metrics.STAGE, MetricsRow, stage="diff")
    matrices = [row for row in rows if row.head is None]
    page = f"{store.url}/{report.PREFIX}/report.html"
    return Difference(verdict(matrices), family_table(matrices, brief=True), rows, page)


def _cost(config: SweepConfig, made: Plan) -> list[str]:
    if config.metrics is None:
        raise ConfigError("metrics is null: a comparison consists of them.")
    draws = config.metrics.null_draws
    work = sum(cost.metrics_flops(tensor.shape, draws) for tensor in made.measured)
    seconds = work / cost.measured_flops_per_second()
    return [f"about {duration(seconds)} to compare {len(made.measured)} matrices on this machine"]


def _name(source: str) -> str:
    """A checkpoint's name as a part of a path."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", checkpoint_name(source)).lstrip("._-") or "checkpoint"
