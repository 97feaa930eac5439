"""Grade many completions in worker processes, each bounded in time and memory.

A thread of its own (the dispatcher) hands questions to the workers and takes their replies, so
that drawing completions never waits for grading. Several questions are on their way to a worker at
once; the time limit is nevertheless each question's own.
"""

from __future__ import annotations

import os
import queue
import selectors
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Self

from svdjobs.errors import BenchmarkError, EvaluationError
from svdjobs.evaluation.grading.worker_messages import (
    ClassQuestion,
    GradeQuestion,
    SecondQuestion,
    Submission,
)
from svdjobs.evaluation.grading.worker_process import Question, WorkerProcess
from svdjobs.provenance import cores
from svdjobs.records import Completion, Grade, Outcome, SecondGrade

# Enough to hide the way to a worker and back; all but the first wait when one hangs.
_IN_FLIGHT = 16
_FAILED_STARTS = 3
# Enough for any engine's output; more would only take the cores from it.
_MAX_WORKERS = 8


class GradingPool:
    """Worker processes that grade answers; started on entry, killed on exit.

    An answer that overruns its time is a `timeout`, and the same answer is not tried again, nor is
    it compared with others. One whose worker dies is tried once more, alone, since something else
    may have killed it, and is then a `parse_error`. No other answer is affected.
    """

    def __init__(self, timeout_seconds: float, workers: int | None = None) -> None:
        self._dispatcher = _Dispatcher(timeout_seconds, workers or min(cores(), _MAX_WORKERS))
        self._uncollected: list[Submission[Grade]] = []

    def __enter__(self) -> Self:
        self._dispatcher.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers, whatever they are doing. What was submitted and not done is lost."""
        self._dispatcher.stop()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the workers of the moment."""
        return [worker.pid for worker in self._dispatcher.workers]

    def submit(
        self, completions: Sequence[Completion], golds: Mapping[int, str | Sequence[str]]
    ) -> None:
        """Start grading and return at once; `collect` gives the grades.

        `golds` is the gold, or several any of which will do, of each problem idx.
        """
        self._uncollected.append(self._submit(completions, golds))

    def collect(self) -> list[Grade]:
        """Wait for everything submitted since the last time; grades in the order submitted.

        A completion without an answer is `truncated` if it was cut off and `no_answer` otherwise.
        """
        waiting, self._uncollected = self._uncollected, []
        return [grade for submission in waiting for grade in submission.results()]

    def grade(
        self, completions: Sequence[Completion], golds: Mapping[int, str | Sequence[str]]
    ) -> list[Grade]:
        """Grade and wait; what else was submitted stays to be collected."""
        return self._submit(completions, golds).results()

    def _submit(
        self, completions: Sequence[Completion], golds: Mapping[int, str | Sequence[str]]
    ) -> Submission[Grade]:
        lacking = sorted({c.idx for c in completions} - golds.keys())
        if lacking:
            raise BenchmarkError(f"no gold for problem idx {', '.join(map(str, lacking))}.")
        submission: Submission[Grade] = Submission(len(completions))
        questions: list[Question] = []
        for position, completion in enumerate(completions):
            gold = golds[completion.idx]
            several = [gold] if isinstance(gold, str) else gold
            questions.append(GradeQuestion(completion, several, partial(submission.put, position)))
        self._dispatcher.take(submission, questions)
        return submission

    def second_opinions(
        self,
        completions: Sequence[Completion],
        golds: Mapping[int, str | Sequence[str]],
        advance: Callable[[], None],
    ) -> list[SecondGrade]:
        """What the second grader says of them; `advance` is called for each, in any order."""
        submission: Submission[SecondGrade] = Submission(len(completions))
        questions: list[Question] = []
        for position, completion in enumerate(completions):
            gold = golds[completion.idx]
            several = [gold] if isinstance(gold, str) else gold

            def done(grade: SecondGrade, position: int = position) -> None:
                submission.put(position, grade)
                advance()

            questions.append(SecondQuestion(completion, several, done))
        self._dispatcher.take(submission, questions)
        return submission.results()

    def classify(self, grades: Sequence[Grade]) -> list[Grade]:
        """The grades with `answer_class` set: equal numbers for equivalent answers of one problem.

        Correct answers all equal the gold and make one class, those that ran out of time one for
        each text; only the others are compared.
        """
        problems: dict[int, list[int]] = {}
        for position, grade in enumerate(grades):
            if grade.answer is not None:
                problems.setdefault(grade.idx, []).append(position)
        submission: Submission[list[int]] = Submission(len(problems))
        questions: list[Question] = []
        others: list[list[str]] = []
        for number, positions in enumerate(problems.values()):
            compared = (_compared(grades[p]) for p in positions)
            others.append(list(dict.fromkeys(a for a in compared if a is not None)))
            done = partial(submission.put, number)
            if len(others[-1]) > 1:
                questions.append(ClassQuestion(others[-1], done))
            else:
                done([0] * len(others[-1]))
        self._dispatcher.take(submission, questions)
        classified = list(grades)
        for positions, distinct, ids in zip(
            problems.values(), others, submission.results(), strict=True
        ):
            class_of = dict(zip(distinct, ids, strict=True))
            renumbered: dict[int | str | None, int] = {}
            for position in positions:
                grade, answer = grades[position], _compared(grades[position])
                own = class_of[answer] if answer is not None else None
                late = grade.answer if grade.outcome is Outcome.TIMEOUT else None
                number = renumbered.setdefault(own if late is None else late, len(renumbered))
                classified[position] = grades[position].model_copy(update={"answer_class": number})
        return classified


