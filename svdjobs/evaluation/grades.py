"""Grades of finished completions and their summary, as a separate output.

Completions cost GPU-days, grades cost seconds. So the grader and the summary have their own
versions, and raising one never generates a completion again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

from svdjobs.errors import BenchmarkError
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.generation import COMPLETIONS, ENGINE, PROMPTS, completions_in
from svdjobs.evaluation.grader import Grader
from svdjobs.evaluation.summary import VERSION as SUMMARY_VERSION
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
"""Raise it when a grade may change. The gate does not compare different graders."""
GRADES = "grades.jsonl"
SUMMARY = "summary.json"


class Evaluation(NamedTuple):
    """Manifests of one checkpoint's completions on one benchmark, and of their grades."""

    completions: Manifest
    grades: Manifest
    prefix: str
    """Prefix of the grades."""

    def read(self, store: Store, name: str) -> bytes:
        """Read a file of the grades, and check it."""
        return read_finished(store, self.prefix, name, self.grades)

    def graded(self, store: Store) -> list[Grade]:
        """The grades, sorted by problem and sample."""
        lines = self.read(store, GRADES).splitlines()
        return [record_in(Grade, line, f"a line of {self.prefix}/{GRADES}") for line in lines]

    def summary(self, store: Store) -> Summary:
        """The summary of the grades."""
        return record_in(Summary, self.read(store, SUMMARY), f"{self.prefix}/{SUMMARY}")


def find(store: Store, checkpoint_id: str, benchmark: str) -> Evaluation | None:
    """The finished evaluation of a checkpoint; None if its completions or their grades are missing.

    Older runs stored grades and completions in one output, so both manifests are the same.
    """
    results_prefix = layout.results_prefix(checkpoint_id, benchmark)
    completions_manifest = readable_manifest(store, results_prefix)
    if completions_manifest is None:
        return None
    prefix = layout.grades_prefix(checkpoint_id, benchmark)
    grades = readable_manifest(store, prefix)
    if grades is not None and grades.inputs["completions"] == content_print(completions_manifest):
        return Evaluation(completions_manifest, grades, prefix)
    if completions_manifest.file(SUMMARY):  # an older run
        return Evaluation(completions_manifest, completions_manifest, results_prefix)
    return None


def has_current_grader(grades: Manifest) -> bool:
    """Whether grades were made by the grader of this version."""
    # Older runs, with grades and completions in one output, name no grader: it was version 1.
    return bool(grades.config.get("grader", "1") == GRADER)


def key_of(completions_manifest: Manifest) -> OutputKey:
    """Cache key of the grades of completions."""
    inputs = {
        "completions": content_print(completions_manifest),
        "benchmark": completions_manifest.inputs["benchmark"],
    }
    return OutputKey(STAGE, SUMMARY_VERSION, {"grader": GRADER}, inputs)


def make(
    store: Store,
    checkpoint_id: str,
    benchmark: Benchmark,
    completions_manifest: Manifest,
    grader: Grader,
    *,
    graded: tuple[Sequence[Completion], Sequence[Grade]] | None = None,
    force: bool = False,
) -> Manifest:
    """Grade finished completions and write the summary, unless current ones exist.

    `graded` are completions and their grades, if they were graded during generation.

    Raises:
        BenchmarkError: the benchmark has changed since the completions were generated.
    """
    if completions_manifest.inputs["benchmark"] != benchmark.sha256:
        raise BenchmarkError(
            f"benchmark {benchmark.name}: its problems or golds have changed since {checkpoint_id} "
            f"was evaluated on it. Evaluate again, or restore the benchmark's file."
        )
    prefix = layout.grades_prefix(checkpoint_id, benchmark.name)
    output = begin(store, prefix, key_of(completions_manifest), force=force)
    if output.finished:
        return output.finished
    results_prefix = layout.results_prefix(checkpoint_id, benchmark.name)
    if graded is None:
        data = read_finished(store, results_prefix, COMPLETIONS, completions_manifest)
        stored = completions_in(data)
        graded = stored, grader.grade(benchmark, stored)
    in_order = sorted(graded[1], key=lambda grade: (grade.idx, grade.sample_index))
    grades = grader.pool.classify(in_order)
    summary = summarise(
        checkpoint_id,
        benchmark,
        _prompts_sha256(store, results_prefix, completions_manifest),
        completions_manifest.config,
        graded[0],
        grades,
        json.loads(read_finished(store, results_prefix, ENGINE, completions_manifest)),
        grader.unreadable_golds(benchmark),
    )
    lines = [grade.model_dump_json() for grade in grades]
    output.add(write_lines(store, output.key(GRADES), lines))
    output.write_json(SUMMARY, summary.model_dump(mode="json"))
    output.write_json("results.json", results_document(summary, benchmark, graded[0], grades))
    return output.commit()


def _prompts_sha256(store: Store, results_prefix: str, completions_manifest: Manifest) -> str:
    """sha256 of the prompts; older runs stored it in the summary."""
    name = PROMPTS if completions_manifest.file(PROMPTS) else SUMMARY
    document = json.loads(read_finished(store, results_prefix, name, completions_manifest))
    return str(document["prompts_sha256"])
