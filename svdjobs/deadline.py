"""Time limits on blocks of code."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from svdjobs.errors import EXIT_TRY_AGAIN
from svdjobs.progress import duration, say


class OutOfTime(BaseException):
    """The time limit of `deadline` has passed.

    It is no Exception, so that `except Exception` in the block does not catch it.
    """


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise `OutOfTime` in the main thread after this many seconds; None: never.

    A signal raises it, because the block may be inside a read that never returns.
    """
    if seconds is None:
        yield
        return

    def over(number: int, frame: object) -> None:
        raise OutOfTime

    earlier = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


class StallWatch:
    """Ends this process with exit code 75 if a block that it surrounds takes too long.

    For calls into a library that hang where no exception reaches them: a GPU that no longer
    answers, a collective operation whose partner is gone. The leases of this process then run out,
    others take its work, and Argo starts its pod again.
    """

    def __init__(self, seconds: float, words: str) -> None:
        """`words` are what is said at the end, e.g. what hangs and where its log is."""
        self._seconds = seconds
        self._words = words
        self._since: float | None = None
        threading.Thread(target=self._watch, daemon=True, name="svdjobs-stall-watch").start()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = None

    def _watch(self) -> None:
        while True:
            time.sleep(min(5.0, self._seconds / 4))
            since = self._since
            if since is not None and time.monotonic() - since > self._seconds:
                say(
                    f"{self._words} It has not returned for {duration(self._seconds)}, so this "
                    f"process ends. What is finished is kept: run the same command again."
                )
                sys.stderr.flush()
                os._exit(EXIT_TRY_AGAIN)
