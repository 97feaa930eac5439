from __future__ import annotations

import pytest

from svdjobs.evaluation.answers.normal_form import normalise
from svdjobs.evaluation.grading.rule import grade_answer, grade_any, grade_completion, is_readable
from svdjobs.records import Outcome
from tests.evaluation.grading.cases import CASES, Case
from tests.evaluation.problem_set import problem_set
from tests.waiting import no_hang


@pytest.mark.parametrize(
    ("answer", "gold", "correct"),
    [
        ("42", "42", True),
        ("42", "43", False),
        ("025", "25", True),
        ("+7", "7", True),
        ("-0", "0", True),
        ("-3", "3", False),
        ("27.0", "27", True),
        ("1,000", "1000", True),
        ("1{,}000", "1000", True),
        ("58, 500", "58,500", False),  # a list and a number
        ("1e3", "1000", True),
        ("1.5e999", "7", False),
        ("1e999999999", "7", False),
        ("1" * 5000, "1" * 4999 + "2", False),
        (r"\frac{1}{2}", "0.5", True),
        (r"\dfrac{3}{4}", r"\frac34", True),
        (r"\frac{-1}{2}", r"-\frac{1}{2}", True),
        ("2/4", "1/2", True),
        ("1/0", "1/0", True),
        ("1/0", "1/3", False),
        ("0.333333", r"\frac{1}{3}", True),
        ("0.33", r"\frac{1}{3}", False),
        (r"3\frac{1}{2}", "3.5", True),
        (r"2\sqrt{2}", r"\sqrt{8}", True),
        (r"2\sqrt{2}", r"\sqrt{9}", False),
        ("x+1", "1+x", True),
        ("x^2-x^2", "0", True),
        (r"\sin^2 x+\cos^2 x-1", "0", True),
        (r"\sqrt{2}\sqrt{3}-\sqrt{6}", "0", True),
        ("x=5", "5", True),
        ("y=5", "x=5", False),
        ("$5$", "5", True),
        ("5.", "5", True),
        (r"5\text{ cm}", "5", True),
        ("74°", r"74^{\circ}", True),
        ("2,3", "3, 2", True),
        ("(2,3)", "(3,2)", False),
        ("[2,3]", "(2,3)", False),
        ("7", r"(-\infty, 7)", False),
        (r"\text{Evelyn}", "Evelyn", True),
        (r"\text{odd}", r"\text{even}", False),
        ("2**(1/4)", r"\sqrt{\sqrt{2}}", True),
        ("9 square units", "9", True),
    ],
)
def test_grades(answer: str, gold: str, correct: bool) -> None:
    outcome = Outcome.CORRECT if correct else Outcome.WRONG
    assert grade_completion(rf"so \boxed{{{answer}}}", gold) is outcome


@pytest.mark.parametrize(
    ("answer", "gold", "correct"),
    [
        # math-verify alone drops bases and calls the first and third equal.
        ("52", "52_8", False),
        ("52_{8}", "52_8", True),
        ("52_7", "52_8", False),
        (r"52_{\text{eight}}", "52_8", True),
        ("42", "52_8", False),
        ("1F_{16}", "1F_{16}", True),
        # ... and compares differences with an absolute tolerance.
        ("1/2006!", "1/2004!", False),
        ("1/2004!", "1/2004!", True),
        ("x/2006!", "x/2004!", False),
        ("0.0000001", "0.0000002", False),
        (r"10^{-30}", r"10^{-31}", False),
        # ... and cannot read an option with its value.
        (r"\text{(C)}\ 12", "12", True),
        (r"\text{(C)}\ 12", "13", False),
        (r"\text{(C)}\ 12", r"\text{(C)}", True),
        (r"\text{(C)}\ 12", r"\text{(D)}", False),
        (r"\textbf{(C) }12", "C", True),
        ("C", r"\text{(C)}", True),
        (r"\text{C}", r"\text{(C)}", True),
        ("D", r"\text{(C)}", False),
        ("12", r"\text{(C)}\ 12", True),
        # Recorded from 0.9.0, the pinned version; others differ.
        (r"10\%", "10", True),
        (r"10\%", "0.1", True),
        (r"10\%", "0.2", False),
        ("10", r"10\%", True),
    ],
)
def test_known_traps(answer: str, gold: str, correct: bool) -> None:
    outcome = Outcome.CORRECT if correct else Outcome.WRONG
    assert grade_completion(rf"\boxed{{{answer}}}", gold) is outcome


