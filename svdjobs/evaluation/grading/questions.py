"""The questions that grading workers answer, and the results of a batch of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from svdjobs.errors import EvaluationError
from svdjobs.evaluation.answers.extraction import ExtractedAnswer, find_answer
from svdjobs.records import Completion, Grade, Outcome, SecondGrade

T = TypeVar("T")


class Question(Protocol):
    """A question to a worker, which may take several replies and may be sent again."""

    attempt: int
    """0 at first, 1 if it is sent again alone after its worker died."""

    def timeout_key(self) -> Hashable:
        """Key to skip an equal question after one timed out; None if there is none."""

    def request(self) -> dict[str, Any]:
        """The JSON object to send: what is still unanswered."""

    def reply(self, message: dict[str, Any]) -> bool:
        """Take one reply; return whether the question is finished."""

    def give_up(self, *, timed_out: bool) -> bool:
        """Record a timeout, or else a crash, in place of a reply; return whether the question is
        finished."""


class BatchResult(Generic[T]):
    """The results of several questions, in order, once all of them have arrived."""

    def __init__(self, count: int) -> None:
        self._results: list[T | None] = [None] * count
        self._missing = count
        self._error: BaseException | None = None
        self._settled = threading.Event()
        if not count:
            self._settled.set()

    @property
    def is_settled(self) -> bool:
        """Whether `results` would return or raise at once."""
        return self._settled.is_set()

    def put(self, position: int, result: T) -> None:
        """Take one result."""
        self._results[position] = result
        self._missing -= 1
        if not self._missing:
            self._settled.set()

    def fail(self, error: BaseException) -> None:
        """Let `results` raise, because the missing results will never come."""
        if not self._settled.is_set():
            self._error = error
            self._settled.set()

    def results(self) -> list[T]:
        """Wait for all results.

        Raises:
            EvaluationError: the pool was closed or failed before all results had arrived.
        """
        self._settled.wait()
        if self._error is not None:
            raise EvaluationError(f"answers could not be graded: {self._error}") from self._error
        return [result for result in self._results if result is not None]


class GradeQuestion:
    """Grade one completion against its golds: one reply."""

    def __init__(
        self, completion: Completion, golds: Sequence[str], done: Callable[[Grade], None]
    ) -> None:
        self._completion = completion
        self._golds = golds
        self._done = done
        self.attempt = 0

    @property
    def _cut_off(self) -> bool:
        return self._completion.finish_reason == "length"

    def timeout_key(self) -> Hashable:
        """The answer, all boxes and the golds; None if there is no answer."""
        extracted = self._extracted()
        if extracted is None:
            return None
        return extracted.answer, tuple(extracted.boxes), tuple(self._golds)

    def _extracted(self) -> ExtractedAnswer | None:
        """The extracted answer, by search alone: this process must not read hostile mathematics, as
        `answer_in` may to join boxes."""
        return find_answer(self._completion.text, cut_off=self._cut_off)

    def request(self) -> dict[str, Any]:
        """The completion's text and the golds."""
        return {
            "kind": "grade",
            "text": self._completion.text,
            "gold": list(self._golds),
            "cut_off": self._cut_off,
        }

    def reply(self, message: dict[str, Any]) -> bool:
        """Take the outcome and the extracted answer."""
        self._finish(Outcome(message["outcome"]), message["answer"], message["boxed"])
        return True

    def give_up(self, *, timed_out: bool) -> bool:
        """Record a `timeout`, or a `parse_error` for an answer that kills its worker."""
        extracted = self._extracted()
        answer, boxed = (extracted.answer, extracted.boxed) if extracted else (None, None)
        self._finish(Outcome.TIMEOUT if timed_out else Outcome.PARSE_ERROR, answer, boxed)
        return True

    def _finish(self, outcome: Outcome, answer: str | None, boxed: bool | None) -> None:
        self._done(
            Grade(
                idx=self._completion.idx,
                sample_index=self._completion.sample_index,
                outcome=outcome,
                answer=answer,
                boxed=boxed,
            )
        )


class SecondQuestion:
    """Grade one completion against its golds with the second grader: one reply."""

    def __init__(
        self, completion: Completion, golds: Sequence[str], done: Callable[[SecondGrade], None]
    ) -> None:
        self._completion = completion
        self._golds = golds
        self._done = done
        self.attempt = 0

    def timeout_key(self) -> Hashable:
        """The text and the golds."""
        return ("second", self._completion.text, tuple(self._golds))

    def request(self) -> dict[str, Any]:
        """The completion's text and the golds."""
        return {"kind": "second", "text": self._completion.text, "gold": list(self._golds)}

    def reply(self, message: dict[str, Any]) -> bool:
        """Take whether the completion is correct."""
        return self._finish(message["correct"])

    def give_up(self, *, timed_out: bool) -> bool:
        """Record that there is no verdict."""
        return self._finish(None)

    def _finish(self, correct: bool | None) -> bool:
        idx, sample_index = self._completion.idx, self._completion.sample_index
        self._done(SecondGrade(idx=idx, sample_index=sample_index, correct=correct))
        return True


class ClassQuestion:
    """Classify the answers of one problem: one reply per answer. Classes received before a worker
    died are kept."""

    def __init__(self, answers: Sequence[str], done: Callable[[list[int]], None]) -> None:
        self._answers = list(answers)
        self._class_ids: list[int] = []
        self._incomparable: list[int] = []
        self._done = done
        self.attempt = 0

    def timeout_key(self) -> Hashable:
        """None: a timeout skips only the answer that caused it, not the question."""
        return None

    def request(self) -> dict[str, Any]:
        """The answers, and the classes received so far."""
        return {
            "kind": "classes",
            "answers": self._answers,
            "class_ids": self._class_ids,
            "incomparable": self._incomparable,
        }

    def reply(self, message: dict[str, Any]) -> bool:
        """Take the class of the next answer."""
        return self._add(message["class"])

    def give_up(self, *, timed_out: bool) -> bool:
        """Give the answer that cannot be compared a class of its own."""
        self._incomparable.append(len(self._class_ids))
        return self._add(max(self._class_ids, default=-1) + 1)

    def _add(self, class_id: int) -> bool:
        self.attempt = 0  # the next answer has not been tried yet
        self._class_ids.append(class_id)
        finished = len(self._class_ids) == len(self._answers)
        if finished:
            self._done(self._class_ids)
        return finished
