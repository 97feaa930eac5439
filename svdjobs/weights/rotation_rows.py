"""Reads the rows that the rotations stage has written."""

from __future__ import annotations

from collections.abc import Iterator

from svdjobs.records import RotationRow
from svdjobs.runs.layout import ROTATIONS
from svdjobs.runs.outputs import read_finished, require
from svdjobs.storage.objects import record_in
from svdjobs.storage.store import Store


def load_rows(store: Store) -> list[RotationRow]:
    """The rows of a finished rotations stage, sorted by family, then by layer."""
    (manifest,) = require(store, [ROTATIONS], stage="report")

    def rows() -> Iterator[RotationRow]:
        for file in manifest.files:
            if file.key.endswith(".jsonl"):
                for line in read_finished(store, ROTATIONS, file.key, manifest).splitlines():
                    yield record_in(RotationRow, line, f"a row of {ROTATIONS}")

    return sorted(rows(), key=lambda row: (row.family, row.layer or 0, row.name))
