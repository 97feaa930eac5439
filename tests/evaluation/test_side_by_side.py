"""The answers of all checkpoints, problem by problem, and where they leave after's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from svdjobs.answers import signs
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.grades import Evaluation
from svdjobs.evaluation.side_by_side import by_problem
from svdjobs.records import Completion, Grade, Likelihood, Manifest, Outcome, Problem
from svdjobs.reporting.problems import chance_of_flip, flips
from svdjobs.runs.outputs import OutputKey, begin
from svdjobs.storage.memory import MemoryStore
from svdjobs.storage.objects import write_lines

PROBLEMS = [Problem(idx=i, problem=f"problem {i}", gold="1") for i in range(3)]


def completion(idx: int, sample: int, tokens: Sequence[int]) -> Completion:
    return Completion(
        idx=idx, sample_index=sample, seed=7, text=" ".join(map(str, tokens)),
        finish_reason="stop", completion_tokens=len(tokens), token_ids=tuple(tokens),
    )  # fmt: skip


def grade(idx: int, sample: int, outcome: Outcome = Outcome.CORRECT) -> Grade:
    return Grade(idx=idx, sample_index=sample, outcome=outcome, answer="1")


def stored(store: MemoryStore, checkpoint: str, answers: Sequence[Completion]) -> Evaluation:
    def write(prefix: str, name: str, lines: Sequence[str]) -> Manifest:
        output = begin(store, prefix, OutputKey("test", "1", {}, {}))
        output.add(write_lines(store, output.key(name), list(lines)))
        return output.commit()

    completions = [c.model_dump_json() for c in answers]
    grades = [grade(c.idx, c.sample_index).model_dump_json() for c in answers]
    prefix = f"grades/{checkpoint}/b"
    return Evaluation(
        write(f"results/{checkpoint}/b", "completions.jsonl", completions),
        write(prefix, "grades.jsonl", grades),
        prefix,
    )


def test_a_parting_is_the_first_other_token_with_both_chances() -> None:
    store = MemoryStore()
    evaluations = {
        "after": stored(store, "after", [completion(0, 0, [5, 6, 7]), completion(2, 0, [5, 6])]),
        "zero": stored(store, "zero", [completion(0, 0, [5, 8]), completion(2, 0, [5, 6])]),
    }
    logs = {"after": [-0.1, -0.2, -0.3], "zero": [-0.1, -1.5, -0.3]}
    read = {
        name: [Likelihood(idx=0, sample_index=0, log_probabilities=own)]
        for name, own in logs.items()
    }
    found = list(by_problem(store, Benchmark("b", PROBLEMS, ""), evaluations, read))
    assert [one.problem.idx for one in found] == [0, 1, 2]
    assert [len(one.answers["zero"]) for one in found] == [1, 0, 1]
    first = found[0].answers["zero"][0].parting
    assert first and tuple(first) == (1, -0.2, -1.5)
    assert found[0].answers["after"][0].parting is None
    assert found[2].answers["zero"][0].parting is None, "the same tokens"


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([5, 6], (2, -0.3, -0.4)),  # it stops earlier
        ([5, 6, 7, 8], (3, None, None)),  # it goes on where after stops: after has no token there
        ([], None),  # an engine that gives no tokens
    ],
)
def test_partings_at_the_ends(own: list[int], expected: tuple[int, float, float] | None) -> None:
    store = MemoryStore()
    evaluations = {
        "after": stored(store, "after", [completion(0, 0, [5, 6, 7])]),
        "zero": stored(store, "zero", [completion(0, 0, own)]),
    }
    read = {
        name: [Likelihood(idx=0, sample_index=0, log_probabilities=[-0.1, -0.2, last])]
        for name, last in (("after", -0.3), ("zero", -0.4))
    }
    (first, *_) = by_problem(store, Benchmark("b", PROBLEMS, ""), evaluations, read)
    parting = first.answers["zero"][0].parting
    assert (tuple(parting) if parting else None) == expected
    (first, *_) = by_problem(store, Benchmark("b", PROBLEMS, ""), evaluations, {})
    parting = first.answers["zero"][0].parting
    assert (parting.after if parting else None) is None, "nothing was read"


def test_signs_are_in_the_order_of_samples() -> None:
    outcomes = [
        Outcome.TRUNCATED, Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.TIMEOUT,
    ]  # fmt: skip
    grades = [grade(4, sample, outcome) for sample, outcome in enumerate(outcomes)]
    assert signs([*reversed(grades), grade(1, 0)]) == {1: "1", 4: "t10nu"}


def test_flips_count_samples_and_problems() -> None:
    after = {0: "1100", 1: "1111", 2: "00"}
    zero = {0: "1010", 1: "1111", 2: "tn"}
    assert tuple(flips(zero, after)) == (10, 1, 1, 1)
    assert tuple(flips(after, after)) == (10, 0, 0, 0)


def test_chance_of_a_flip_is_that_of_two_of_its_own_completions() -> None:
    """Against all pairs."""
    outcomes = {0: "1100", 1: "1111", 2: "10t"}
    pairs = [
        [(a == "1") != (b == "1") for i, a in enumerate(own) for j, b in enumerate(own) if i != j]
        for own in outcomes.values()
    ]
    expected = math.fsum(sum(own) / len(own) for own in pairs) / 3
    assert chance_of_flip(outcomes) == pytest.approx(expected)
    assert chance_of_flip({0: "1"}) is None
