from __future__ import annotations

import time

import pytest

from svdjobs.evaluation.grading import grade_completion, last_boxed, normalise
from svdjobs.evaluation.workers import GradingPool
from svdjobs.records import Completion, Outcome


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{4}", "4"),
        (r"first \boxed{3}, no: \boxed{4}.", "4"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", r"\boxed{5}"),
        (r"\fbox{7}", "7"),
        (r"\boxed {8}", "8"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{9", None),
        (r"\boxed{1} and then \boxed{2", "1"),
        ("no box", None),
        (r"\boxed{}", ""),
        ("", None),
        ("} } {", None),
    ],
)
def test_last_box(text: str, expected: str | None) -> None:
    assert last_boxed(text) == expected


@pytest.mark.parametrize(
    "text",
    [r"\boxed{" * 200_000, "{" * 500_000, r"\boxed{1}" * 50_000, "}" * 500_000, "\\" * 500_000],
)
def test_last_box_is_linear(text: str) -> None:
    started = time.monotonic()
    last_boxed(text)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("answer", "gold", "expected"),
    [
        ("42", "42", Outcome.CORRECT),
        ("42", "43", Outcome.WRONG),
        ("025", "25", Outcome.CORRECT),
        ("+7", "7", Outcome.CORRECT),
        ("-0", "0", Outcome.CORRECT),
        ("-3", "3", Outcome.WRONG),
        (r"\frac{1}{2}", "0.5", Outcome.CORRECT),
        (r"\dfrac{3}{4}", r"\frac{3}{4}", Outcome.CORRECT),
        (r"2\sqrt{2}", r"\sqrt{8}", Outcome.CORRECT),
        ("x+1", "1+x", Outcome.CORRECT),
        ("$5$", "5", Outcome.CORRECT),
        ("5.", "5", Outcome.CORRECT),
        ("1" * 5000, "1" * 4999 + "2", Outcome.WRONG),
    ],
)
def test_grades(answer: str, gold: str, expected: Outcome) -> None:
    assert grade_completion(rf"so \boxed{{{answer}}}", gold) is expected


def test_gold_that_does_not_parse_is_its_own_outcome() -> None:
    assert grade_completion(r"\boxed{5}", "") is Outcome.GOLD_ERROR


def test_no_answer() -> None:
    assert grade_completion("I give up", "5") is Outcome.NO_ANSWER
    assert grade_completion(r"\boxed{ }", "5") is Outcome.NO_ANSWER


def test_normalise() -> None:
    assert normalise(r" $ 1\,000. $ ") == "1000"
    assert normalise(" a   b ") == "a b"


def completion(idx: int, text: str, finish: str = "stop") -> Completion:
    return Completion.model_validate(
        {
            "idx": idx,
            "sample_index": 0,
            "seed": 0,
            "text": text,
            "finish_reason": finish,
            "completion_tokens": 1,
        }
    )


def test_hostile_answers_finish_in_bounded_time_and_lose_nothing() -> None:
    """A tower of powers hangs the algebra; its worker is killed and the rest goes on."""
    hostile = [r"\boxed{9^{9^{9^{9}}}}", r"\boxed{(10^9)!}"]
    ordinary = [rf"\boxed{{{i}}}" for i in range(40)]
    texts = [*ordinary[:20], *hostile, *ordinary[20:], "no box", r"\boxed{1} cut"]
    completions = [completion(i, text) for i, text in enumerate(texts)]
    completions.append(completion(len(texts), "cut off", "length"))
    golds = {c.idx: "7" for c in completions}
    with GradingPool(timeout_seconds=1.0, workers=2) as pool:
        started = time.monotonic()
        grades = pool.grade(completions, golds)
        elapsed = time.monotonic() - started
    assert elapsed < 60
    assert [grade.idx for grade in grades] == [c.idx for c in completions]
    outcomes = {grade.idx: grade.outcome for grade in grades}
    assert outcomes[7] is Outcome.CORRECT
    assert all(outcomes[i] is Outcome.WRONG for i in range(20) if i != 7)
    assert all(outcomes[i] is not Outcome.CORRECT for i in (20, 21))
    assert outcomes[20] is Outcome.TIMEOUT
    assert outcomes[len(texts) - 2] is Outcome.NO_ANSWER
    assert outcomes[len(texts)] is Outcome.TRUNCATED


def test_workers_see_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    from pathlib import Path

    monkeypatch.setenv("HF_TOKEN", "secret-token")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-key")
    with GradingPool(timeout_seconds=5, workers=1) as pool:
        pool.grade([completion(0, r"\boxed{x+1}")], {0: "1+x"})
        environment = Path(f"/proc/{pool._workers[0]._process.pid}/environ").read_bytes()
    assert b"secret" not in environment


def test_worker_that_dies_is_replaced() -> None:
    with GradingPool(timeout_seconds=5, workers=1) as pool:
        pool.grade([completion(0, r"\boxed{x+1}")], {0: "1+x"})
        pool._workers[0]._process.kill()
        pool._workers[0]._process.wait()
        grades = pool.grade([completion(0, r"\boxed{x+1}")], {0: "1+x"})
    assert grades[0].outcome is Outcome.CORRECT
