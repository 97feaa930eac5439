"""What every checkpoint answered, one problem after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from svdjobs.answers import Answered, Parting, ProblemAnswers
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.generation import COMPLETIONS
from svdjobs.evaluation.grades import Evaluation
from svdjobs.records import Completion, Grade, Likelihood
from svdjobs.runs import layout
from svdjobs.runs.outputs import read_finished
from svdjobs.storage.objects import record_in
from svdjobs.storage.store import Store


def by_problem(
    store: Store,
    benchmark: Benchmark,
    evaluations: Mapping[str, Evaluation],
    likelihoods: Mapping[str, Iterable[Likelihood]],
) -> Iterator[ProblemAnswers]:
    """Every problem with the answers of each checkpoint in `evaluations`.

    Files are in the order of the problems, so that one problem at a time is in memory as records.
    """
    drawn = {i: _problems(store, i, benchmark.name, one) for i, one in evaluations.items()}
    read = {
        checkpoint_id: {(row.idx, row.sample_index): row for row in rows if not row.unread}
        for checkpoint_id, rows in likelihoods.items()
    }
    for problem in benchmark.problems:
        found = {i: problems.pop(problem.idx) for i, problems in drawn.items()}
        reference = {c.sample_index: c for c, _ in found.get("after", ())}
        yield ProblemAnswers(
            problem,
            {
                checkpoint_id: [
                    Answered(c, grade, _parting(c, reference, read, checkpoint_id))
                    for c, grade in answers
                ]
                for checkpoint_id, answers in found.items()
            },
        )


class _Problems:
    """The answers of a checkpoint, taken problem by problem in their order."""

    def __init__(self, answers: Iterator[tuple[Completion, Grade]]) -> None:
        self._groups = groupby(answers, key=lambda pair: pair[0].idx)
        self._next = self._take()

    def _take(self) -> tuple[int, list[tuple[Completion, Grade]]] | None:
        for idx, own in self._groups:
            return idx, list(own)
        return None

    def pop(self, idx: int) -> list[tuple[Completion, Grade]]:
        if self._next is None or self._next[0] != idx:
            return []
        own, self._next = self._next[1], self._take()
        return own


def _problems(
    store: Store, checkpoint_id: str, benchmark: str, evaluation: Evaluation
) -> _Problems:
    prefix = layout.results_prefix(checkpoint_id, benchmark)
    data = read_finished(store, prefix, COMPLETIONS, evaluation.completions)
    grades = {(grade.idx, grade.sample_index): grade for grade in evaluation.graded(store)}
    completions = (
        record_in(Completion, line, f"a line of {prefix}/{COMPLETIONS}")
        for line in data.splitlines()
    )
    return _Problems((c, grades[c.idx, c.sample_index]) for c in completions)


def _parting(
    completion: Completion,
    reference: Mapping[int, Completion],
    read: Mapping[str, Mapping[tuple[int, int], Likelihood]],
    checkpoint_id: str,
) -> Parting | None:
    """Where a completion leaves after's; None if it does not, or it has no tokens."""
    after = reference.get(completion.sample_index)
    if after is None or not completion.token_ids or not after.token_ids:
        return None
    pairs = enumerate(zip(completion.token_ids, after.token_ids, strict=False))
    shorter = min(len(completion.token_ids), len(after.token_ids))
    token = next((i for i, (own, other) in pairs if own != other), shorter)
    if token == len(after.token_ids) == len(completion.token_ids):
        return None
    key = completion.idx, completion.sample_index
    of_after, of_other = (read.get(i, {}).get(key) for i in ("after", checkpoint_id))
    if of_after is None or of_other is None:
        return Parting(token, None, None)
    lengths = len(of_after.log_probabilities), len(of_other.log_probabilities)
    if token >= min(lengths):
        return Parting(token, None, None)
    return Parting(token, of_after.log_probabilities[token], of_other.log_probabilities[token])