def test_pinned_library() -> None:
    from importlib.metadata import version

    from svdjobs.provenance import versions

    assert versions()["math-verify"] == version("math-verify") == "0.9.0"


def test_a_self_correction_is_not_a_set() -> None:
    assert grade_completion(r"\boxed{3}, no, \boxed{4}", "4") is Outcome.CORRECT
    assert grade_completion(r"\boxed{3}, no, \boxed{4}", "3") is Outcome.WRONG


@pytest.mark.parametrize("gold", ["", " ", r"\frac{", "{" * 5000])
def test_an_unreadable_gold_is_its_own_outcome(gold: str) -> None:
    assert grade_completion(r"\boxed{5}", gold) is Outcome.GOLD_ERROR


def test_unreadable_gold_still_equals_itself() -> None:
    assert grade_answer(r"a \frac{", r"a  \frac{") is Outcome.CORRECT


def test_several_golds() -> None:
    assert grade_any("5", ["4", "5"]) is Outcome.CORRECT
    assert grade_any("6", ["4", "5"]) is Outcome.WRONG
    assert grade_any("6", ["4", r"\frac{"]) is Outcome.GOLD_ERROR
    assert grade_any("4", ["4", r"\frac{"]) is Outcome.CORRECT
    assert grade_any("6", []) is Outcome.GOLD_ERROR


def test_no_answer() -> None:
    assert grade_completion("I give up", "5") is Outcome.NO_ANSWER
    assert grade_completion(r"\boxed{ }", "5") is Outcome.NO_ANSWER
    assert grade_completion("", "5") is Outcome.NO_ANSWER
    assert grade_completion("The answer is", "5", cut_off=True) is Outcome.TRUNCATED


def test_unreadable_answers() -> None:
    assert grade_answer(r"\frac{", "5") is Outcome.PARSE_ERROR
    assert grade_answer("x" * 100_000, "5") is Outcome.PARSE_ERROR


@pytest.mark.parametrize("text", ["sqrt(" * 700, "1,000" * 700, r"\frac " * 600, " " * 3000 + "1"])
def test_normal_forms_are_bounded(text: str) -> None:
    with no_hang():
        normalise(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r" $ 1\,000. $ ", "1000"),
        (" a   b ", "a b"),
        (r"11,\! 111,\! 100", "11111100"),
        (r"\left( 3, \dfrac{\pi}{2} \right)", r"(3,\frac{\pi}{2})"),
        (r"\frac43", r"\frac{4}{3}"),
        (r"\sqrt2", r"\sqrt{2}"),
        ("sqrt(2*(x+1))", r"\sqrt{2*(x+1)}"),
        ("sqrt(2", "sqrt(2"),
        ("−5", "-5"),
        (r"1 \\ 2", r"1\\2"),
        ("$", ""),
        ("", ""),
    ],
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_every_gold_equals_itself_in_a_box_and_can_be_read() -> None:
    golds = {row["answer"] for row in problem_set()}
    assert [g for g in golds if grade_completion(rf"\boxed{{{g}}}", g) != "correct"] == []
    assert [g for g in golds if not is_readable(g)] == []


@pytest.mark.parametrize("case", CASES)
def test_what_is_beyond_doubt(case: Case) -> None:
    outcome = grade_completion(case.output, case.gold)
    assert (outcome is Outcome.CORRECT) == case.right, outcome


@pytest.mark.parametrize(
    ("text", "gold", "outcome"),
    [
        (r"so \boxed{4} and \boxed{9}.", "4,9", "correct"),
        (r"so \boxed{4} and \boxed{9}.", r"\{9,4\}", "correct"),
        (r"so \boxed{4} and \boxed{9}.", "9", "correct"),
        (r"so \boxed{4} and \boxed{9}.", "4", "wrong"),
        (r"so \boxed{4} and \boxed{9}.", "(4,9)", "wrong"),
        (r"so $x=\boxed{4}$, in all \boxed{4,9}", "4,9", "correct"),
        (r"so \boxed{4}. Or \boxed{9}.", "4,9", "wrong"),
        ("Answer: $1$, $2$", "1", "wrong"),
        ("Answer: $1$, $2$", "1,2", "correct"),
        (r"so \boxed{4", "4", "no_answer"),
        (r"The answer is \boxed{4", "4", "parse_error"),
        (r"Answer: \boxed{4", "4", "parse_error"),
    ],
)
def test_which_part_of_a_completion_counts(text: str, gold: str, outcome: str) -> None:
    assert grade_completion(text, gold) == outcome
