"""The rows of a finished output: one record per line of its .jsonl files."""

from __future__ import annotations

from typing import TypeVar

from svdjobs.records import Record
from svdjobs.runs.outputs import read_finished, require
from svdjobs.storage.objects import record_in
from svdjobs.storage.store import Store

Row = TypeVar("Row", bound=Record)


def load_rows(store: Store, prefix: str, kind: type[Row], *, stage: str) -> list[Row]:
    """Return the rows of the output at a prefix, file by file, for a stage to read.

    Raises:
        IncompleteError: the output is not finished.
        DamagedError: a line is no such record.
    """
    (manifest,) = require(store, [prefix], stage=stage)
    return [
        record_in(kind, line, f"a row of {prefix}")
        for file in manifest.files
        if file.key.endswith(".jsonl")
        for line in read_finished(store, prefix, file.key, manifest).splitlines()
    ]
