from __future__ import annotations

import subprocess
import sys

import pytest

from svdjobs.evaluation.math_dapo import compute_score
from tests.evaluation.grading_cases import CASES, Case
from tests.evaluation.problem_set import problem_set


@pytest.mark.parametrize(
    ("text", "gold", "score"),
    [
        (r"\boxed{5}", "5", 1.0),
        (r"\boxed{5}", "6", 0.0),
        (r"\boxed{\frac{2}{4}}", "0.5", 1.0),
        (r"\boxed{52}", "52_8", 0.0),
        (r"\boxed{3}, no: \boxed{4}", "4", 1.0),
        ("Answer: 12 inches", "12", 1.0),
        ("nothing", "12", 0.0),
        ("", "12", 0.0),
        (r"\boxed{5}", "", 0.0),
        (r"\boxed{5}" + "x" * 2000, "5", 1.0),
    ],
)
def test_scores(text: str, gold: str, score: float) -> None:
    assert compute_score(text, gold) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (r"<think>\boxed{4}</think> \boxed{5}", 1.0),
        (r"<think>\boxed{5}</think> \boxed{4}", 0.0),
        (r"<think>\boxed{5}</think> done", 0.0),
        (r"<think>a</think>\boxed{4}</think>\boxed{5}", 1.0),
        (r"<think>\boxed{5}", -0.5),
        (r"\boxed{5}</think>\boxed{5}", -2.0),
        (r"\boxed{5}", -0.5),
        ("", -0.5),
    ],
)
@pytest.mark.parametrize("use_math_verify", [True, False])
def test_long_chain_of_thought(text: str, score: float, use_math_verify: bool) -> None:
    assert compute_score(text, "5", True, use_math_verify) == score


@pytest.mark.parametrize(
    ("text", "gold", "score"),
    [
        (r"\boxed{\dfrac{1}{2}}", r"\frac12", 1.0),
        (r"\boxed{x = 5}", "5", 1.0),
        (r"\boxed{12\text{ cm}}", "12", 1.0),
        (r"\boxed{0.5}", r"\frac{1}{2}", 0.0),
        (r"\boxed{52}", "52_8", 0.0),
        (r"\boxed{" + "9" * 100_000 + "}", "9", 0.0),
    ],
)
def test_without_math_verify_strings_decide(text: str, gold: str, score: float) -> None:
    assert compute_score(text, gold, is_use_math_verify=False) == score


def test_any_gold_will_do() -> None:
    assert compute_score(r"\boxed{x+1}", ["5", "1+x"]) == 1.0
    assert compute_score(r"\boxed{x+1}", ["5", "6"], is_use_math_verify=False) == 0.0
    assert compute_score(r"\boxed{x+1}", []) == 0.0


@pytest.mark.parametrize("use_math_verify", [True, False])
def test_every_reference_solution_scores(use_math_verify: bool) -> None:
    problems = problem_set()
    scores = [compute_score(r["solution"], r["answer"], False, use_math_verify) for r in problems]
    assert scores == [1.0] * 500


@pytest.mark.parametrize("case", CASES)
def test_what_is_beyond_doubt(case: Case) -> None:
    assert compute_score(case.output, case.gold) == float(case.right)


def test_a_script_that_uses_it_ends_cleanly() -> None:
    script = (
        "from svdjobs.evaluation.math_dapo import compute_score\n"
        r"print(compute_score(r'\boxed{x+1}', '1+x'))"
    )
    command = [sys.executable, "-W", "error", "-c", script]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("1.0\n", "", 0)
