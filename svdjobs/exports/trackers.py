"""Exports the numbers of a run's report to experiment trackers: MLflow, and Weights & Biases."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from svdjobs.config import SweepConfig
from svdjobs.exports.graded import Number, empty_folder, missing, numbers
from svdjobs.runs import outputs
from svdjobs.storage.store import Store

_VALUES = 500
"""Longest value of a parameter in MLflow."""
_NOT_IN_NAMES = re.compile(r"[^\w .:/-]")


def to_mlflow(store: Store, config: SweepConfig, target: str) -> list[str]:
    """Write a run to an MLflow server, or to a database in a folder; return what was written.

    The config's keys are parameters, the numbers metrics (`demo/alpha-0.5000/avg`, with `/low` and
    `/high`), and the report's files artifacts.

    Raises:
        IncompleteError: the run has no report.
        ConfigError: mlflow is not installed, or the folder is not empty.
    """
    found = numbers(store)
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
    except ImportError as error:
        raise missing("mlflow", error) from None
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    artifacts = None
    if "://" not in target:
        folder = empty_folder(Path(target)).absolute()
        artifacts, target = (folder / "artifacts").as_uri(), f"sqlite:///{folder}/mlflow.db"
    client = MlflowClient(tracking_uri=target)
    experiment = client.get_experiment_by_name("svdjobs")
    number = (
        experiment.experiment_id if experiment else client.create_experiment("svdjobs", artifacts)
    )
    made = client.create_run(number, run_name=config.name, tags={"svdjobs.store": store.url})
    params = [Param(key, value[:_VALUES]) for key, value in _flat(config)]
    metrics = [Metric(_NOT_IN_NAMES.sub("_", name), value, 0, 0) for name, value in _named(found)]
    client.log_batch(made.info.run_id, params=params)
    for start in range(0, len(metrics), 1000):
        client.log_batch(made.info.run_id, metrics=metrics[start : start + 1000])
    with tempfile.TemporaryDirectory() as name:
        outputs.copy(store, "report", Path(name))
        client.log_artifacts(made.info.run_id, name, "report")
    client.set_terminated(made.info.run_id)
    return [f"run {made.info.run_id} in {target}"]


def to_wandb(store: Store, config: SweepConfig, folder: Path) -> list[Path]:
    """Write an offline run of Weights & Biases; return its folder. `wandb sync` uploads it.

    The config is the run's config, the numbers are its summary and a table.

    Raises:
        IncompleteError: the run has no report.
        ConfigError: wandb is not installed, or the folder is not empty.
    """
    found = numbers(store)
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_ERROR_REPORTING="false")
    try:
        import wandb
    except ImportError as error:
        raise missing("wandb", error) from None
    run = wandb.init(
        project="svdjobs", name=config.name, dir=str(empty_folder(folder)), mode="offline",
        config=config.model_dump(mode="json"),
    )  # fmt: skip
    run.log({"numbers": wandb.Table(columns=list(Number._fields), data=[list(n) for n in found])})
    run.summary.update(dict(_named(found)))
    run.finish()
    return sorted(folder.glob("wandb/offline-run-*"))


def _named(found: list[Number]) -> Iterator[tuple[str, float]]:
    """Every number under a name of its own, and the ends of its interval."""
    for one in found:
        parts = [part for part in (one.benchmark, one.checkpoint, one.quantity) if part != "-"]
        name = "/".join(parts)
        for ending, value in (("", one.value), ("/low", one.low), ("/high", one.high)):
            if value is not None and value == value:
                yield name + ending, value


def _flat(config: SweepConfig) -> Iterator[tuple[str, str]]:
    """The keys of a config with their values as text: `evaluate.temperature`, `1.0`."""

    def walk(value: Any, name: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                yield from walk(inner, f"{name}.{key}" if name else str(key))
        else:
            yield (
                _NOT_IN_NAMES.sub("_", name),
                value if isinstance(value, str) else json.dumps(value),
            )

    yield from walk(config.model_dump(mode="json"), "")
