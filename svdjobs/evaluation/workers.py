"""Grade many completions in worker processes, each bounded in time and memory."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, NamedTuple, Self

from svdjobs.errors import EvaluationError
from svdjobs.evaluation.extraction import extract_answer
from svdjobs.provenance import cores
from svdjobs.records import Completion, Grade, Outcome

START_SECONDS = 120.0
# All a worker sees of the environment: no credentials, no proxies, no tokens.
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV", "HOME")


class _Question(NamedTuple):
    position: int
    answer: str
    gold: str
    attempt: int = 0


class _Worker:
    """One process, at most one question at a time."""

    def __init__(self) -> None:
        environment = {k: os.environ[k] for k in _KEPT_VARIABLES if k in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "svdjobs.evaluation.grading_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            bufsize=1,
        )
        self.question: _Question | None = None
        self.ready = False
        self.deadline = time.monotonic() + START_SECONDS

    @property
    def stdout(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def ask(self, question: _Question, timeout_seconds: float) -> None:
        assert self._process.stdin is not None
        self.question = question
        self.deadline = time.monotonic() + timeout_seconds
        self._process.stdin.write(
            json.dumps({"answer": question.answer, "gold": question.gold}) + "\n"
        )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with suppress(BrokenPipeError):
                    pipe.close()


class GradingPool:
    """Worker processes that grade answers; started on entry, killed on exit."""

    def __init__(self, timeout_seconds: float, workers: int | None = None) -> None:
        self._timeout = timeout_seconds
        self._count = workers or cores()
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        self._workers = [_Worker() for _ in range(self._count)]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.kill()

    def grade(self, completions: Sequence[Completion], golds: dict[int, str]) -> list[Grade]:
        """Grades in the order of the completions.

        A completion without a box is `truncated` if it was cut off and `no_answer` otherwise. An
        answer that overruns its time or kills its worker is tried once more in a fresh one, then
        `timeout` or `parse_error`.
        """
        answers = [extract_answer(completion.text) for completion in completions]
        outcomes: list[Outcome | None] = [
            None if answer is not None else _unanswered(completion)
            for completion, answer in zip(completions, answers, strict=True)
        ]
        questions = deque(
            _Question(i, answer, golds[completions[i].idx])
            for i, answer in enumerate(answers)
            if answer is not None
        )
        self._run(questions, outcomes)
        grades = []
        for completion, answer, outcome in zip(completions, answers, outcomes, strict=True):
            assert outcome is not None
            grades.append(
                Grade(
                    idx=completion.idx,
                    sample_index=completion.sample_index,
                    outcome=outcome,
                    answer=answer,
                )
            )
        return grades

    def _run(self, questions: deque[_Question], outcomes: list[Outcome | None]) -> None:
        while questions or any(worker.question for worker in self._workers):
            for worker in self._workers:
                if worker.ready and worker.question is None and questions:
                    question = questions.popleft()
                    try:
                        worker.ask(question, self._timeout)
                    except (BrokenPipeError, OSError):
                        self._failed(worker, questions, outcomes, Outcome.PARSE_ERROR)
            for worker in self._wait():
                line = worker.stdout.readline().strip()
                if not line:
                    self._failed(worker, questions, outcomes, Outcome.PARSE_ERROR)
                elif not worker.ready:
                    worker.ready = True
                elif worker.question is not None:
                    outcomes[worker.question.position] = Outcome(line)
                    worker.question = None
            now = time.monotonic()
            for worker in self._workers:
                if (worker.question or not worker.ready) and now > worker.deadline:
                    self._failed(worker, questions, outcomes, Outcome.TIMEOUT)

    def _wait(self) -> list[_Worker]:
        """Workers with a line to read, waiting no longer than the nearest deadline."""
        with selectors.DefaultSelector() as selector:
            waiting = [w for w in self._workers if w.question or not w.ready]
            for worker in waiting:
                selector.register(worker.stdout, selectors.EVENT_READ, worker)
            nearest = min((w.deadline for w in waiting), default=0.0)
            events = selector.select(max(0.0, nearest - time.monotonic()))
            return [key.data for key, _ in events]

    def _failed(
        self,
        worker: _Worker,
        questions: deque[_Question],
        outcomes: list[Outcome | None],
        outcome: Outcome,
    ) -> None:
        """Replace a worker that hangs or died; its question is tried once more, then settled."""
        question = worker.question
        worker.kill()
        if question is None:
            raise EvaluationError(
                "a grading worker did not start. Run "
                f"`{sys.executable} -m svdjobs.evaluation.grading_worker` to see why."
            )
        if question.attempt == 0:
            questions.append(question._replace(attempt=1))
        else:
            outcomes[question.position] = outcome
        self._workers[self._workers.index(worker)] = _Worker()


def _unanswered(completion: Completion) -> Outcome:
    return Outcome.TRUNCATED if completion.finish_reason == "length" else Outcome.NO_ANSWER
