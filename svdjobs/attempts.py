"""The one rule for trying again: how long to wait after a transient failure, and when to stop."""

from __future__ import annotations

import random
import time

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 5.0
_JITTER = 0.25


class Attempts:
    """Attempts at one request. Pauses double from a quarter of a second to five, with jitter, so
    that many clients of a server that restarts do not all come back at once."""

    def __init__(self, *, most: int | None = None, patience_seconds: float) -> None:
        """Stop after `most` attempts, or when the next pause would end after `patience_seconds`."""
        self.failed = 0
        self._most = most
        self._deadline = time.monotonic() + patience_seconds

    def pause(self) -> bool:
        """Count a failure and wait for the next attempt. False, at once, if there is none left."""
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2**self.failed)
        self.failed += 1
        seconds = longest * random.uniform(1 - _JITTER, 1)
        if self.failed == self._most or time.monotonic() + seconds > self._deadline:
            return False
        time.sleep(seconds)
        return True
