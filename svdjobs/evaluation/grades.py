"""The grading part of `evaluate`: from completions to grades and a summary, at once or again."""

from __future__ import annotations

from svdjobs.config import EvaluateConfig, SweepConfig
from svdjobs.errors import BenchmarkError, IncompleteError
from svdjobs.evaluation.benchmarks.load import Benchmark, load_benchmark
from svdjobs.evaluation.generation import COMPLETIONS, ENGINE, completions_in
from svdjobs.evaluation.grading.pool import GradingPool
from svdjobs.evaluation.summary import details, summarise
from svdjobs.progress import say
from svdjobs.records import Completion, Manifest, Outcome, Summary
from svdjobs.runs import layout
from svdjobs.runs.outputs import Output, OutputKey, find_manifest, read_finished
from svdjobs.storage.objects import read_json, record_in, write_lines
from svdjobs.storage.store import Store

# An answer that equals no gold as text, number or choice, so that both have to be read.
PROBE = r"\boxed{x_{7}+98765}"


def conclude(
    evaluate: EvaluateConfig,
    checkpoint_id: str,
    benchmark: Benchmark,
    asked: str,
    output: Output,
    completions: list[Completion],
    pool: GradingPool,
    gold_errors: set[int],
) -> Manifest:
    """From completions under way in the grading workers to a finished output."""
    grades = pool.classify(sorted(pool.collect(), key=lambda g: (g.idx, g.sample_index)))
    running = read_json(output.store, output.key(ENGINE))
    output.adopt(ENGINE)
    summary = summarise(
        checkpoint_id, benchmark, asked, evaluate, completions, grades, running, gold_errors
    )
    lines = [grade.model_dump_json() for grade in grades]
    output.add(write_lines(output.store, output.key("grades.jsonl"), lines))
    output.write_json("summary.json", summary.model_dump(mode="json"))
    output.write_json("results.json", details(summary, benchmark, completions, grades))
    return output.commit()


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


def regrade(config: SweepConfig, store: Store) -> list[Manifest]:
    """Grade every finished evaluation of a run again. Nothing is drawn, and no completion touched,
    whatever has changed since: the engine, its version, the checkpoints.

    Raises:
        IncompleteError: there is none.
        BenchmarkError: a benchmark is not the one that was asked.
    """
    assert config.evaluate is not None
    made: list[Manifest] = []
    with GradingPool(config.evaluate.grade_timeout_seconds) as pool:
        for section in config.evaluate.benchmarks:
            benchmark = load_benchmark(section)
            gold_errors = unreadable_golds(pool, benchmark)
            for checkpoint_id in layout.evaluated_ids(config):
                prefix = layout.results_prefix(checkpoint_id, section.name)
                manifest = find_manifest(store, prefix)
                if manifest is not None:
                    if manifest.inputs["benchmark"] != benchmark.sha256:
                        raise BenchmarkError(
                            f"benchmark {section.name} is not the one {checkpoint_id} was asked: "
                            f"its problems or golds have changed. Evaluate again, or put it back."
                        )
                    made.append(_regraded(config.evaluate, store, prefix, manifest, benchmark, pool,
                                          gold_errors))  # fmt: skip
    if not made:
        raise IncompleteError(f"{store.url} has no finished evaluation to grade again.")
    return made


def _regraded(
    evaluate: EvaluateConfig,
    store: Store,
    prefix: str,
    manifest: Manifest,
    benchmark: Benchmark,
    pool: GradingPool,
    gold_errors: set[int],
) -> Manifest:
    """New grades, summary and manifest of one evaluation, everything else as it was."""
    output = Output(store, prefix, OutputKey.of(manifest))
    drawn = {key: manifest.config[key] for key in ("n_samples", "dtype", "engine")}
    # Unchecked: a grading that was interrupted has left it new beside the old manifest.
    known = record_in(
        Summary, read_json(store, output.key("summary.json")), output.key("summary.json")
    )
    completions = completions_in(read_finished(store, prefix, COMPLETIONS, manifest))
    pool.submit(completions, {problem.idx: problem.gold for problem in benchmark.problems})
    output.adopt(COMPLETIONS)
    return conclude(
        evaluate.model_copy(update=drawn), known.checkpoint, benchmark, known.prompts_sha256,
        output, completions, pool, gold_errors,
    )  # fmt: skip


def load_summary(store: Store, prefix: str) -> Summary:
    """The summary of a finished evaluation."""
    return record_in(
        Summary, read_finished(store, prefix, "summary.json"), f"{prefix}/summary.json"
    )
