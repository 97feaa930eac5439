"""Grades completions in worker processes, and finds golds that the grader cannot read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

from svdjobs.errors import BenchmarkError
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.grading.pool import GradingPool
from svdjobs.progress import say
from svdjobs.records import Completion, Grade, Outcome

SubmitForGrading = Callable[[Sequence[Completion]], None]
# Differs from every gold as text, number and choice; so grading it makes the grader read the gold.
PROBE = r"\boxed{x_{7}+98765}"


class Grader:
    """The grader of one session. Its worker processes start on first use; `close` ends them."""

    def __init__(self, timeout_seconds: float) -> None:
        self._timeout_seconds = timeout_seconds
        self._stack = ExitStack()
        self._pool: GradingPool | None = None
        self._unreadable: dict[str, set[int]] = {}

    def close(self) -> None:
        """Kill the worker processes, if they were started."""
        self._stack.close()

    @property
    def pool(self) -> GradingPool:
        """The pool of worker processes; the first use starts them."""
        if self._pool is None:
            self._pool = self._stack.enter_context(GradingPool(self._timeout_seconds))
        return self._pool

    def submitter(self, benchmark: Benchmark) -> SubmitForGrading:
        """A function that starts to grade completions of a benchmark.

        The pool's `collect` returns their grades.
        """
        golds = {problem.idx: problem.gold for problem in benchmark.problems}
        return lambda completions: self.pool.submit(completions, golds)

    def grade(self, benchmark: Benchmark, completions: Sequence[Completion]) -> list[Grade]:
        """Grade completions of a benchmark. Returns the grades in the same order."""
        golds = {problem.idx: problem.gold for problem in benchmark.problems}
        return self.pool.grade(completions, golds)

    def unreadable_golds(self, benchmark: Benchmark) -> set[int]:
        """Indices of problems whose gold the grader cannot read; computed once per benchmark.

        Raises:
            BenchmarkError: the grader cannot read any gold.
        """
        if benchmark.name not in self._unreadable:
            self._unreadable[benchmark.name] = self._find_unreadable_golds(benchmark)
        return self._unreadable[benchmark.name]

    def _find_unreadable_golds(self, benchmark: Benchmark) -> set[int]:
        """Grade PROBE against every gold: the outcome is `gold_error` if the gold is unreadable."""
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
