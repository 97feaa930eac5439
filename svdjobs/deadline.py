"""Time limits on blocks of code."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from svdjobs import escape
from svdjobs.errors import EXIT_TRY_AGAIN
from svdjobs.progress import duration

_LINES = 20
_KILL_SECONDS = 10


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

    def __init__(self, seconds: float, what: str, log: Path) -> None:
        """`what` hangs, e.g. `vLLM`. The end of its `log` is shown: the file may go with a pod."""
        self.seconds = seconds
        self._what = what
        self._log = log
        self._since: float | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="svdjobs-stall-watch").start()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self._since = None

    def close(self) -> None:
        """End the thread that watches."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(5.0, self.seconds / 4)):
            since = self._since
            if since is not None and time.monotonic() - since > self.seconds:
                self._end()

    def _end(self) -> None:
        # Not by `say`: this thread has not the settings of the one that hangs.
        sys.stderr.write(
            f"{self._what} hangs: a call has not returned for {duration(self.seconds)}, so this "
            f"process ends. What is finished is kept: run the same command again. The end of "
            f"{self._log}:\n{_end_of(self._log)}"
        )
        sys.stderr.flush()
        for child in multiprocessing.active_children():  # they would keep their GPUs
            child.kill()
            child.join(_KILL_SECONDS)
        os._exit(EXIT_TRY_AGAIN)


def _end_of(log: Path) -> str:
    """The last lines of a log, made safe for a terminal."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-_LINES:]
    except OSError:
        return ""
    return "".join(f"  {escape.line(line)}\n" for line in lines)
