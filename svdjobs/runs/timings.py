"""How long an engine took: notes among a run's logs, from which `plan` estimates other runs.

They are no output: a run with other timings has the same results.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Literal

from svdjobs.errors import DamagedError, FormatError
from svdjobs.records import Record
from svdjobs.runs.logs import LOGS, RunLogs
from svdjobs.storage.objects import record_in
from svdjobs.storage.store import Store

_NAME = "timings"


class Timing(Record):
    """An engine drew or read the completions of a benchmark with one checkpoint."""

    what: Literal["draw", "read"]
    engine: str
    """Name, version and device of the engine."""
    checkpoint: str
    benchmark: str
    tokens: int
    """Tokens drawn, or tokens whose log-probability was computed."""
    seconds: float


def note(logs: RunLogs, timing: Timing) -> None:
    """Append a note to the log file of this process."""
    with logs.path(_NAME).open("a") as file:
        file.write(timing.model_dump_json() + "\n")


def load(store: Store) -> list[Timing]:
    """The notes of all processes. Damaged ones are left out: a process may have been killed."""
    found = []
    for key in sorted(store.keys(LOGS)):
        if key.startswith(f"{LOGS}/{_NAME}-"):
            for line in bytes(store.read(key)).splitlines():
                try:
                    found.append(record_in(Timing, line, key))
                except (DamagedError, FormatError):
                    continue
    return found


def tokens_per_second(timings: Iterable[Timing], what: Literal["draw", "read"]) -> float | None:
    """The median speed over all notes of a kind, since the first one includes a warm-up; None
    without any."""
    speeds = [t.tokens / t.seconds for t in timings if t.what == what and t.seconds > 0]
    return median(speeds) if speeds else None
