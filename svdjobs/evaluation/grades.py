"""Grades of finished completions and their summary: an output of its own.

Completions cost GPU-days, grades cost seconds. So the grader and the summary have versions of their
own, and raising one of these never regenerates a completion.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from svdjobs.errors import BenchmarkError
from svdjobs.evaluation import summary as summaries
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.generation import COMPLETIONS, ENGINE, PROMPTS, completions_in
from svdjobs.evaluation.grader import Grader
from svdjobs.evaluation.summary import results_document, summarise
from svdjobs.records import Completion, Grade, Manifest, Summary
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
"""Raise it when a grade may change: evaluations of different graders are not compared."""
GRADES = "grades.jsonl"
SUMMARY = "summary.json"


class Evaluation(NamedTuple):
    """The outputs of one checkpoint on one benchmark: its completions, and their grades."""

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
    """The finished evaluation of a checkpoint; None if its completions or their grades are missing.

    Older runs stored the grades beside the completions: then both manifests are the same one.
    """
    place = layout.results_prefix(checkpoint_id, benchmark)
    completions = readable_manifest(store, place)
    if completions is None:
        return None
    prefix = layout.grades_prefix(checkpoint_id, benchmark)
    grades = readable_manifest(store, prefix)
    if grades is not None and grades.inputs["completions"] == content_print(completions):
        return Evaluation(completions, grades, prefix)
    if completions.file(SUMMARY):  # an older run
        return Evaluation(completions, completions, place)
    return None


def has_current_grader(grades: Manifest) -> bool:
    """Whether the grader of this version made some grades."""
    # Version 1 recorded no grader while it kept grades with the completions.
    return bool(grades.config.get("grader", "1") == GRADER)


def key_of(completions: Manifest) -> OutputKey:
    """Cache key of the grades of some completions."""
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
    grader: Grader,
    *,
    graded: tuple[Sequence[Completion], Sequence[Grade]] | None = None,
    force: bool = False,
) -> Manifest:
    """Grade finished completions and write the summary, unless that is done.

    `graded` are the completions and their grades if they were graded while they were generated.

    Raises:
        BenchmarkError: the benchmark has changed since the completions were generated.
    """
    if completions.inputs["benchmark"] != benchmark.sha256:
        raise BenchmarkError(
            f"benchmark {benchmark.name}: its problems or golds have changed since {checkpoint_id} "
            f"was evaluated on it. Evaluate again, or restore the benchmark's file."
        )
    prefix = layout.grades_prefix(checkpoint_id, benchmark.name)
    output = begin(store, prefix, key_of(completions), force=force)
    if output.finished:
        return output.finished
    place = layout.results_prefix(checkpoint_id, benchmark.name)
    if graded is None:
        stored = completions_in(read_finished(store, place, COMPLETIONS, completions))
        graded = stored, grader.grade(benchmark, stored)
    in_order = sorted(graded[1], key=lambda grade: (grade.idx, grade.sample_index))
    grades = grader.pool.classify(in_order)
    summary = summarise(
        checkpoint_id,
        benchmark,
        _prompts_sha256(store, place, completions),
        completions.config,
        graded[0],
        grades,
        json.loads(read_finished(store, place, ENGINE, completions)),
        grader.unreadable_golds(benchmark),
    )
    lines = [grade.model_dump_json() for grade in grades]
    output.add(write_lines(store, output.key(GRADES), lines))
    output.write_json(SUMMARY, summary.model_dump(mode="json"))
    output.write_json("results.json", results_document(summary, benchmark, graded[0], grades))
    return output.commit()


def _prompts_sha256(store: Store, place: str, completions: Manifest) -> str:
    """sha256 of the prompts; older runs stored it in the summary."""
    name = PROMPTS if completions.file(PROMPTS) else SUMMARY
    document = json.loads(read_finished(store, place, name, completions))
    return str(document["prompts_sha256"])
