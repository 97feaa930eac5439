"""Second grades of an evaluation's completions, and how far they agree with the first grades."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.generation import COMPLETIONS, completions_in, completions_sha256
from svdjobs.evaluation.grades import GRADES, find
from svdjobs.evaluation.grading.pool import GradingPool
from svdjobs.progress import track
from svdjobs.provenance import versions
from svdjobs.records import Agreement, Disagreement, Grade, Manifest, Outcome, SecondGrade
from svdjobs.runs import layout
from svdjobs.runs.outputs import OutputKey, begin, read_finished, readable_manifest
from svdjobs.storage.objects import record_in, write_lines
from svdjobs.storage.store import Store

VERSION = "1"
ROWS = "second_grades.jsonl"


def make(
    store: Store,
    benchmark: Benchmark,
    checkpoint_id: str,
    completions_manifest: Manifest,
    pool: Callable[[], GradingPool],
    *,
    force: bool = False,
) -> Manifest:
    """Grade the completions of an evaluation with the second grader, unless current.

    The key depends on the completions only, not on first grades.
    """
    output = begin(
        store,
        layout.second_grades_prefix(checkpoint_id, benchmark.name),
        OutputKey(
            stage="second_grader",
            version=VERSION,
            config={"math-verify": versions().get("math-verify", "unknown")},
            inputs={
                "completions": completions_sha256(completions_manifest),
                "benchmark": benchmark.sha256,
            },
        ),
        force=force,
    )
    if output.finished:
        return output.finished
    results_prefix = layout.results_prefix(checkpoint_id, benchmark.name)
    data = read_finished(store, results_prefix, COMPLETIONS, completions_manifest)
    completions = completions_in(data)
    golds = {problem.idx: problem.gold for problem in benchmark.problems}
    with track(f"second grader {checkpoint_id} on {benchmark.name}", len(completions)) as advance:
        second = pool().second_grades(completions, golds, advance)
    lines = [grade.model_dump_json() for grade in second]
    output.add(write_lines(store, output.key(ROWS), lines))
    return output.commit()


def current(store: Store, checkpoint_id: str, benchmark: str) -> Manifest | None:
    """Manifest of a checkpoint's second grades; None if its present completions have none."""
    results_prefix = layout.results_prefix(checkpoint_id, benchmark)
    completions_manifest = readable_manifest(store, results_prefix)
    second = readable_manifest(store, layout.second_grades_prefix(checkpoint_id, benchmark))
    if (
        completions_manifest is None
        or second is None
        or second.inputs["completions"] != completions_sha256(completions_manifest)
    ):
        return None
    return second


def agreement(store: Store, benchmark: Benchmark, checkpoint_id: str) -> Agreement | None:
    """How far the two graders agree; None if there are no second grades."""
    manifest = current(store, checkpoint_id, benchmark.name)
    if manifest is None:
        return None
    prefix = layout.second_grades_prefix(checkpoint_id, benchmark.name)
    lines = read_finished(store, prefix, ROWS, manifest).splitlines()
    seconds = {
        (g.idx, g.sample_index): g
        for g in (record_in(SecondGrade, line, f"a row of {prefix}") for line in lines)
    }
    evaluation = find(store, checkpoint_id, benchmark.name)
    if evaluation is None:
        return None
    golds = {problem.idx: problem.gold for problem in benchmark.problems}
    counts: Counter[tuple[bool, bool | None]] = Counter()
    disagreements = []
    for line in evaluation.read(store, GRADES).splitlines():
        grade = record_in(Grade, line, f"a grade of {evaluation.prefix}")
        correct = grade.outcome is Outcome.CORRECT
        second = seconds[grade.idx, grade.sample_index].correct
        counts[correct, second] += 1
        if second is not None and second != correct:
            gold = golds[grade.idx]
            disagreements.append(
                Disagreement(
                    checkpoint=checkpoint_id,
                    idx=grade.idx,
                    sample_index=grade.sample_index,
                    gold=gold if isinstance(gold, str) else " | ".join(gold),
                    answer=grade.answer,
                    outcome=grade.outcome,
                    second_correct=second,
                )
            )
    return Agreement(
        both_correct=counts[True, True],
        neither=counts[False, False],
        only_first=counts[True, False],
        only_second=counts[False, True],
        undecided=counts[True, None] + counts[False, None],
        disagreements=disagreements,
    )
