"""A time limit on a block of code."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


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
