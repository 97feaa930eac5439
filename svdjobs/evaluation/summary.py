"""The summary of an evaluation, and its results in the JSON of public evaluation scripts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.records import Completion, Grade, Interval, Outcome, Summary
from svdjobs.statistics import avg_at_n, maj_at_k, pass_at_k

# Raise when the content of a summary changes.
VERSION = "1"


def summarise(
    checkpoint_id: str,
    benchmark: Benchmark,
    prompts_sha256: str,
    settings: Mapping[str, Any],
    completions: Sequence[Completion],
    grades: Sequence[Grade],
    engines: Sequence[dict[str, Any]],
    gold_errors: Collection[int],
) -> Summary:
    """Summary of one checkpoint on one benchmark.

    `settings` are those that generated the completions, from their manifest. Every outcome has a
    count, even if it is 0. Problems whose gold cannot be read (`gold_errors`) are counted as
    problems, but excluded from every estimate.

    Raises:
        ValueError: a problem has more or fewer completions than `n_samples`.
    """
    counts = Counter(grade.outcome for grade in grades)
    estimated = [grade for grade in grades if grade.idx not in gold_errors]
    groups = _grouped(estimated)
    correct = [[grade.outcome is Outcome.CORRECT for grade in group] for group in groups]
    boxed = [[g.outcome is Outcome.CORRECT and g.boxed is True for g in group] for group in groups]
    n = settings["n_samples"]
    return Summary(
        checkpoint=checkpoint_id,
        benchmark=benchmark.name,
        benchmark_sha256=benchmark.sha256,
        benchmark_revision=benchmark.revision,
        prompts_sha256=prompts_sha256,
        engine=", ".join(dict.fromkeys(engine["engine"] for engine in engines)),
        engine_settings=list(engines),
        dtype=settings["dtype"],
        n=n,
        problems=len(benchmark.problems),
        avg_at_n=avg_at_n(correct, n),
        avg_at_n_boxed=avg_at_n(boxed, n),
        not_boxed=sum(grade.boxed is False for grade in grades),
        pass_at={k: pass_at_k(correct, n, k) for k in _sizes(n)},
        maj_at_n=_majority(estimated, n),
        outcomes={outcome: counts[outcome] for outcome in Outcome},
        gold_errors=sorted(gold_errors),
        truncated=sum(completion.finish_reason == "length" for completion in completions),
        completion_tokens_mean=sum(c.completion_tokens for c in completions) / len(completions),
        completion_tokens_median=median(c.completion_tokens for c in completions),
        problem_scores=list(problem_scores(estimated).values()),
    )


def _sizes(n: int) -> list[int]:
    """1, 2, 4 … and n."""
    return sorted({n, *(2**i for i in range(n.bit_length()) if 2**i <= n)})


def _grouped(grades: Sequence[Grade]) -> list[list[Grade]]:
    """Grades of each problem, in benchmark order."""
    by_problem: dict[int, list[Grade]] = defaultdict(list)
    for grade in grades:
        by_problem[grade.idx].append(grade)
    return [group for _, group in sorted(by_problem.items())]


def _majority(grades: Sequence[Grade], n: int) -> Interval:
    groups = _grouped(grades)
    classes = [[grade.answer_class for grade in group] for group in groups]
    correct = [
        {
            g.answer_class
            for g in group
            if g.outcome is Outcome.CORRECT and g.answer_class is not None
        }
        for group in groups
    ]
    return maj_at_k(classes, correct, n, n)


def problem_scores(grades: Sequence[Grade]) -> dict[int, float]:
    """The fraction of correct completions of each problem, by idx, in benchmark order."""
    return {
        group[0].idx: sum(g.outcome is Outcome.CORRECT for g in group) / len(group)
        for group in _grouped(grades)
    }


def results_document(
    summary: Summary,
    benchmark: Benchmark,
    completions: Sequence[Completion],
    grades: Sequence[Grade],
) -> dict[str, Any]:
    """The content of results.json: `summary` and `results`, each a list with one model. Uses the
    field names of the public evaluation scripts."""
    estimated = [grade for grade in grades if grade.idx not in summary.gold_errors]
    by_problem = problem_scores(estimated)
    texts: dict[int, list[str]] = defaultdict(list)
    scores: dict[int, list[float]] = defaultdict(list)
    for completion, grade in zip(completions, grades, strict=True):
        texts[completion.idx].append(completion.text)
        scores[grade.idx].append(float(grade.outcome is Outcome.CORRECT))
    model = {
        "model": summary.checkpoint,
        "avg_accuracy": summary.avg_at_n.value,
        "n_samples_per_problem": summary.n,
        "num_items": summary.problems,
    }
    rows = [
        {
            "idx": problem.idx,
            "problem": problem.problem,
            "gold": problem.gold,
            "generations": texts[problem.idx],
            "sample_scores": scores[problem.idx],
            "per_problem_score": by_problem.get(problem.idx),
        }
        for problem in benchmark.problems
    ]
    return {"summary": [model], "results": [{**model, "details": rows}]}
