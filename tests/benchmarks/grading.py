"""Grading rate through the pool: answers a second. `python -m tests.benchmarks.grading`.

The mixed load is 500 problems made here, or those of `--data` in the fields of MATH-500: for each
its reference solution, its gold written differently, the golds of other problems of that subject
(wrong, and of the right kind), and here and there a truncated or an answerless completion. The
integer load is plain integers, a third of them off by one. Texts are distinct, and so is nearly
every pair of answer and gold; real runs repeat answers, which only makes them faster.
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

# A reasoning trace of ordinary length precedes each answer.
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
    """The gold as a model might write it."""
    text = gold.replace(r"\frac", r"\dfrac")
    if r"\left" not in text:
        text = text.replace("(", r"\left( ").replace(")", r" \right)")
    return f"{text}.0" if text.isdigit() else f"{text} "


def mixed_load(
    rows: Sequence[Row], wrong: int, seed: int = 0
) -> tuple[list[Completion], dict[int, str]]:
    """Completions made from problems, `wrong` wrong ones for each, shuffled."""
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
    """Integer answers, a third of them wrong."""
    texts = [rf"\boxed{{{i + (i % 3 == 0)}}}" for i in range(count)]
    return [completion(i, i, text) for i, text in enumerate(texts)], {
        i: str(i) for i in range(count)
    }


def measure(
    pool: GradingPool, completions: list[Completion], golds: dict[int, str]
) -> tuple[float, list[Grade]]:
    """Answers a second, and the grades."""
    started = time.perf_counter()
    grades = pool.grade(completions, golds)
    return len(grades) / (time.perf_counter() - started), grades


@click.command()
@click.option("--workers", default=2, help="Worker processes.")
@click.option("--wrong", default=4, help="Wrong answers for every problem of the mixed load.")
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="Other problems: JSONL.")
def main(workers: int, wrong: int, data: Path | None) -> None:
    """Print the rates; those of the problems made here go to runs/bench.json as well."""
    from collections import Counter

    from svdjobs.provenance import hardware, versions

    lines = data.read_text(encoding="utf-8").splitlines() if data else []
    rows = [json.loads(line) for line in lines] or problem_set()
    click.echo(f"{hardware()}; {workers} workers; math-verify {versions()['math-verify']}")
    with GradingPool(timeout_seconds=5, workers=workers) as pool:
        pool.grade([completion(0, 0, r"\boxed{x+1}")] * 2 * workers, {0: "1+x"})  # started
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
