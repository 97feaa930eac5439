"""The kinds of questions that grading workers answer, and what a whole request adds up to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

from svdjobs.errors import EvaluationError
from svdjobs.evaluation.answers.extraction import Found
from svdjobs.evaluation.grading.rule import answer_in
from svdjobs.records import Completion, Grade, Outcome, SecondGrade

T = TypeVar("T")


class Submission(Generic[T]):
    """Results of several questions, in order, when all are there."""

    def __init__(self, count: int) -> None:
        self._results: list[T | None] = [None] * count
        self._missing = count
        self._error: BaseException | None = None
        self._settled = threading.Event()
        if not count:
            self._settled.set()

    @property
    def is_settled(self) -> bool:
        """Whether `results` would return, or raise, at once."""
        return self._settled.is_set()

    def put(self, position: int, result: T) -> None:
        """Take one result."""
        self._results[position] = result
        self._missing -= 1
        if not self._missing:
            self._settled.set()

    def fail(self, error: BaseException) -> None:
        """Say that the missing results will never come."""
        if not self._settled.is_set():
            self._error = error
            self._settled.set()

    def results(self) -> list[T]:
        """Wait for all results.

        Raises:
            EvaluationError: the pool was closed or broke down before they were all there.
        """
        self._settled.wait()
        if self._error is not None:
            raise EvaluationError(f"answers could not be graded: {self._error}") from self._error
        return [result for result in self._results if result is not None]


class GradeQuestion:
    """One completion against its golds: one reply."""

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

    def subject(self) -> Hashable:
        """The answer and the golds: what hangs once hangs again."""
        found = self._found()
        return None if found is None else (found.answer, tuple(self._golds))

    def _found(self) -> Found | None:
        return answer_in(self._completion.text, self._golds, cut_off=self._cut_off)

    def request(self) -> dict[str, Any]:
        """The completion's text and the golds."""
        return {
            "kind": "grade",
            "text": self._completion.text,
            "gold": list(self._golds),
            "cut_off": self._cut_off,
        }

    def reply(self, message: dict[str, Any]) -> bool:
        """The outcome and the answer that was extracted."""
        self._finish(Outcome(message["outcome"]), message["answer"], message["boxed"])
        return True

    def give_up(self, *, hung: bool) -> bool:
        """`timeout`, or `parse_error` for an answer that kills its worker."""
        answer, boxed = (found.answer, found.boxed) if (found := self._found()) else (None, None)
        self._finish(Outcome.TIMEOUT if hung else Outcome.PARSE_ERROR, answer, boxed)
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
    """One completion against its golds by the second grader: one reply."""

    def __init__(
        self, completion: Completion, golds: Sequence[str], done: Callable[[SecondGrade], None]
    ) -> None:
        self._completion = completion
        self._golds = golds
        self._done = done
        self.attempt = 0

    def subject(self) -> Hashable:
        """The text and the golds."""
        return ("second", self._completion.text, tuple(self._golds))

    def request(self) -> dict[str, Any]:
        """The completion's text and the golds."""
        return {"kind": "second", "text": self._completion.text, "gold": list(self._golds)}

    def reply(self, message: dict[str, Any]) -> bool:
        """Whether it is correct."""
        return self._finish(message["correct"])

    def give_up(self, *, hung: bool) -> bool:
        """No verdict."""
        return self._finish(None)

    def _finish(self, correct: bool | None) -> bool:
        idx, sample_index = self._completion.idx, self._completion.sample_index
        self._done(SecondGrade(idx=idx, sample_index=sample_index, correct=correct))
        return True


class ClassQuestion:
    """The answers of one problem: one reply per answer, and what has been received is kept."""

    def __init__(self, answers: Sequence[str], done: Callable[[list[int]], None]) -> None:
        self._answers = list(answers)
        self._known: list[int] = []
        self._late: list[int] = []
        self._done = done
        self.attempt = 0

    def subject(self) -> Hashable:
        """Nothing: its answers are taken one by one, and one that hangs is passed over."""
        return None

    def request(self) -> dict[str, Any]:
        """The answers and what is known of them."""
        return {
            "kind": "classes",
            "answers": self._answers,
            "known": self._known,
            "late": self._late,
        }

    def reply(self, message: dict[str, Any]) -> bool:
        """The class of the next answer."""
        self.attempt = 0
        return self._add(message["class"])

    def give_up(self, *, hung: bool) -> bool:
        """The answer that cannot be compared gets a class of its own."""
        self.attempt = 0
        self._late.append(len(self._known))
        return self._add(max(self._known, default=-1) + 1)

    def _add(self, class_id: int) -> bool:
        self._known.append(class_id)
        finished = len(self._known) == len(self._answers)
        if finished:
            self._done(self._known)
        return finished
