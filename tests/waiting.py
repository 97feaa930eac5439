"""Wait for a pod, a server or another process; end what hangs."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, TypeVar

T = TypeVar("T")


def until(look: Callable[[], T | None], seconds: float, what: str, pause: float = 1.0) -> T:
    """Call `look` until it returns something, and return that; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(pause)
    return found


@contextmanager
def no_hang(seconds: int = 60) -> Iterator[None]:
    """Fail if the block does not end.

    This measures no speed: what it guards takes milliseconds if it is right, and hours or for ever
    if it is wrong.
    """

    def hangs(_number: int, _frame: FrameType | None) -> NoReturn:
        raise AssertionError(f"has not ended after {seconds} s")

    earlier = signal.signal(signal.SIGALRM, hangs)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)
