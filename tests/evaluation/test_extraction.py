from __future__ import annotations

import time

import pytest

from svdjobs.evaluation.extraction import extract_answer, last_boxed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{4}", "4"),
        (r"first \boxed{3}, no: \boxed{4}.", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", r"\boxed{5}"),
        (r"\fbox{7}", "7"),
        (r"\framebox{7}", "7"),
        (r"\beginboxed{7}", "7"),
        (r"\boxed {8}", "8"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        ("\\boxed{1\n+2}", "1\n+2"),
        (r"\boxed{9", None),
        (r"\boxed{1} and then \boxed{2", "1"),
        (r"\boxed{5}, as asked within \boxed{}.", "5"),
        (r"{ } } \boxed{6} } {", "6"),
        ("no box", None),
        (r"\boxed{}", None),
        (r"\boxed{ }", None),
        ("boxed{5}", None),
        ("", None),
        ("} } {", None),
    ],
)
def test_last_box(text: str, expected: str | None) -> None:
    assert last_boxed(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"Answer: 5, boxed: \boxed{6}", "6"),
        ("Answer: 5", "5"),
        ("so\nAnswer: $5$.\n", "5"),
        ("**Answer:** 5", "5"),
        ("Answer: 4\nno\nanswer : 5\n", "5"),
        ("Final Answer: The final answer is $x+1$. I hope it is correct.", "x+1"),
        ("Answer: 3.5 apples", "3.5 apples"),
        (r"Answer: \(\frac{1}{2}\) of it", r"\frac{1}{2}"),
        ("We add.\nSo the answer is 42.", "42"),
        ("The answer is 42. That was easy.", "42"),
        ("The answer is 42, I thought.\nBut it cannot be.", None),
        ("-1 + sqrt(3)", "-1 + sqrt(3)"),
        ("odd $n$", "odd $n$"),
        ("42", "42"),
        ("I give up", None),
        ("It takes 3 steps to see that the sum of both sides is 7", None),
        ("4\n5", None),
        ("x" * 300 + "1", None),
        (" \n ", None),
    ],
)
def test_answer(text: str, expected: str | None) -> None:
    assert extract_answer(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{5} and", "5"),
        (r"\boxed{5", None),
        ("Answer: 5\nbecause", "5"),
        ("Answer: 5", None),  # perhaps 50
        ("the answer is 5", None),
        ("x = 5", None),
    ],
)
def test_answer_of_a_text_that_was_cut_off(text: str, expected: str | None) -> None:
    assert extract_answer(text, cut_off=True) == expected


@pytest.mark.parametrize(
    "text",
    [
        r"\boxed{" * 200_000,
        "{" * 500_000,
        r"\boxed{1}" * 50_000,
        "}" * 500_000,
        "\\" * 500_000,
        r"\boxed{" + "{" * 300_000 + "}" * 300_000 + "}",
        "answer:" * 100_000,
        "answer is " * 100_000,
        "answer " + " " * 500_000,
        "$" * 300_000,
        "boxed" * 100_000,
        "\\" + "a" * 200_000,
    ],
    ids=lambda text: text[:12],
)
def test_extraction_is_linear(text: str) -> None:
    started = time.monotonic()
    extract_answer(text)
    assert time.monotonic() - started < 5
