"""Grades of finished completions, and the summary of them: an output of its own.

Completions cost days of GPUs and grades seconds, so grades have versions of their own, one of the
grader and one of the summary: what changes them lets no completion be drawn again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import NamedTuple

from svdjobs.errors import BenchmarkError
from svdjobs.evaluation import summary as summaries
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.generation import COMPLETIONS, ENGINE, PROMPTS, completions_in
from svdjobs.evaluation.grading.pool import GradingPool
from svdjobs.evaluation.summary import details, summarise
from svdjobs.progress import say
from svdjobs.records import Completion, Grade, Manifest, Outcome, Summary
from svdjobs.runs import layout
from svdjobs.runs.outputs import (
    OutputKey,
    begin,
    content_print,
    read_finished,
    readable_manifest,
)
from svdjobs.storage.objects import record_in, write_lines
from svdjobs.storage.store import Store

STAGE = "grade"
GRADER = "1"
"""Changes when a verdict may: answers of two graders are not compared."""
GRADES = "grades.jsonl"
SUMMARY = "summary.json"
# An answer that equals no gold as text, number or choice, so that both have to be read.
PROBE = r"\boxed{x_{7}+98765}"


class Evaluation(NamedTuple):
    """Finished completions of a checkpoint on a benchmark, and the grades of them."""

    completions: Manifest
    grades: Manifest
    prefix: str
    """Where the grades lie."""

    def read(self, store: Store, name: str) -> bytes:
        """A file of the grades, checked."""
        return read_finished(store, self.prefix, name, self.grades)

    def summary(self, store: Store) -> Summary:
        """The summary of the grades."""
        return record_in(Summary, self.read(store, SUMMARY), f"{self.prefix}/{SUMMARY}")


def find(store: Store, checkpoint_id: str, benchmark: str) -> Evaluation | None:
    """The finished evaluation of a checkpoint, None where completions lack, or grades of them.

    Evaluations made before grades had an output of their own hold both.
    """
    place = layout.results_prefix(checkpoint_id, benchmark)
    completions = readable_manifest(store, place)
    if completions is None:
        return None
    prefix = layout.grades_prefix(checkpoint_id, benchmark)
    grades = readable_manifest(store, prefix)
    if grades is not None and grades.inputs["completions"] == content_print(completions):
        return Evaluation(completions, grades, prefix)
    if completions.file(SUMMARY):
        return Evaluation(completions, completions, place)
    return None


def made_by_this_grader(grades: Manifest) -> bool:
    """Whether this version of the grader made grades; its first kept them with the completions."""
    return bool(grades.config.get("grader", "1") == GRADER)


def key_of(completions: Manifest) -> OutputKey:
    """What makes grades these: the completions, whatever drew them, and the grader."""
    inputs = {
        "completions": content_print(completions),
        "benchmark": completions.inputs["benchmark"],
    }
    return OutputKey(STAGE, summaries.VERSION, {"grader": GRADER}, inputs)


def make(
    store: Store,
    checkpoint_id: str,
    benchmark: Benchmark,
    completions: Manifest,
    pool: Callable[[], GradingPool],
    gold_errors: Callable[[], set[int]],
    *,
    graded: tuple[Sequence[Completion], Sequence[Grade]] | None = None,
    force: bool = False,
) -> Manifest:
    """Grades and summary of finished completions, or find them made.

    `graded` is what was graded while it was being drawn, if it was.

    Raises:
        BenchmarkError: the benchmark is not the one that was asked.
    """
    if completions.inputs["benchmark"] != benchmark.sha256:
        raise BenchmarkError(
            f"benchmark {benchmark.name} is not the one {checkpoint_id} was asked: its problems or "
            f"golds have changed. Evaluate again, or put it back."
        )
    prefix = layout.grades_prefix(checkpoint_id, benchmark.name)
    output = begin(store, prefix, key_of(completions), force=force)
    if output.finished:
        return output.finished
    place = layout.results_prefix(checkpoint_id, benchmark.name)
    if graded is None:
        found: Sequence[Completion] = completions_in(
            read_finished(store, place, COMPLETIONS, completions)
        )
        golds = {problem.idx: problem.gold for problem in benchmark.problems}
        graded = found, pool().grade(found, golds)
    in_order = sorted(graded[1], key=lambda grade: (grade.idx, grade.sample_index))
    grades = pool().classify(in_order)
    summary = summarise(
        checkpoint_id,
        benchmark,
        _prompts_sha256(store, place, completions),
        completions.config,
        graded[0],
        grades,
        json.loads(read_finished(store, place, ENGINE, completions)),
        gold_errors(),
    )
    lines = [grade.model_dump_json() for grade in grades]
    output.add(write_lines(store, output.key(GRADES), lines))
    output.write_json(SUMMARY, summary.model_dump(mode="json"))
    output.write_json("results.json", details(summary, benchmark, graded[0], grades))
    return output.commit()


def _prompts_sha256(store: Store, place: str, completions: Manifest) -> str:
    """What the prompts were; evaluations that hold their grades say it in the summary."""
    name = PROMPTS if completions.file(PROMPTS) else SUMMARY
    document = json.loads(read_finished(store, place, name, completions))
    return str(document["prompts_sha256"])


def unreadable_golds(pool: GradingPool, benchmark: Benchmark) -> set[int]:
    """Problems whose gold the grader cannot read, found by an answer that equals none as text.

    Raises:
        BenchmarkError: that is all of them.
    """
    golds = {problem.idx: problem.gold for problem in benchmark.problems}
    probes = [
        Completion(idx=idx, sample_index=0, seed=0, text=PROBE, finish_reason="stop",
                   completion_tokens=0)
        for idx in golds
    ]  # fmt: skip
    found = {g.idx for g in pool.grade(probes, golds) if g.outcome is Outcome.GOLD_ERROR}
    if found:
        first = min(found)
        say(
            f"benchmark {benchmark.name}: {len(found)} golds cannot be read and their problems are "
            f"left out of all estimates, e.g. problem {first}: {golds[first]!r:.60}"
        )
    if len(found) == len(golds):
        raise BenchmarkError(
            f"benchmark {benchmark.name}: none of its {len(golds)} golds can be read as an answer. "
            f"Is answer_field the right one?"
        )
    return found
