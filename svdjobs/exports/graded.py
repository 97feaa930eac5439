"""What a run has to export: graded completions, and the numbers of its report."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from svdjobs.config import SweepConfig
from svdjobs.errors import ConfigError, IncompleteError
from svdjobs.evaluation import grades
from svdjobs.evaluation.benchmarks.of_run import benchmark_of
from svdjobs.evaluation.side_by_side import by_problem
from svdjobs.records import Completion, Grade, Problem, Summary
from svdjobs.runs import layout
from svdjobs.runs.outputs import read_finished
from svdjobs.storage.store import Store

NUMBERS = "tables/numbers.csv"


class Graded(NamedTuple):
    """A checkpoint's completions on a benchmark."""

    benchmark: str
    checkpoint: str
    summary: Summary
    problems: list[tuple[Problem, list[tuple[Completion, Grade]]]]


class Number(NamedTuple):
    """A number of the report; `low` and `high` are None without an interval."""

    benchmark: str
    checkpoint: str
    quantity: str
    value: float
    low: float | None
    high: float | None


def graded(store: Store, config: SweepConfig) -> Iterator[Graded]:
    """The finished evaluations of a run, one checkpoint on one benchmark after the other.

    Raises:
        IncompleteError: the run has none.
    """
    found = False
    for section in config.benchmarks:
        benchmark = benchmark_of(section, store)
        for checkpoint in layout.evaluated_ids(config):
            evaluation = grades.find(store, checkpoint, section.name)
            if evaluation is None:
                continue
            found = True
            problems = [
                (one.problem, [(a.completion, a.grade) for a in one.answers[checkpoint]])
                for one in by_problem(store, benchmark, {checkpoint: evaluation}, {})
            ]
            yield Graded(section.name, checkpoint, evaluation.summary(store), problems)
    if not found:
        raise IncompleteError(
            f"{store.url} has no graded completions to export. `svdjobs status {store.url}` says "
            f"what is missing."
        )


def numbers(store: Store) -> list[Number]:
    """The numbers of the run's report.

    Raises:
        IncompleteError: there is no report.
    """
    text = read_finished(store, "report", NUMBERS).decode()
    return [
        Number(
            row["benchmark"], row["checkpoint"], row["quantity"], float(row["value"]),
            _or_none(row["low"]), _or_none(row["high"]),
        )
        for row in csv.DictReader(io.StringIO(text))
    ]  # fmt: skip


def _or_none(cell: str) -> float | None:
    value = float(cell)
    return None if value != value else value


def empty_folder(path: Path) -> Path:
    """Make a folder to export to.

    Raises:
        ConfigError: it has files already.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} is not an empty folder. Give another, or remove what is in it.")
    path.mkdir(parents=True, exist_ok=True)
    return path


def missing(extra: str, error: ImportError) -> ConfigError:
    """What to say if an export's library is not installed."""
    return ConfigError(
        f"this export needs a library that is not installed ({error.name}). Install "
        f"svdjobs[{extra}]."
    )
