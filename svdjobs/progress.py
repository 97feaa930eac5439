"""Shows messages and progress: as bars with the time left on a terminal, as lines elsewhere.

In a workflow's pod, the percentage is also written to the file that Argo reads.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

from svdjobs import escape

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_EVERY_SECONDS = 5.0
SAY_LEFT_EVERY_SECONDS = 30.0
QUIET = "SVDJOBS_QUIET"
"""The environment variable with which neither messages nor progress are shown (`svdjobs -q`); child
processes inherit it. Logs have the messages, and errors are shown."""
# The environment variable with the path of a file whose content, such as `37/100`, Argo shows as
# the progress of a pod:
# https://argo-workflows.readthedocs.io/en/latest/progress/
ARGO_PROGRESS_FILE = "ARGO_PROGRESS_FILE"


class Advance(Protocol):
    """A function that counts finished work, and may show a note on the current work."""

    def __call__(self, amount: float = 1, note: str | None = None) -> None:
        """Count `amount` as finished."""


def console() -> Console:
    """The console for messages, on standard error; results go to standard output."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False, soft_wrap=not sys.stderr.isatty())


_log: ContextVar[TextIO | None] = ContextVar("log", default=None)


def say(message: str) -> None:
    """Print a message for the user, and write it to the log of `log_to` if there is one."""
    message = escape.message(message)
    if not os.environ.get(QUIET):
        console().print(message, markup=False)
    _note(message)


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """While the block runs, also write messages to a file, each with its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", buffering=1) as file:
        token = _log.set(file)
        try:
            yield
        finally:
            _log.reset(token)


def _note(message: str) -> None:
    if (file := _log.get()) is not None:
        file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {message}\n")


@contextmanager
def track(description: str, total: float) -> Iterator[Advance]:
    """Show progress while the block runs; the work is finished when `total` is counted."""
    shown = _bar if sys.stderr.isatty() and not os.environ.get(QUIET) else _lines
    with shown(description, total) as advance:
        path = os.environ.get(ARGO_PROGRESS_FILE)
        yield _also_in_file(advance, total, Path(path)) if path else advance


def _also_in_file(shown: Advance, total: float, path: Path) -> Advance:
    """Call `shown`, and write the percentage to a file whenever it grows."""
    done, written = 0.0, -1

    def advance(amount: float = 1, note: str | None = None) -> None:
        nonlocal done, written
        shown(amount, note)
        done += amount
        percent = (
            min(99, int(100 * done / total)) if total else 99
        )  # Argo sets 100 when the pod ends
        if percent > written:
            written = percent
            with suppress(OSError):  # a failure to show progress must not end the work
                path.write_text(f"{percent}/100")

    return advance


@contextmanager
def _bar(description: str, total: float) -> Iterator[Advance]:
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    started = time.monotonic()
    columns = (
        TextColumn("{task.description:<24}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=console()) as progress:
        bar = progress.add_task(escape.line(description), total=total, note="")

        def advance(amount: float = 1, note: str | None = None) -> None:
            if note is None:
                progress.update(bar, advance=amount)
            else:
                progress.update(bar, advance=amount, note=escape.line(note)[:40])

        yield advance
    _note(escape.message(f"{description}: done in {duration(time.monotonic() - started)}"))


@contextmanager
def _lines(description: str, total: float) -> Iterator[Advance]:
    started = shown = time.monotonic()
    done = 0.0

    def advance(amount: float = 1, note: str | None = None) -> None:
        nonlocal done, shown
        done += amount
        now = time.monotonic()
        if now - shown < PLAIN_EVERY_SECONDS or done >= total:
            return
        shown = now
        left = (now - started) * (total - done) / done if done else float("inf")
        percent = 100 * done / total if total else 100
        suffix = f"  {note}" if note else ""
        say(f"{description}: {percent:.0f} %, {duration(left)} left{suffix}")

    yield advance
    say(f"{description}: done in {duration(time.monotonic() - started)}")


class TimeLeft:
    """Says how much of repeated work is left, and how long that takes by what finished work took.

    `pieces` gives the kind of each piece of work. No time is said before a piece of each kind that
    is left has been done: there is no basis for it.
    """

    def __init__(self, what: str, pieces: Mapping[Hashable, str]) -> None:
        self._what = what
        self._pieces = dict(pieces)
        self._took: dict[str, list[float]] = {}
        self._said = time.monotonic()

    @contextmanager
    def one(self, piece: Hashable) -> Iterator[None]:
        """While the block runs, this piece is done. One that is not left is not counted."""
        started = time.monotonic()
        yield
        if kind := self._pieces.pop(piece, None):
            self._took.setdefault(kind, []).append(time.monotonic() - started)
            self._say()

    def forget(self, piece: Hashable) -> None:
        """Count a piece as done that somebody else has done."""
        self._pieces.pop(piece, None)

    @property
    def seconds(self) -> float | None:
        """The time that is left; None if it cannot be known yet."""
        left = self._pieces.values()
        if not self._took.keys() >= set(left):
            return None
        return sum(sum(self._took[kind]) / len(self._took[kind]) for kind in left)

    def _say(self) -> None:
        seconds, now = self.seconds, time.monotonic()
        if not self._pieces or now - self._said < SAY_LEFT_EVERY_SECONDS:
            return
        self._said = now
        time_left = "" if seconds is None else f", about {duration(seconds)}"
        say(f"{self._what} left: {len(self._pieces)}{time_left}")


def duration(seconds: float) -> str:
    """Format seconds for people: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Format bytes for people, in binary units."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")
