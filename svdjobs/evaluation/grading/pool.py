"""Grade many completions in worker processes, each bounded in time and memory.

A thread (the dispatcher) sends questions to the workers and takes their replies, so generating
completions never waits for grading. Several questions are queued at a worker; each still has its
own time limit.
"""

from __future__ import annotations

import math
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
from svdjobs.evaluation.grading.questions import (
    BatchResult,
    ClassQuestion,
    GradeQuestion,
    Question,
    SecondQuestion,
)
from svdjobs.evaluation.grading.worker_process import WorkerProcess
from svdjobs.provenance import cores
from svdjobs.records import Completion, Grade, Outcome, SecondGrade

# Questions queued per worker, so that it never waits; more would wait behind one that hangs. If
# there are more, another worker starts.
_MAX_QUEUED = 16
_MAX_FAILED_STARTS = 3
# Enough to grade as fast as any engine generates; more would only take cores from the engine.
_MAX_WORKERS = 8


class GradingPool:
    """Worker processes that grade answers; killed on exit. One starts on entry, more as needed.

    An answer that exceeds its time is a `timeout`; an equal answer is not tried again, and it is
    not compared with others. An answer whose worker dies is tried once more, alone, since something
    else may have killed the worker; if that fails too, it is a `parse_error`. No other answer is
    affected.
    """

    def __init__(self, timeout_seconds: float, workers: int | None = None) -> None:
        self._dispatcher = _Dispatcher(timeout_seconds, workers or min(cores(), _MAX_WORKERS))
        self._uncollected: list[BatchResult[Grade]] = []

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
        """Kill the workers, whatever they are doing. Unfinished work is lost."""
        self._dispatcher.stop()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the current workers."""
        return [worker.pid for worker in self._dispatcher.workers]

    def submit(
        self, completions: Sequence[Completion], golds: Mapping[int, str | Sequence[str]]
    ) -> None:
        """Start grading and return at once; `collect` returns the grades.

        `golds` maps each problem idx to its gold, or to several, any of which will do.
        """
        self._uncollected.append(self._submit(completions, golds))

    def collect(self) -> list[Grade]:
        """Wait for everything submitted since the last call; grades in the order submitted.

        A completion without an answer is `truncated` if it was cut off, and `no_answer` otherwise.
        """
        batches, self._uncollected = self._uncollected, []
        return [grade for batch in batches for grade in batch.results()]

    def grade(
        self, completions: Sequence[Completion], golds: Mapping[int, str | Sequence[str]]
    ) -> list[Grade]:
        """Grade these completions and wait; `collect` still returns the others."""
        return self._submit(completions, golds).results()

    def _submit(
        self, completions: Sequence[Completion], golds: Mapping[int, str | Sequence[str]]
    ) -> BatchResult[Grade]:
        batch: BatchResult[Grade] = BatchResult(len(completions))
        self._dispatcher.add(
            batch,
            [
                GradeQuestion(completion, several, partial(batch.put, position))
                for position, (completion, several) in enumerate(_with_golds(completions, golds))
            ],
        )
        return batch

    def second_grades(
        self,
        completions: Sequence[Completion],
        golds: Mapping[int, str | Sequence[str]],
        advance: Callable[[], None],
    ) -> list[SecondGrade]:
        """The second grader's grades of the completions; `advance` is called after each grade."""
        batch: BatchResult[SecondGrade] = BatchResult(len(completions))

        def done(position: int, grade: SecondGrade) -> None:
            batch.put(position, grade)
            advance()

        self._dispatcher.add(
            batch,
            [
                SecondQuestion(completion, several, partial(done, position))
                for position, (completion, several) in enumerate(_with_golds(completions, golds))
            ],
        )
        return batch.results()

    def classify(self, grades: Sequence[Grade]) -> list[Grade]:
        """The grades with `answer_class` set: equal numbers for equivalent answers of one problem.

        Correct answers are one class, since all equal the gold. Timed-out answers share a class if
        their texts are equal. Only the others are compared.
        """
        problems: dict[int, list[int]] = {}
        for position, grade in enumerate(grades):
            if grade.answer is not None:
                problems.setdefault(grade.idx, []).append(position)
        batch: BatchResult[list[int]] = BatchResult(len(problems))
        questions: list[Question] = []
        compared: list[list[str]] = []
        for number, positions in enumerate(problems.values()):
            answers = (_answer_to_compare(grades[p]) for p in positions)
            compared.append(list(dict.fromkeys(a for a in answers if a is not None)))
            done = partial(batch.put, number)
            if len(compared[-1]) > 1:
                questions.append(ClassQuestion(compared[-1], done))
            else:
                done([0] * len(compared[-1]))
        self._dispatcher.add(batch, questions)
        classified = list(grades)
        for positions, distinct, ids in zip(
            problems.values(), compared, batch.results(), strict=True
        ):
            class_of = dict(zip(distinct, ids, strict=True))
            # Keys: the class id of a compared answer, the text of a timeout, None for correct ones.
            renumbered: dict[int | str | None, int] = {}
            for position in positions:
                grade, answer = grades[position], _answer_to_compare(grades[position])
                key: int | str | None = class_of[answer] if answer is not None else None
                if grade.outcome is Outcome.TIMEOUT:
                    key = grade.answer
                number = renumbered.setdefault(key, len(renumbered))
                classified[position] = grades[position].model_copy(update={"answer_class": number})
        return classified


