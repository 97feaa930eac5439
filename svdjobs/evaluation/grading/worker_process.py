"""The parent's side of one grading process: non-blocking pipes, queued questions, a deadline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import suppress
from typing import IO, Any

from svdjobs.evaluation import sandbox
from svdjobs.evaluation.grading.questions import Question

START_SECONDS = 120.0
_READ_BYTES = 1 << 20


class WorkerProcess:
    """One process and the questions sent to it, which it answers in order."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        # Read only if the process does not start.
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "svdjobs.evaluation.grading.worker", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=sandbox.environment(),
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches the parent only
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
    def has_deadline(self) -> bool:
        """Whether it must reply by `deadline`: it is starting or has a question."""
        return not self.ready or bool(self.questions)

    def ask(self, question: Question) -> None:
        """Send a question; its time starts when the one before it has been answered."""
        if not self.questions:
            self.restart_clock()
        self.questions.append(question)
        self._outgoing += json.dumps(question.request()).encode() + b"\n"
        self.flush()

    def restart_clock(self) -> None:
        """Give the first question without a reply its full time."""
        self.deadline = time.monotonic() + self._timeout_seconds

    def flush(self) -> None:
        """Write as much as the pipe takes. `receive` notices a dead process."""
        with suppress(BlockingIOError, BrokenPipeError):
            while self._outgoing:
                written = os.write(self.stdin.fileno(), self._outgoing)
                del self._outgoing[:written]

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """The complete messages that have arrived, and whether the process is still alive."""
        alive = True
        with suppress(BlockingIOError):
            while chunk := os.read(self.stdout.fileno(), _READ_BYTES):
                self._incoming += chunk
            alive = False
        *lines, rest = self._incoming.split(b"\n")
        self._incoming = bytearray(rest)
        return [json.loads(line) for line in lines], alive

    def kill(self) -> None:
        """Kill the process, whatever it is doing, and close its pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in (self.stdin, self.stdout, self._errors):
            pipe.close()

    def stderr_tail(self) -> str:
        """The last line that the process wrote to standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no message")
