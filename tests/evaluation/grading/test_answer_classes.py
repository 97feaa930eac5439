from __future__ import annotations

import pytest

from svdjobs.evaluation.grading.answer_classes import MAX_COMPARISONS, assign_classes
from svdjobs.evaluation.grading.questions import ClassQuestion


@pytest.mark.parametrize(
    ("answers", "classes"),
    [
        ([], []),
        (["5"], [0]),
        (["5", "6", "5"], [0, 1, 0]),
        (["0.5", r"\frac{1}{2}", "1/2", "2"], [0, 0, 0, 1]),
        (["x+1", "x-1", "1+x", "$x + 1$"], [0, 1, 0, 0]),
        (["52", "52_8", "52_{8}"], [0, 1, 1]),
        (["1/2006!", "1/2004!"], [0, 1]),
        ([r"\frac{", r"\frac{ ", "{"], [0, 0, 1]),
        (["9" * 100_000, "9" * 100_000, "8" * 100_000], [0, 0, 1]),
    ],
)
def test_classes(answers: list[str], classes: list[int]) -> None:
    assert list(assign_classes(answers)) == classes


def test_continues_from_the_class_ids_it_has() -> None:
    answers = ["0.5", "x", "1/2", "X+1", "x"]
    assert list(assign_classes(answers, class_ids=[0, 1])) == [0, 2, 1]


def test_an_incomparable_answer_shares_its_class_with_equal_strings_only() -> None:
    answers = ["2/4", "0.5", "1/2", "2/4"]
    assert list(assign_classes(answers, class_ids=[0], incomparable=[0])) == [1, 1, 0]


def test_comparisons_are_bounded() -> None:
    answers = [str(i) for i in range(MAX_COMPARISONS + 1)]
    answers += ["0.0", f"{MAX_COMPARISONS}.0"]
    *_, first, beyond = assign_classes(answers)
    assert (first, beyond) == (0, MAX_COMPARISONS + 1)


def test_question_keeps_the_classes_it_received_and_gives_a_timeout_one() -> None:
    done: list[list[int]] = []
    question = ClassQuestion(["a", "b", "c", "d"], done.append)
    assert not question.reply({"class": 0})
    question.attempt = 1
    assert not question.give_up(timed_out=True)
    assert question.attempt == 0
    request = question.request()
    assert (request["class_ids"], request["incomparable"]) == ([0, 1], [1])
    assert not question.reply({"class": 0})
    assert question.give_up(timed_out=False)
    assert done == [[0, 1, 0, 2]]
