"""The rows of an output about matrices: one record per line of its .jsonl files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from svdjobs.devices import Device, computing
from svdjobs.parallel import in_order
from svdjobs.progress import track
from svdjobs.records import Record
from svdjobs.runs.outputs import Output, read_finished, require
from svdjobs.storage.objects import record_in, write_lines
from svdjobs.storage.store import Store

Row = TypeVar("Row", bound=Record)


def write_rows(
    output: Output,
    parts: Sequence[Sequence[str]],
    rows: Callable[[str], Sequence[Record]],
    flops: Mapping[str, float],
    *,
    device: Device,
    bytes_each: int,
) -> None:
    """Measure the matrices of every missing part, and write the rows of each part to a file.

    `rows` measures one matrix, which takes up to `bytes_each` of memory, in a thread of its own and
    on the device of that thread; `flops` is the work for each. A killed run resumes with the next
    part.
    """
    store = output.store
    files = {f"rows-{number:05d}.jsonl": names for number, names in enumerate(parts)}
    missing = {n: names for n, names in files.items() if not store.exists(output.key(n))}
    todo = [name for names in missing.values() for name in names]

    def lines_of(name: str) -> list[str]:
        return [row.model_dump_json() for row in rows(name)]

    with (
        track(output.prefix, sum(flops[name] for name in todo)) as advance,
        computing(device, bytes_each) as pool,
    ):
        found = in_order(pool.threads, lines_of, todo, ahead=2 * pool.workers)
        for file, names in missing.items():
            lines: list[str] = []
            for name in names:
                lines += next(found)
                advance(flops[name], name)
            write_lines(store, output.key(file), lines)
    for file in files:
        output.adopt(file)


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
