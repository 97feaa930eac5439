"""Grades completions by worker processes, and knows which golds they cannot read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType

from svdjobs.errors import BenchmarkError
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.grading.pool import GradingPool
from svdjobs.progress import say
from svdjobs.records import Completion, Grade, Outcome

SubmitForGrading = Callable[[Sequence[Completion]], None]
# This answer equals no gold as text, number or choice, so the grader has to read both.
PROBE = r"\boxed{x_{7}+98765}"


class Grader:
    """The grader of one session. Its worker processes start on first use and end with it."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._stack = ExitStack()
        self._pool: GradingPool | None = None
        self._unreadable: dict[str, set[int]] = {}

    def __enter__(self) -> Grader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def pool(self) -> GradingPool:
        """The worker processes."""
        if self._pool is None:
            self._pool = self._stack.enter_context(GradingPool(self._timeout_seconds))
        return self._pool

    def submitter(self, benchmark: Benchmark) -> SubmitForGrading:
        """A function that takes completions of a benchmark and starts to grade them at once; the
        pool's `collect` gives the grades."""
        golds = {problem.idx: problem.gold for problem in benchmark.problems}
        return lambda completions: self.pool.submit(completions, golds)

    def grade(self, benchmark: Benchmark, completions: Sequence[Completion]) -> list[Grade]:
        """Grades of completions of a benchmark, in their order."""
        golds = {problem.idx: problem.gold for problem in benchmark.problems}
        return self.pool.grade(completions, golds)

    def unreadable_golds(self, benchmark: Benchmark) -> set[int]:
        """Problems whose gold the grader cannot read; computed once per benchmark.

        Raises:
            BenchmarkError: the grader can read none of them.
        """
        if benchmark.name not in self._unreadable:
            self._unreadable[benchmark.name] = self._find_unreadable_golds(benchmark)
        return self._unreadable[benchmark.name]

    def _find_unreadable_golds(self, benchmark: Benchmark) -> set[int]:
        """Grades PROBE against every gold: the outcome tells whether the gold was read."""
        golds = {problem.idx: problem.gold for problem in benchmark.problems}
        probes = [
            Completion(
                idx=idx,
                sample_index=0,
                seed=0,
                text=PROBE,
                finish_reason="stop",
                completion_tokens=0,
            )
            for idx in golds
        ]
        grades = self.grade(benchmark, probes)
        unreadable = {grade.idx for grade in grades if grade.outcome is Outcome.GOLD_ERROR}
        if unreadable:
            first = min(unreadable)
            say(
                f"benchmark {benchmark.name}: {len(unreadable)} golds cannot be read and their "
                f"problems are left out of all estimates, e.g. problem {first}: "
                f"{golds[first]!r:.60}"
            )
        if len(unreadable) == len(golds):
            raise BenchmarkError(
                f"benchmark {benchmark.name}: none of its {len(golds)} golds can be read as an "
                f"answer. Is answer_field the right one?"
            )
        return unreadable
