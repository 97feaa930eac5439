"""An end to waiting, whatever is being waited for."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


class OutOfTime(BaseException):
    """The time that was given is over."""


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Raise `OutOfTime` in the main thread once so many seconds are over; None: never.

    By a signal, since what is waited for may be a read that returns when it likes.
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
