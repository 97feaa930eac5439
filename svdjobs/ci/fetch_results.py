"""What whoever waited for a run takes home: its report and its verdict, on this disk."""

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

# What a CI system reads the verdict from.
JUNIT = "junit.xml"


def clear(into: Path) -> None:
    """Remove what an earlier job brought to the folder, so that none of it passes for this one's.

    A folder of that name that holds no verdict for CI is somebody else's, and stays.
    """
    for prefix in (report.PREFIX, gate.PREFIX):
        if (into / prefix).is_symlink():
            (into / prefix).unlink()
        elif (into / prefix / JUNIT).is_file():
            shutil.rmtree(into / prefix)


class Brought(NamedTuple):
    """What there was."""

    missing: list[str]
    """Outputs that the report lacks."""
    gate: Gate | None


def bring_back(store: Store, into: Path, prefixes: Collection[str]) -> Brought:
    """Copy the report and the verdict, or what of them is named, to folders in `into`.

    Named is what was made now: an earlier attempt may have left others in the store.

    Raises:
        StorageError, ConfigError: the store cannot be read from here.
        IncompleteError: what is named is not there.
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
