"""Evaluates one checkpoint on one benchmark without a sweep, and writes one JSON file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from svdjobs.config import SweepConfig
from svdjobs.config_file import apply_override, parse_config
from svdjobs.errors import ConfigError, IncompleteError
from svdjobs.evaluation import grades
from svdjobs.progress import log_to, say
from svdjobs.reporting.data import interval_text, percent
from svdjobs.runs.logs import run_logs
from svdjobs.stages import evaluate
from svdjobs.standalone.decompose import checkpoint_name
from svdjobs.storage.objects import write_json
from svdjobs.storage.open import open_store
from svdjobs.storage.store import Store

RESULTS = Path("gen_results")


def run(
    model: str,
    data_path: str,
    settings: Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    tokenizer: str | None = None,
    out_json: Path | None = None,
    force: bool = False,
    allow_pickle: bool = False,
) -> tuple[str, Path]:
    """Evaluate a checkpoint, or resume its evaluation.

    Returns a summary line and the path of the results file. The run, with completions, grades and
    `logs/evaluate.log`, is in a folder with the name of the results file and the suffix `.run`.
    """
    name = checkpoint_name(model)
    path = out_json or RESULTS / f"{name}_results.json"
    if path.suffix != ".json":
        raise ConfigError(f"--out_json {path}: give a name that ends in .json.")
    document: dict[str, Any] = {
        "name": "".join(c if c.isalnum() or c in "._-" else "-" for c in name).lstrip("._-"),
        "before": model,
        "after": model,
        "tokenizer": tokenizer,
        "store": str(path.with_suffix(".run")),
        "alphas": [],
        "allow_pickle": allow_pickle,
        "evaluate": {"read": 0, **settings, "benchmarks": [data_path]},
    }
    for override in overrides:
        apply_override(document, override)
    config = parse_config(document, where="command line")
    store = open_store(config.store_url)
    with run_logs(store) as logs, log_to(logs.folder / "evaluate.log"):
        evaluate.run(config, store, checkpoint_ids=["after"], force=force)
        say(f"evaluated {model} on {data_path}; results in {path}")
    return publish(config, store), path


def publish(config: SweepConfig, store: Store) -> str:
    """Write the results file from the finished run. Returns a summary line."""
    evaluation = grades.find(store, "after", config.benchmarks[0].name)
    if evaluation is None:
        raise IncompleteError(f"{store.url} has no finished evaluation.")
    summary = evaluation.summary(store)
    results = json.loads(evaluation.read(store, "results.json"))
    for entry in (*results["summary"], *results["results"]):
        entry["model"] = config.after
    path = Path(config.store_url).with_suffix(".json")
    write_json(open_store(str(path.parent)), path.name, results)
    return (
        f"{config.name} on {summary.benchmark}: avg@{summary.n} {percent(summary.avg_at_n.value)} "
        f"{interval_text(summary.avg_at_n)}, {summary.truncated} of "
        f"{summary.n * summary.problems} completions cut off"
    )
