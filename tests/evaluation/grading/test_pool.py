"""The grading pool with real processes: killed, hung, bombed, orphaned."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from svdjobs.errors import BenchmarkError, EvaluationError
from svdjobs.evaluation.grading.pool import GradingPool
from svdjobs.records import Completion, Grade, Outcome
from tests.evaluation.problem_set import problem_set
from tests.waiting import no_hang

# The library adds this up term by term.
HANG = r"\sum_{k=1}^{100000000}\sin(k^2)"


def completion(idx: int, text: str, finish: str = "stop", sample: int = 0) -> Completion:
    return Completion.model_validate(
        {
            "idx": idx,
            "sample_index": sample,
            "seed": 0,
            "text": text,
            "finish_reason": finish,
            "completion_tokens": 1,
        }
    )


def boxes(*answers: str, start: int = 0) -> list[Completion]:
    return [completion(start + i, rf"\boxed{{{answer}}}") for i, answer in enumerate(answers)]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def wait_until_dead(pids: list[int], seconds: float = 5) -> list[int]:
    """The processes still alive after `seconds`."""
    deadline = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return [pid for pid in pids if alive(pid)]


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    with GradingPool(timeout_seconds=5, workers=2) as opened:
        yield opened


def test_outcomes_in_order(pool: GradingPool) -> None:
    completions = [
        *boxes("1+x", "x", "+*"),
        completion(3, "no idea"),
        completion(4, "cut", "length"),
        completion(5, r"\boxed{x+1} cut", "length"),
        completion(6, r"\boxed{5}", sample=3),
    ]
    golds = {**dict.fromkeys(range(6), "x+1"), 6: r"\frac{"}
    grades = pool.grade(completions, golds)
    assert [g.outcome.value for g in grades] == [
        "correct", "wrong", "parse_error", "no_answer", "truncated", "correct", "gold_error",
    ]  # fmt: skip
    assert [(g.idx, g.sample_index) for g in grades] == [(i, 0) for i in range(6)] + [(6, 3)]
    assert [g.answer for g in grades] == ["1+x", "x", "+*", None, None, "x+1", "5"]


def test_nothing_to_grade(pool: GradingPool) -> None:
    assert pool.grade([], {}) == []
    assert pool.collect() == []
    assert pool.classify([]) == []


def test_odd_texts_pass_through_the_pipes(pool: GradingPool) -> None:
    texts = ["\ud800", "a\nb", "\x00", "π\u2028", '"\\n', "x" * 3_000_000]
    grades = pool.grade(boxes(*texts), dict.fromkeys(range(len(texts)), "5"))
    assert [g.answer for g in grades] == [t.strip() for t in texts]


def test_missing_gold(pool: GradingPool) -> None:
    with pytest.raises(BenchmarkError, match=r"no gold for problem idx 1, 2\."):
        pool.grade(boxes("1", "2", "3"), {0: "1"})


# Python itself refuses to read these numbers.
RAISING = [r"3\text{ m^x}", r"7\frac{1}{①}", "9" * 5000 + "+x", rf"\frac{{1}}{{{'9' * 4999}}}"]


@pytest.mark.parametrize("text", RAISING, ids=lambda text: text[:12])
def test_no_gold_or_answer_stops_the_pool(pool: GradingPool, text: str) -> None:
    """Two boxes are joined if the gold is a list, so the gold is read while the answer is found."""
    two = completion(0, r"So \boxed{1} and \boxed{2}.")
    boxed = completion(1, rf"So \boxed{{{text}}} and \boxed{{2}}.")
    assert [g.outcome for g in pool.grade([two], {0: text})] == [Outcome.GOLD_ERROR]
    grades = pool.grade([two, boxed], {0: "1,2", 1: "1,2"})
    assert [g.outcome for g in grades] == [Outcome.CORRECT, Outcome.PARSE_ERROR]


def test_several_golds(pool: GradingPool) -> None:
    assert pool.grade(boxes("1+x"), {0: ["5", "x+1"]})[0].outcome is Outcome.CORRECT


def test_submit_does_not_wait_and_collect_keeps_the_order() -> None:
    with GradingPool(timeout_seconds=5, workers=1) as pool:
        for start in range(0, 30, 10):
            pool.submit(boxes(*("1+x",) * 10, start=start), dict.fromkeys(range(30), "x+1"))
        # If it had waited: the worker takes seconds to start.
        assert not any(batch.is_settled for batch in pool._uncollected)
        assert [g.idx for g in pool.grade(boxes("5", start=77), {77: "5"})] == [77]
        grades = pool.collect()
    assert [g.idx for g in grades] == list(range(30))
    assert {g.outcome for g in grades} == {Outcome.CORRECT}


def test_many_threads_share_a_pool(pool: GradingPool) -> None:
    results: dict[int, list[Grade]] = {}

    def work(number: int) -> None:
        answers = [str(i) for i in range(200)]
        results[number] = pool.grade(boxes(*answers), dict.fromkeys(range(200), str(number)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, grades in results.items():
        assert [g.idx for g in grades if g.outcome is Outcome.CORRECT] == [number]


def test_every_reference_solution_is_correct(pool: GradingPool) -> None:
    problems = problem_set()
    completions = [completion(i, row["solution"]) for i, row in enumerate(problems)]
    grades = pool.grade(completions, {i: row["answer"] for i, row in enumerate(problems)})
    assert [g.idx for g in grades if g.outcome is not Outcome.CORRECT] == []
    assert len(grades) == 500


def test_hostile_answers_finish_in_bounded_time_and_lose_nothing(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    code = f"__import__('os').system('touch {touched}')"
    hostile = {
        HANG: Outcome.TIMEOUT,
        "9^{9^{9^{9}}}": Outcome.WRONG,
        "(10^9)!": None,
        "2^{2^{34}}": None,
        "1" * 100_000: Outcome.WRONG,
        r"\frac{" + "1" * 100_000 + "}{3}": Outcome.PARSE_ERROR,
        "{" * 4000 + "5" + "}" * 4000: Outcome.PARSE_ERROR,
        "{" * 1500 + "5" + "}" * 1500: None,
        r"\sqrt{" * 300 + "5" + "}" * 300: None,
        "(" * 1500 + "5" + ")" * 1500: None,
        code: None,
        rf"\text{{{code}}}": None,
        rf"\operatorname{{{code}}}(1)": None,
        rf"x_{{{code}}}": None,
        r"\input{/etc/passwd}": None,
    }
    texts = [rf"\boxed{{{i}}}" for i in range(20)]
    texts += [rf"\boxed{{{answer}}}" for answer in hostile]
    texts += [r"\boxed{1}" * 100_000, r"\boxed{" * 100_000]
    texts += [rf"\boxed{{{i}}}" for i in range(20)]
    completions = [completion(i, text) for i, text in enumerate(texts)]
    with GradingPool(timeout_seconds=1.0, workers=2) as pool, no_hang(120):
        grades = pool.grade(completions, {c.idx: "7" for c in completions})
    assert [g.idx for g in grades] == [c.idx for c in completions]
    outcomes = [g.outcome for g in grades]
    for outcome, expected in zip(outcomes[20:], hostile.values(), strict=False):
        assert outcome is not Outcome.CORRECT
        assert expected in (None, outcome)
    assert outcomes[20 + len(hostile)] is Outcome.WRONG
    assert outcomes[21 + len(hostile)] is Outcome.NO_ANSWER
    ordinary = outcomes[:20], outcomes[-20:]
    for part in ordinary:
        assert part == [Outcome.CORRECT if i == 7 else Outcome.WRONG for i in range(20)]
    assert grades[20].answer == HANG
    assert not touched.exists()


def test_worker_killed_in_the_middle_loses_nothing() -> None:
    texts = [rf"\boxed{{x^2+{i}x+1}}" for i in range(5000)]
    completions = [completion(i, text) for i, text in enumerate(texts)]
    golds = {i: f"1+x^2+{i}x" for i in range(5000)}
    with GradingPool(timeout_seconds=20, workers=1) as pool:
        pool.grade(boxes("1+x"), {0: "x+1"})
        (first,) = pool.worker_pids
        pool.submit(completions, golds)
        time.sleep(0.1)
        os.kill(first, signal.SIGKILL)
        grades = pool.collect()
        assert pool.worker_pids != [first]
    assert [g.idx for g in grades] == list(range(5000))
    assert {g.outcome for g in grades} == {Outcome.CORRECT}


def test_idle_worker_that_dies_is_replaced() -> None:
    with GradingPool(timeout_seconds=5, workers=1) as pool:
        pool.grade(boxes("x+1"), {0: "1+x"})
        os.kill(pool.worker_pids[0], signal.SIGKILL)
        assert pool.grade(boxes("x+1"), {0: "1+x"})[0].outcome is Outcome.CORRECT


def test_workers_see_no_credentials_and_have_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.setenv(name, "secret")
    with GradingPool(timeout_seconds=5, workers=1) as pool:
        pool.grade(boxes("x+1"), {0: "1+x"})
        process = Path(f"/proc/{pool.worker_pids[0]}")
        environment = (process / "environ").read_bytes()
        limits = (process / "limits").read_text()
    assert b"secret" not in environment
    assert b"HOME=" not in environment
    soft = {line[:25].strip(): line[26:].split()[0] for line in limits.splitlines()}
    assert soft["Max address space"] == str(2 << 30)
    assert soft["Max core file size"] == soft["Max file size"] == soft["Max processes"] == "0"


def test_leaving_kills_busy_workers_and_unfinished_work_is_an_error() -> None:
    with GradingPool(timeout_seconds=60, workers=2) as pool:
        pool.grade(boxes(*["x+1"] * 40), dict.fromkeys(range(40), "1+x"))
        pids = pool.worker_pids
        pool.submit(boxes(HANG), {0: "7"})
    assert wait_until_dead(pids) == []
    with pytest.raises(EvaluationError, match="the grading pool was closed"):
        pool.collect()
    with pytest.raises(EvaluationError, match="the grading pool was closed"):
        pool.grade(boxes("1"), {0: "1"})
    pool.close()


def test_an_exception_leaves_no_process() -> None:
    pids: list[int] = []
    with pytest.raises(KeyError), GradingPool(timeout_seconds=60, workers=2) as pool:
        pool.submit(boxes(*[HANG] * 20), dict.fromkeys(range(20), "7"))
        while len(pids) < 2:
            pids = pool.worker_pids
        raise KeyError
    assert wait_until_dead(pids) == []


def test_few_answers_have_one_worker_and_many_have_several() -> None:
    with GradingPool(timeout_seconds=60, workers=3) as pool:
        pool.grade(boxes(*["x+1"] * 16), dict.fromkeys(range(16), "1+x"))
        assert len(pool.worker_pids) == 1
        pool.grade(boxes(*["x+1"] * 100), dict.fromkeys(range(100), "1+x"))
        assert len(pool.worker_pids) == 3


def test_a_pool_that_is_not_open() -> None:
    with pytest.raises(EvaluationError, match="not open"):
        GradingPool(timeout_seconds=5).grade(boxes("1"), {0: "1"})


def test_workers_end_with_a_parent_that_is_killed() -> None:
    """One worker is busy and does not read its standard input, one is idle."""
    script = (
        "import time\n"
        "from tests.evaluation.grading.test_pool import GradingPool, HANG, boxes\n"
        "with GradingPool(timeout_seconds=600, workers=2) as pool:\n"
        "    pool.grade(boxes(*['x+1'] * 40), dict.fromkeys(range(40), '1+x'))\n"
        "    pool.submit(boxes(HANG), {0: '7'})\n"
        "    time.sleep(0.5)\n"
        "    print(*pool.worker_pids, flush=True)\n"
        "    time.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until_dead(pids) == []


def test_workers_that_do_not_start_say_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no such module' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(broken))
    with (
        GradingPool(timeout_seconds=5, workers=1) as pool,
        pytest.raises(EvaluationError, match=r"3 grading workers .* \(no such module\)"),
    ):
        pool.grade(boxes("1"), {0: "1"})


def graded(idx: int, *answers: tuple[str | None, str]) -> list[Grade]:
    return [
        Grade(idx=idx, sample_index=i, outcome=Outcome(outcome), answer=answer)
        for i, (answer, outcome) in enumerate(answers)
    ]


def test_classes_of_answers(pool: GradingPool) -> None:
    grades = [
        *graded(0, ("3", "wrong"), ("1/2", "correct"), (None, "no_answer"), ("3.0", "wrong")),
        *graded(1, ("5", "wrong"), ("5", "wrong")),
        *graded(2, ("0.5", "correct"), ("1/2", "correct")),
        *graded(3, (None, "truncated")),
        *graded(0, ("0.5", "correct"), ("4", "wrong"), ("{", "parse_error")),
    ]
    classified = pool.classify(grades)
    assert [g.answer_class for g in classified] == [0, 1, None, 0, 0, 0, 0, 0, None, 1, 2, 3]
    assert [g.model_copy(update={"answer_class": None}) for g in classified] == grades


def test_a_hostile_answer_is_in_a_class_of_its_own() -> None:
    answers = ["2/3", HANG, r"\frac{2}{3}", "x+1", HANG, "1+x"]
    with GradingPool(timeout_seconds=1.0, workers=1) as pool:
        classified = pool.classify(graded(0, *((answer, "wrong") for answer in answers)))
    assert [g.answer_class for g in classified] == [0, 1, 0, 2, 1, 2]


def test_a_hostile_answer_is_not_compared_with_those_after_it() -> None:
    answers = [HANG, "2/3", "4/6", "x+1", HANG, "1+x"]
    with GradingPool(timeout_seconds=1.0, workers=1) as pool:
        classified = pool.classify(graded(0, *((answer, "wrong") for answer in answers)))
    assert [g.answer_class for g in classified] == [0, 1, 1, 2, 0, 2]


def test_a_hang_costs_its_limit_once() -> None:
    """One new worker for the first hang, and none for the same answer again, graded or compared."""
    texts = [HANG, "x+1", HANG, HANG, "2"]
    with GradingPool(timeout_seconds=1.0, workers=1) as pool:
        pool.grade(boxes("x+1"), {0: "1+x"})
        seen = set(pool.worker_pids)
        grades = []
        for _ in range(3):  # three samples of a problem
            grades += pool.grade(boxes(*texts), dict.fromkeys(range(len(texts)), "1+x"))
            seen |= set(pool.worker_pids)
        classified = pool.classify([g.model_copy(update={"idx": 0}) for g in grades])
        seen |= set(pool.worker_pids)
    outcomes = ["timeout", "correct", "timeout", "timeout", "wrong"]
    assert [g.outcome.value for g in grades] == outcomes * 3
    assert [g.answer_class for g in classified] == [0, 1, 0, 0, 2] * 3
    assert len(seen) == 2
