"""A journal for stores whose objects cannot be appended to.

A writer collects lines and sends them as numbered objects below the journal's key. Each writer's
objects have names of their own, so several writers can write at once. The names begin with the
time, so lines are read back in roughly the order in which they were written.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from svdjobs.errors import MissingKeyError, UnavailableError
from svdjobs.storage.objects import write_bytes
from svdjobs.storage.store import Store

FLUSH_SECONDS = 5.0
# After so long without the store, `append` fails: a kill would lose every line since then.
PATIENCE_SECONDS = 300.0
_PART = re.compile(r"lines-[0-9a-f]{24}-[0-9]{6}")
# Every journal's key ends in this; deleting another key need not look for a journal's objects.
SUFFIX = ".journal"


def parts(store: Store, key: str) -> list[str]:
    """Return the keys of the objects that hold a journal's lines, in order."""
    return [found for found in store.keys(key) if _PART.fullmatch(found.rpartition("/")[2])]


@contextmanager
def appending(
    store: Store, key: str, flush_seconds: float = FLUSH_SECONDS
) -> Iterator[GatheringJournal]:
    """Open a journal. Send its lines every few seconds, and when the block ends or fails."""
    journal = GatheringJournal(store, key)
    ended = threading.Event()

    def keep_sending() -> None:
        while not ended.wait(flush_seconds):
            journal.try_send()

    timer = threading.Thread(target=keep_sending, name="svdjobs-journal", daemon=True)
    timer.start()
    try:
        yield journal
    finally:
        ended.set()
        timer.join()
        journal.send()


class GatheringJournal:
    """The journal of one writer. Its lines stay in memory until they are sent."""

    def __init__(self, store: Store, key: str) -> None:
        self._store = store
        self._writer = f"{key}/lines-{time.time_ns():016x}{uuid.uuid4().hex[:8]}"
        self._number = 0
        self._unsent: list[str] = []
        self._failed_since: float | None = None
        self._refused: Exception | None = None
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        with ThreadPoolExecutor(8) as pool:
            read = pool.map(self._read, parts(store, key))
            self.lines = [line for data in read for line in data.decode().split("\n")[:-1]]

    def _read(self, part: str) -> bytearray:
        try:
            return self._store.read(part)
        except MissingKeyError as error:
            raise UnavailableError(
                f"{error} It was listed a moment ago: another process has finished the same work, "
                f"or started it again. Run the same command again."
            ) from None

    def append(self, line: str) -> None:
        """Add a line.

        Raises:
            UnavailableError: the store has accepted no lines for minutes.
            StorageError: the store refuses, e.g. because credentials have expired.
        """
        with self._lock:
            self._unsent.append(line)
            waiting, since = len(self._unsent), self._failed_since
        if self._refused is not None:
            raise self._refused
        if since is not None and time.monotonic() - since > PATIENCE_SECONDS:
            raise UnavailableError(
                f"{self._store.url}: the store has not accepted {waiting} lines for "
                f"{PATIENCE_SECONDS:.0f} s. Run the same command again when the store works: the "
                f"lines that it accepted are kept."
            )

    def send(self) -> None:
        """Send the lines that were appended since the last send, as one object."""
        with self._sending:
            with self._lock:
                lines = list(self._unsent)
            if not lines:
                return
            data = "".join(f"{line}\n" for line in lines).encode()
            write_bytes(self._store, f"{self._writer}-{self._number:06d}", data)
            self._number += 1
            with self._lock:
                del self._unsent[: len(lines)]
                self._failed_since = None

    def try_send(self) -> None:
        """Send the lines; if that fails, keep them for the next attempt."""
        try:
            self.send()
        except UnavailableError:
            with self._lock:
                self._failed_since = self._failed_since or time.monotonic()
        except Exception as error:  # later lines would be lost: `append` raises it
            self._refused = error
