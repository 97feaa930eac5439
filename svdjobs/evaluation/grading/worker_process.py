"""The parent's side of one grading process: pipes that never block, questions in order, a clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Hashable
from contextlib import suppress
from typing import IO, Any, Protocol

START_SECONDS = 120.0
# All a worker sees of the environment: no credentials, no proxies, no tokens, and no HOME, where
# the clouds' tools look for the rest.
KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_READ_BYTES = 1 << 20


class Question(Protocol):
    """What a worker is asked, possibly in several replies, possibly more than once."""

    attempt: int
    """0 at first, 1 when asked again alone after its worker died."""

    def subject(self) -> Hashable:
        """What would hang again if it hung; None: nothing to remember."""

    def request(self) -> dict[str, Any]:
        """What is still to be asked."""

    def reply(self, message: dict[str, Any]) -> bool:
        """Take one reply; whether it was the last."""

    def give_up(self, *, hung: bool) -> bool:
        """Settle without a reply what hung, or killed two workers; whether nothing else remains."""


class WorkerProcess:
    """One process and the questions it has been sent, answered in order."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        # Read only when it does not start.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "svdjobs.evaluation.grading.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={k: os.environ[k] for k in KEPT_VARIABLES if k in os.environ},
            bufsize=0,
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        for pipe in (self.stdin, self.stdout):
            os.set_blocking(pipe.fileno(), False)
        self._outgoing = bytearray()
        self._incoming = bytearray()
        self.questions: deque[Question] = deque()
        self.ready = False
        self.deadline = time.monotonic() + START_SECONDS

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def stdin(self) -> IO[bytes]:
        """Where questions go."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """Where replies come from."""
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def has_outgoing(self) -> bool:
        """Whether questions wait for room in the pipe."""
        return bool(self._outgoing)

    @property
    def is_waited_for(self) -> bool:
        """Whether its deadline counts."""
        return not self.ready or bool(self.questions)

    def ask(self, question: Question) -> None:
        """Queue a question; its clock starts when the one before it is answered."""
        if not self.questions:
            self.restart_clock()
        self.questions.append(question)
        self._outgoing += json.dumps(question.request()).encode() + b"\n"
        self.flush()

    def restart_clock(self) -> None:
        """Give the question now being answered its full time."""
        self.deadline = time.monotonic() + self._timeout_seconds

    def flush(self) -> None:
        """Write what the pipe takes. A dead reader is noticed where replies are read."""
        with suppress(BlockingIOError, BrokenPipeError):
            while self._outgoing:
                written = os.write(self.stdin.fileno(), self._outgoing)
                del self._outgoing[:written]

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """Complete messages that have arrived, and whether the process is still there."""
        alive = True
        with suppress(BlockingIOError):
            while chunk := os.read(self.stdout.fileno(), _READ_BYTES):
                self._incoming += chunk
            alive = False
        *lines, rest = self._incoming.split(b"\n")
        self._incoming = bytearray(rest)
        return [json.loads(line) for line in lines], alive

    def kill(self) -> None:
        """End the process, whatever it does, and close what belongs to it."""
        self._process.kill()
        self._process.wait()
        for pipe in (self.stdin, self.stdout, self._errors):
            pipe.close()

    def last_words(self) -> str:
        """The last line it wrote to standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no message")