def _with_golds(
    completions: Sequence[Completion], golds: Mapping[int, str | Sequence[str]]
) -> list[tuple[Completion, Sequence[str]]]:
    """Each completion with the list of its golds."""
    missing = sorted({c.idx for c in completions} - golds.keys())
    if missing:
        raise BenchmarkError(f"no gold for problem idx {', '.join(map(str, missing))}.")
    lists = {idx: [gold] if isinstance(gold, str) else gold for idx, gold in golds.items()}
    return [(completion, lists[completion.idx]) for completion in completions]


def _answer_to_compare(grade: Grade) -> str | None:
    """The answer; None for correct answers and timeouts, which are classed without comparing."""
    return None if grade.outcome in (Outcome.CORRECT, Outcome.TIMEOUT) else grade.answer


class _Dispatcher:
    """The thread that owns the workers. Other threads reach it through a queue and a wake-up pipe.

    It also starts the workers: PR_SET_PDEATHSIG fires when the thread that started them exits.
    """

    def __init__(self, timeout_seconds: float, count: int) -> None:
        self._timeout_seconds = timeout_seconds
        self._count = count
        self.workers: list[WorkerProcess] = []
        # Questions that no worker has, and those whose worker died once.
        self._pending: deque[Question] = deque()
        self._retry_alone: deque[Question] = deque()
        self._timed_out_keys: set[Hashable] = set()
        self._failed_starts = 0
        self._inbox: queue.SimpleQueue[Sequence[Question]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._open: list[BatchResult[Any]] = []
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

    def add(self, batch: BatchResult[Any], questions: Sequence[Question]) -> None:
        """Queue the questions of a batch. Any thread may call this."""
        with self._lock:
            if self._error is not None:
                batch.fail(self._error)
                return
            self._open = [other for other in self._open if not other.is_settled] + [batch]
            self._inbox.put(questions)
            self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # the pipe is full of wake-ups not read yet
            os.write(self._wake_write, b"x")

    def _main(self) -> None:
        reason: BaseException = EvaluationError("the grading pool was closed.")
        try:
            self._start_worker()  # now, so that it is ready when the first answer comes
            while not self._stopping:
                self._step()
        except BaseException as error:
            reason = error
        finally:
            for worker in self.workers:
                worker.kill()
            with self._lock:
                self._error = reason
                for batch in self._open:
                    batch.fail(reason)

    def _start_worker(self) -> None:
        self.workers.append(WorkerProcess(self._timeout_seconds))

    def _step(self) -> None:
        """Wait for the next event and handle it; replies count before deadlines."""
        replying = self._wait()
        while not self._inbox.empty():
            self._pending.extend(self._inbox.get())
        # A worker takes half a second of a core to start, and few answers need no second one.
        waiting = len(self._pending) + sum(len(worker.questions) for worker in self.workers)
        while len(self.workers) < min(self._count, math.ceil(waiting / _MAX_QUEUED)):
            self._start_worker()
        for worker in replying:
            self._receive(worker)
        now = time.monotonic()
        for worker in list(self.workers):
            if worker.has_deadline and now > worker.deadline:
                self._replace(worker, timed_out=True)
        for worker in self.workers:
            self._hand_out(worker)

    def _wait(self) -> list[WorkerProcess]:
        """Wait until the nearest deadline at most; return the workers with something to read."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_read, selectors.EVENT_READ)
            for worker in self.workers:
                selector.register(worker.stdout, selectors.EVENT_READ, worker)
                if worker.has_outgoing:
                    selector.register(worker.stdin, selectors.EVENT_WRITE, worker)
            deadlines = [worker.deadline for worker in self.workers if worker.has_deadline]
            timeout = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
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
            self._replace(worker, timed_out=False)

    def _hand_out(self, worker: WorkerProcess) -> None:
        """Fill a worker's queue; a retried question runs alone on its worker."""
        if not worker.ready or (worker.questions and worker.questions[0].attempt):
            return
        if self._retry_alone and not worker.questions:
            worker.ask(self._retry_alone.popleft())
            return
        while self._pending and len(worker.questions) < _MAX_QUEUED:
            question = self._pending.popleft()
            # Computing the key extracts the answer, so it is done only after a timeout.
            if self._timed_out_keys and question.timeout_key() in self._timed_out_keys:
                # This finishes it: questions with a key take one reply.
                question.give_up(timed_out=True)
            else:
                worker.ask(question)

    def _replace(self, worker: WorkerProcess, *, timed_out: bool) -> None:
        """Start a new worker in place of one that hangs or died, and requeue its questions.

        Questions are answered in order, so the first without a reply is the suspect; the others go
        back to the front of the queue.
        """
        if not worker.ready:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise EvaluationError(
                    f"{_MAX_FAILED_STARTS} grading workers in a row did not start "
                    f"({worker.stderr_tail()}). Run "
                    f"`{sys.executable} -m svdjobs.evaluation.grading.worker` to see why."
                )
        worker.kill()
        if worker.questions:
            suspect = worker.questions.popleft()
            self._pending.extendleft(reversed(worker.questions))
            self._retry_or_give_up(suspect, timed_out=timed_out)
        self.workers[self.workers.index(worker)] = WorkerProcess(self._timeout_seconds)

    def _retry_or_give_up(self, suspect: Question, *, timed_out: bool) -> None:
        if timed_out and (key := suspect.timeout_key()) is not None:
            self._timed_out_keys.add(key)
        if not timed_out and suspect.attempt == 0:
            suspect.attempt = 1
            self._retry_alone.append(suspect)
        elif not suspect.give_up(timed_out=timed_out):
            # A ClassQuestion goes on with its other answers.
            self._pending.appendleft(suspect)
