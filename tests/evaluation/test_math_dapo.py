from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from svdjobs.evaluation.math_dapo import compute_score
from tests.evaluation.grading.cases import CASES, Case
from tests.evaluation.problem_set import problem_set


@pytest.mark.parametrize(
    ("text", "gold", "score"),
    [
        (r"\boxed{5}", "5", 1.0),
        (r"\boxed{5}", "6", -1.0),
        (r"\boxed{\frac{2}{4}}", "0.5", 1.0),
        (r"\boxed{52}", "52_8", -1.0),
        (r"\boxed{3}, no: \boxed{4}", "4", 1.0),
        ("Answer: 12 inches", "12", 1.0),
        ("nothing", "12", -1.0),
        ("", "12", -1.0),
        (r"\boxed{5}", "", -1.0),
        (r"\boxed{5}" + "x" * 2000, "5", 1.0),
    ],
)
def test_scores(text: str, gold: str, score: float) -> None:
    found = compute_score(text, gold)
    assert (found["score"], found["acc"]) == (score, score == 1.0)


@pytest.mark.parametrize(
    ("text", "score", "pred"),
    [
        (r"\boxed{5}", 1.0, "5"),
        ("Answer: 5", -1.0, None),
        (r"\boxed{4}", -1.0, "4"),
        ("", -1.0, None),
    ],
)
def test_a_strict_box(text: str, score: float, pred: str | None) -> None:
    assert compute_score(text, "5", True) == {"score": score, "acc": score == 1.0, "pred": pred}


def test_a_strict_box_after_the_last_pause() -> None:
    text = r"\boxed{5}" + "x" * 200
    assert compute_score(text, "5", True, [0, 0, 0, 50])["acc"]
    assert not compute_score(text, "5", True, [0, 0, 0, 150])["acc"]
    assert compute_score(text, "5", False, [0, 0, 0, 150])["acc"]


@pytest.mark.parametrize("gold", [5, 5.0, "5", ["6", "5"]])
def test_golds_of_any_type(gold: Any) -> None:
    assert compute_score(r"so \boxed{5}", gold) == {"score": 1.0, "acc": True, "pred": "5"}


def test_any_gold_will_do() -> None:
    assert compute_score(r"\boxed{x+1}", ["5", "1+x"])["acc"]
    assert not compute_score(r"\boxed{x+1}", [])["acc"]


def test_every_reference_solution_scores() -> None:
    found = [compute_score(row["solution"], row["answer"])["score"] for row in problem_set()]
    assert found == [1.0] * 500


@pytest.mark.parametrize("case", CASES)
def test_what_is_beyond_doubt(case: Case) -> None:
    assert compute_score(case.output, case.gold)["acc"] == case.right


def test_a_script_that_uses_it_ends_cleanly() -> None:
    script = (
        "from svdjobs.evaluation.math_dapo import compute_score\n"
        r"print(compute_score(r'\boxed{x+1}', '1+x')['score'])"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("1.0\n", "", 0)
