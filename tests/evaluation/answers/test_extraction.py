from __future__ import annotations

import pytest

from svdjobs.evaluation.answers.extraction import find_answer
from tests.waiting import no_hang


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
    found = find_answer(text)
    assert (found.answer if found and found.boxed else None) == expected


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
        ("Answer: $1$, $2$", "1, 2"),
        (r"Answer: $1$ and \(2\)", "1, 2"),
        ("Answer: $x=5$ where $x$ counts", "x=5"),
        ("Answer:\n$$\n4\n$$\n", "4"),
        ("**Answer**:\n\\[\n\\frac{1}{2}\n\\]\nDone.", r"\frac{1}{2}"),
        ("We get Answer: 4. Thus we are done.", "4"),
        (r"so \boxed 4", "4"),
        (r"so \boxed4.", "4"),
        (r"so $\boxed x$", "x"),
        ("so\n#### 1,234", "1,234"),
        ("<answer> 4 </answer>", "4"),
        ("<answer>3</answer> no <answer>4</answer>", "4"),
        (r"Answer: 5, then \boxed{6}", "6"),
        (r"so \boxed{4", None),
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
    found = find_answer(text)
    assert (found and found.answer) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{5} and", "5"),
        (r"\boxed{5", None),
        ("Answer: 5\nbecause", "5"),
        ("Answer: 5", None),  # perhaps 50
        ("the answer is 5", None),
        ("x = 5", None),
        ("<answer>5</answer> and", "5"),
        ("<answer>5", None),
        ("#### 5\nso", "5"),
        ("#### 5", None),
        (r"\boxed 5", None),
    ],
)
def test_answer_of_a_text_that_was_cut_off(text: str, expected: str | None) -> None:
    found = find_answer(text, cut_off=True)
    assert (found and found.answer) == expected


@pytest.mark.parametrize(
    ("text", "boxed"),
    [
        (r"\boxed{5}", True),
        (r"\fbox{5}", True),
        (r"\boxed 5", False),
        ("#### 5", False),
        ("<answer>5</answer>", False),
        ("Answer: 5", False),
        ("The answer is 5.", False),
        ("5", False),
    ],
)
def test_an_answer_outside_a_box_is_not_boxed(text: str, boxed: bool) -> None:
    found = find_answer(text)
    assert found is not None
    assert (found.answer, found.boxed) == ("5", boxed)


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        (r"so $x=\boxed{4}$ or $x=\boxed{9}$.", ("4", "9")),
        (r"\boxed{4}, \boxed{9}", ("4", "9")),
        (r"First \boxed{3}. So \boxed{4} and \boxed{9}", ("4", "9")),
        ("\\boxed{3}\n\nno: \\boxed{4}", ()),
        (r"It is \boxed{3}. No, \boxed{4}.", ()),
        (r"\boxed{\boxed{4}}", ()),
    ],
)
def test_boxes_of_the_last_sentence(text: str, boxes: tuple[str, ...]) -> None:
    found = find_answer(text)
    assert found is not None
    assert found.boxes == boxes


@pytest.mark.parametrize(
    "text",
    [
        "<answer>" * 100_000,
        "#### " * 100_000,
        "\n####" * 100_000,
        r"\boxed{1}. " * 50_000,
        r"\boxed " * 100_000,
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
    with no_hang():  # a quadratic search takes hours
        find_answer(text)
