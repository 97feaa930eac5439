"""Copy a run's report and verdict from its store to a folder, for a CI job."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from svdjobs.records import Gate
from svdjobs.runs.outputs import copy, read_finished
from svdjobs.stages import gate, report
from svdjobs.storage.store import Store

# CI systems read the verdict from this file.
JUNIT = "junit.xml"


def clear(into: Path) -> None:
    """Remove an earlier job's report and verdict, which could be mistaken for this job's.

    A folder without junit.xml was not written by svdjobs, so it stays.
    """
    for prefix in (report.PREFIX, gate.PREFIX):
        if (into / prefix).is_symlink():
            (into / prefix).unlink()
        elif (into / prefix / JUNIT).is_file():
            shutil.rmtree(into / prefix)


class Brought(NamedTuple):
    """The contents of a copied report and verdict."""

    missing: list[str]
    """Outputs that are missing from the report."""
    gate: Gate | None


def bring_back(store: Store, into: Path, prefixes: Collection[str]) -> Brought:
    """Copy the report, the verdict or both to folders in `into`.

    `prefixes` must name only what this job made: the store may hold others of an earlier attempt.

    Raises:
        StorageError, ConfigError: the store cannot be read from here.
        IncompleteError: an output of `prefixes` is missing.
    """
    missing: list[str] = []
    verdict = None
    if report.PREFIX in prefixes:
        copy(store, report.PREFIX, into / report.PREFIX)
        missing = json.loads(read_finished(store, report.PREFIX, "verdict.json"))["missing"]
    if gate.PREFIX in prefixes:
        copy(store, gate.PREFIX, into / gate.PREFIX)
        verdict = gate.load(store)
    return Brought(missing, verdict)