def _compared(grade: Grade) -> str | None:
    """The answer, where its class takes a comparison: it is not the gold's, and did not hang."""
    return None if grade.outcome in (Outcome.CORRECT, Outcome.TIMEOUT) else grade.answer


class _Dispatcher:
    """The thread that owns the workers. Others reach it through a queue and a wake-up pipe.

    It starts the workers itself: Linux ends them with the thread that started them.
    """

    def __init__(self, timeout_seconds: float, count: int) -> None:
        self._timeout_seconds = timeout_seconds
        self._count = count
        self.workers: list[WorkerProcess] = []
        self._pending: deque[Question] = deque()
        self._alone: deque[Question] = deque()
        self._hung: set[Hashable] = set()
        self._failed_starts = 0
        self._inbox: queue.SimpleQueue[list[Question]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: list[Submission[Any]] = []
        self._stopping = False
        self._error: BaseException | None = EvaluationError("the grading pool is not open.")
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._error = None
        self._thread = threading.Thread(target=self._main, name="grading", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is None:
            return
        self._stopping = True
        self._wake()
        self._thread.join()
        self._thread = None
        os.close(self._wake_read)
        os.close(self._wake_write)

    def take(self, submission: Submission[Any], questions: list[Question]) -> None:
        """Accept questions from any thread."""
        with self._lock:
            if self._error is not None:
                submission.fail(self._error)
                return
            self._open = [s for s in self._open if not s.is_settled] + [submission]
            self._inbox.put(questions)
            self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # full: it has not yet noticed the last ones
            os.write(self._wake_write, b"x")

    def _main(self) -> None:
        reason: BaseException = EvaluationError("the grading pool was closed.")
        try:
            for _ in range(self._count):
                self.workers.append(WorkerProcess(self._timeout_seconds))
            while not self._stopping:
                self._step()
        except BaseException as error:
            reason = error
        finally:
            for worker in self.workers:
                worker.kill()
            with self._lock:
                self._error = reason
                for submission in self._open:
                    submission.fail(reason)

    def _step(self) -> None:
        """Wait for something to happen and deal with it, replies before deadlines."""
        replying = self._wait()
        while not self._inbox.empty():
            self._pending.extend(self._inbox.get())
        for worker in replying:
            self._receive(worker)
        now = time.monotonic()
        for worker in list(self.workers):
            if worker.is_waited_for and now > worker.deadline:
                self._replace(worker, hung=True)
        for worker in self.workers:
            self._hand_out(worker)

    def _wait(self) -> list[WorkerProcess]:
        """Workers with something to read, waiting no longer than the nearest deadline."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            for worker in self.workers:
                selector.register(worker.stdout, selectors.EVENT_READ, worker)
                if worker.has_outgoing:
                    selector.register(worker.stdin, selectors.EVENT_WRITE, worker)
            waited = [worker.deadline for worker in self.workers if worker.is_waited_for]
            timeout = max(0.0, min(waited) - time.monotonic()) if waited else None
            replying = []
            for key, events in selector.select(timeout):
                if key.data is None:
                    os.read(self._wake_read, 4096)
                elif events & selectors.EVENT_WRITE:
                    key.data.flush()
                else:
                    replying.append(key.data)
            return replying

    def _receive(self, worker: WorkerProcess) -> None:
        messages, alive = worker.receive()
        for message in messages:
            worker.restart_clock()
            if not worker.ready:
                worker.ready = True
                self._failed_starts = 0
            elif worker.questions[0].reply(message):
                worker.questions.popleft()
        if not alive:
            self._replace(worker, hung=False)

    def _hand_out(self, worker: WorkerProcess) -> None:
        """Fill a worker's queue; a question asked again has the worker to itself."""
        if not worker.ready or (worker.questions and worker.questions[0].attempt):
            return
        if self._alone and not worker.questions:
            worker.ask(self._alone.popleft())
            return
        while self._pending and len(worker.questions) < _IN_FLIGHT:
            question = self._pending.popleft()
            # Only after a hang are subjects looked at, so that they cost nothing else.
            if self._hung and question.subject() in self._hung:
                question.give_up(hung=True)
            else:
                worker.ask(question)

    def _replace(self, worker: WorkerProcess, *, hung: bool) -> None:
        """Put a new worker in the place of one that hangs or died, and settle its questions.

        Questions are answered in order, so the first without a reply is the suspect; the others go
        back to the front of the queue.
        """
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _FAILED_STARTS:
                raise EvaluationError(
                    f"{_FAILED_STARTS} grading workers in a row did not start "
                    f"({worker.last_words()}). Run "
                    f"`{sys.executable} -m svdjobs.evaluation.grading.worker` to see why."
                )
        worker.kill()
        if worker.questions:
            suspect = worker.questions.popleft()
            self._pending.extendleft(reversed(worker.questions))
            self._settle(suspect, hung=hung)
        self.workers[self.workers.index(worker)] = WorkerProcess(self._timeout_seconds)

    def _settle(self, suspect: Question, *, hung: bool) -> None:
        if hung and (subject := suspect.subject()) is not None:
            self._hung.add(subject)
        if not hung and suspect.attempt == 0:
            suspect.attempt = 1
            self._alone.append(suspect)
        elif not suspect.give_up(hung=hung):
            self._pending.appendleft(suspect)
