"""Measure the grading rate of the pool: `python -m tests.benchmarks.grading`.

The mixed load has 500 generated problems, or those of `--data` with the fields of MATH-500. For
each problem it has the reference solution, the gold written differently, and golds of other
problems with the same subject, which are wrong answers of the right kind. Every tenth problem also
gets a truncated completion and one without an answer. The integer load has plain integers, a third
of them off by one. All texts differ, and so do nearly all pairs of answer and gold. Real runs
repeat answers and are therefore faster.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from svdjobs.evaluation.grading.pool import GradingPool
from svdjobs.records import Completion, Grade
from tests.benchmarks.evaluation import noted
from tests.evaluation.problem_set import Row, problem_set

# The text before each answer, as long as usual reasoning.
REASONING = "We set up the equation, simplify both sides and check the result again. " * 40


def completion(idx: int, number: int, text: str, *, finish: str = "stop") -> Completion:
    return Completion.model_validate(
        {
            "idx": idx,
            "sample_index": number,
            "seed": 0,
            "text": f"{REASONING}{number}. {text}",
            "finish_reason": finish,
            "completion_tokens": 1,
        }
    )


def rewritten(gold: str) -> str:
    """The gold in another notation that a model might use."""
    text = gold.replace(r"\frac", r"\dfrac")
    if r"\left" not in text:
        text = text.replace("(", r"\left( ").replace(")", r" \right)")
    return f"{text}.0" if text.isdigit() else f"{text} "


def mixed_load(
    rows: Sequence[Row], wrong: int, seed: int = 0
) -> tuple[list[Completion], dict[int, str]]:
    """Shuffled completions of the problems, with `wrong` wrong answers for each; and the golds."""
    rng = random.Random(seed)
    completions: list[Completion] = []
    for idx, row in enumerate(rows):
        others = [r["answer"] for r in rows if r["subject"] == row["subject"]]
        boxes = [rewritten(row["answer"]), *rng.sample(others, wrong)]
        texts = [row["solution"], *(rf"So \(\boxed{{{box}}}\)." for box in boxes)]
        texts += ["No idea."] * (idx % 10 == 0)
        completions += [completion(idx, len(completions), text) for text in texts]
        if idx % 10 == 0:
            completions.append(completion(idx, len(completions), "and then", finish="length"))
    rng.shuffle(completions)
    return completions, {idx: row["answer"] for idx, row in enumerate(rows)}


def integer_load(count: int = 10_000) -> tuple[list[Completion], dict[int, str]]:
    """Completions with integer answers, a third of them wrong; and the golds."""
    texts = [rf"\boxed{{{i + (i % 3 == 0)}}}" for i in range(count)]
    return [completion(i, i, text) for i, text in enumerate(texts)], {
        i: str(i) for i in range(count)
    }


def measure(
    pool: GradingPool, completions: list[Completion], golds: dict[int, str]
) -> tuple[float, list[Grade]]:
    """The grading rate in answers per second, and the grades."""
    started = time.perf_counter()
    grades = pool.grade(completions, golds)
    return len(grades) / (time.perf_counter() - started), grades


@click.command()
@click.option("--workers", default=2, help="Worker processes.")
@click.option("--wrong", default=4, help="Wrong answers for every problem of the mixed load.")
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Other problems: JSONL.")
def main(workers: int, wrong: int, data: Path | None) -> None:
    """Print the rates; without `--data`, also write them to runs/bench.json."""
    from collections import Counter

    from svdjobs.provenance import hardware, versions

    lines = data.read_text(encoding="utf-8").splitlines() if data else []
    rows = [json.loads(line) for line in lines] or problem_set()
    click.echo(f"{hardware()}; {workers} workers; math-verify {versions()['math-verify']}")
    with GradingPool(timeout_seconds=5, workers=workers) as pool:
        # Start all workers before the clock starts.
        pool.grade([completion(0, 0, r"\boxed{x+1}")] * 2 * workers, {0: "1+x"})
        loads = {"integers": integer_load(), "mixed": mixed_load(rows, wrong)}
        found: dict[str, Any] = {"workers": workers}
        for name, (completions, golds) in loads.items():
            rate, grades = measure(pool, completions, golds)
            counts = Counter(grade.outcome.value for grade in grades)
            outcomes = ", ".join(f"{count} {outcome}" for outcome, count in counts.most_common())
            click.echo(f"{name:<10}{rate:>8.0f} answers/s   {len(grades)}: {outcomes}")
            found[name] = rate
    if data is None:
        noted("grading", found)


if __name__ == "__main__":
    main()
