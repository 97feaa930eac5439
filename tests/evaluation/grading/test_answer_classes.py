from __future__ import annotations

import pytest

from svdjobs.evaluation.grading.answer_classes import MAX_COMPARISONS, assign_classes
from svdjobs.evaluation.grading.worker_messages import ClassQuestion


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


def test_goes_on_from_what_is_known() -> None:
    answers = ["0.5", "x", "1/2", "X+1", "x"]
    assert list(assign_classes(answers, known=[0, 1])) == [0, 2, 1]


def test_a_late_answer_stays_alone_but_for_equal_strings() -> None:
    answers = ["2/4", "0.5", "1/2", "2/4"]
    assert list(assign_classes(answers, known=[0], late=[0])) == [1, 1, 0]


def test_comparisons_are_bounded() -> None:
    answers = [str(i) for i in range(MAX_COMPARISONS + 1)]
    answers += ["0.0", f"{MAX_COMPARISONS}.0"]
    *_, first, beyond = assign_classes(answers)
    assert (first, beyond) == (0, MAX_COMPARISONS + 1)


def test_question_keeps_what_it_received_and_gives_late_answers_a_class() -> None:
    done: list[list[int]] = []
    question = ClassQuestion(["a", "b", "c", "d"], done.append)
    assert not question.reply({"class": 0})
    question.attempt = 1
    assert not question.give_up(hung=True)
    assert question.attempt == 0
    assert (question.request()["known"], question.request()["late"]) == ([0, 1], [1])
    assert not question.reply({"class": 0})
    assert question.give_up(hung=False)
    assert done == [[0, 1, 0, 2]]
