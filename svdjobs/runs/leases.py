"""Leases: of several processes that walk one list of work, one at a time works on each piece.

A lease is a row of objects that are created and never replaced, so `put_new` is all it needs:

    leases/PIECE/000        the first try, taken by the worker that could create it
    leases/PIECE/000.beat   written again every few seconds while its holder works
    leases/PIECE/000.end    written by a holder that failed or was told to stop
    leases/PIECE/001        the next try

Whoever sees a try end, or its beat stand still for `silence` seconds, may take the next one. Beats
are compared with the reader's own clock alone, so clocks of machines need not agree. A holder that
only stood still (a stopped process, a cut network) may then work beside another; outputs allow
that, since both write the same bytes.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from svdjobs.errors import MissingKeyError, SvdjobsError
from svdjobs.storage.objects import clear, write_bytes
from svdjobs.storage.store import Listing, Store, Written

PREFIX = "leases"
SILENCE_SECONDS = 60.0
BEAT_SECONDS = 10.0
MOST_TRIES = 8
_TRY = re.compile(r"\d{3}")


class Leases:
    """Leases on the pieces of work of one run, as one worker sees them."""

    def __init__(
        self,
        store: Store,
        *,
        silence: float = SILENCE_SECONDS,
        beat: float = BEAT_SECONDS,
        most_tries: int = MOST_TRIES,
    ) -> None:
        self._store = store
        self._silence = silence
        self._beat = beat
        self._most_tries = most_tries
        self._worker = worker(os.getpid())
        self._seen: dict[str, tuple[Written, float]] = {}

    @contextmanager
    def held(self, piece: str) -> Iterator[bool]:
        """Take a piece, and hold it while the block runs; False if another worker has it.

        If the block raises an exception, also that of a signal, others may take the piece at once.
        """
        number = self._free(piece)
        key = f"{PREFIX}/{piece}/{number or 0:03d}"
        if number is None or not self._store.put_new(key, self._worker.encode()):
            yield False
            return
        done = threading.Event()
        beats = threading.Thread(target=self._keep_beating, args=(f"{key}.beat", done), daemon=True)
        beats.start()
        try:
            yield True
        except BaseException:
            done.set()
            beats.join()
            with suppress(SvdjobsError):  # without it, others wait until the beat is old
                write_bytes(self._store, f"{key}.end", b"")
            raise
        done.set()
        beats.join()
        clear(self._store, f"{PREFIX}/{piece}")

    def is_given_up(self, piece: str) -> bool:
        """Whether the last of `most_tries` tries is over."""
        tries, found = self._tries(piece)
        return len(tries) >= self._most_tries and self._is_over(piece, tries[-1], found)

    def _tries(self, piece: str) -> tuple[list[str], Listing]:
        found = self._store.listing(f"{PREFIX}/{piece}")
        return sorted(name for name in found.files if _TRY.fullmatch(name)), found

    def _free(self, piece: str) -> int | None:
        """The number of the next try, if it may be taken."""
        tries, found = self._tries(piece)
        if not tries:
            return 0
        over = self._is_over(piece, tries[-1], found)
        return len(tries) if over and len(tries) < self._most_tries else None

    def _is_over(self, piece: str, last: str, found: Listing) -> bool:
        """Whether the last try has ended, or this worker has seen the same beat for too long."""
        if f"{last}.end" in found.files:
            return True
        beat, now = found.files.get(f"{last}.beat") or found.files[last], time.monotonic()
        seen, since = self._seen.get(piece, (None, now))
        if seen != beat:
            since = now
            self._seen[piece] = beat, since
        return now - since > self._silence

    def _keep_beating(self, key: str, done: threading.Event) -> None:
        count = 0
        while not done.wait(self._beat):
            count += 1
            with suppress(SvdjobsError):  # the store is away; the work itself will say so
                write_bytes(self._store, key, b"." * (count % 1000))


def worker(pid: int) -> str:
    """The name of a process of this machine, as leases hold it."""
    return f"{socket.gethostname()} {pid}"


def give_back(store: Store, of: str) -> None:
    """End the leases of a worker that is known to be dead, so that nobody waits for them."""
    for key in store.keys(PREFIX):
        if _TRY.fullmatch(key.rpartition("/")[2]):
            with suppress(MissingKeyError):  # its piece has just been done
                if bytes(store.read(key)).decode() == of:
                    write_bytes(store, f"{key}.end", b"")


def forget(store: Store) -> None:
    """Remove all leases: at the start of a sweep nobody works on it yet, and all tries are new."""
    clear(store, PREFIX)
