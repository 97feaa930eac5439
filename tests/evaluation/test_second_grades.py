"""The second grader over a run's completions, and its section of the report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import BaseModel

from svdjobs.config import BenchmarkConfig, SweepConfig
from svdjobs.evaluation import second_grades
from svdjobs.evaluation.benchmarks.load import load_benchmark
from svdjobs.evaluation.grades import key_of
from svdjobs.evaluation.grading.pool import GradingPool
from svdjobs.evaluation.grading.second_grader import math_verify_grade
from svdjobs.records import Completion, Outcome
from svdjobs.runs import layout
from svdjobs.runs.outputs import Output, OutputKey, begin
from svdjobs.stages import evaluate, report
from svdjobs.storage.local import LocalStore
from svdjobs.storage.objects import write_lines


def completion(idx: int, text: str) -> Completion:
    return Completion(
        idx=idx, sample_index=0, seed=0, text=text, finish_reason="stop", completion_tokens=1
    )


@pytest.mark.parametrize(
    ("text", "gold", "correct"),
    [
        (r"so \boxed{\frac{1}{2}}", "0.5", True),
        (r"so \boxed{3}", "4", False),
        ("nothing", "4", False),
        # Its known errors, which are why it is not the first grader.
        (r"so \boxed{4\text{ feet }7\text{ inches}}", "4", True),
        (r"so \boxed{52}", "52_8", True),
    ],
)
def test_math_verify_as_verl_calls_it(text: str, gold: str, correct: bool) -> None:
    assert math_verify_grade(text, [gold]) is correct


def test_any_gold_will_do() -> None:
    assert math_verify_grade(r"\boxed{4}", ["5", "4"])


def test_an_answer_that_hangs_has_no_verdict_and_costs_its_limit() -> None:
    texts = [r"\boxed{4}", r"\boxed{\sum_{k=1}^{100000000}\sin(k^2)}", r"\boxed{5}"]
    seen: list[int] = []
    with GradingPool(timeout_seconds=1.0, workers=1) as pool:
        found = pool.second_grades(
            [completion(i, text) for i, text in enumerate(texts)],
            dict.fromkeys(range(3), "4"),
            lambda: seen.append(1),
        )
    assert [grade.correct for grade in found] == [True, None, False]
    assert len(seen) == 3


def write(output: Output, name: str, records: Sequence[BaseModel]) -> None:
    lines = [record.model_dump_json() for record in records]
    output.add(write_lines(output.store, output.key(name), lines))


def test_disagreements_are_counted_and_listed(tmp_path: Path) -> None:
    """Planted answers whose verdicts by both graders are known."""
    texts = [
        r"\boxed{4}",
        r"\boxed{5}",
        r"\boxed{4\text{ feet }7\text{ inches}}",
        "It is, as we have seen above, 4",
    ]
    rows = [{"problem": f"{i}?", "answer": "4"} for i in range(len(texts))]
    (tmp_path / "p.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    benchmark = load_benchmark(BenchmarkConfig(name="b", data=str(tmp_path / "p.jsonl")))
    store = LocalStore(tmp_path / "run")
    completions = [completion(i, text) for i, text in enumerate(texts)]
    with GradingPool(timeout_seconds=10, workers=1) as pool:
        grades = pool.grade(completions, dict.fromkeys(range(len(texts)), "4"))
        key = OutputKey("evaluate", "1", {}, {"benchmark": benchmark.sha256})
        drawn = begin(store, layout.results_prefix("after", "b"), key)
        write(drawn, "completions.jsonl", completions)
        manifest = drawn.commit()
        graded = begin(store, layout.grades_prefix("after", "b"), key_of(manifest))
        write(graded, "grades.jsonl", grades)
        graded.commit()
        made = second_grades.make(store, benchmark, "after", manifest, lambda: pool)
        assert made == second_grades.make(store, benchmark, "after", manifest, refuse)
    seen = second_grades.agreement(store, benchmark, "after")
    assert seen is not None
    assert (seen.both_correct, seen.only_second, seen.only_first) == (1, 2, 0)
    assert (seen.neither, seen.undecided) == (1, 0)
    assert [(d.idx, d.gold, d.outcome, d.second_correct) for d in seen.disagreements] == [
        (2, "4", Outcome.PARSE_ERROR, True),
        (3, "4", Outcome.NO_ANSWER, True),
    ]
    assert seen.share == 0.5


def refuse() -> GradingPool:
    raise AssertionError("graded again")


def test_a_sweep_has_second_grades_unless_they_are_off(swept: SweepConfig) -> None:
    assert swept.evaluate is not None
    store, report_folder = LocalStore(swept.store_url), Path(swept.store_url, "report")
    ids = layout.evaluated_ids(swept)
    assert all(second_grades.current(store, i, "sums") is not None for i in ids)
    page = (report_folder / "report.md").read_text()
    assert "Two graders on sums" in page
    off = swept.evaluate.model_copy(update={"second_grader": "off"})
    config = swept.model_copy(update={"evaluate": off})
    shutil.rmtree(Path(swept.store_url, "second_grades"))
    evaluate.run(config, store)
    report.run(config, store)
    assert not Path(swept.store_url, "second_grades").exists()
    assert "Two graders" not in (report_folder / "report.md").read_text()
