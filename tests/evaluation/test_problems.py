from __future__ import annotations

import json
from pathlib import Path

import pytest

from svdjobs.config import BenchmarkConfig
from svdjobs.errors import BenchmarkError, StorageError
from svdjobs.evaluation.problems import load_benchmark

SHARED = Path(__file__).parents[3] / "shared" / "data"


def write(path: Path, *rows: object) -> BenchmarkConfig:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return BenchmarkConfig(name="b", data=str(path))


def test_fields_and_numbers(tmp_path: Path) -> None:
    config = write(
        tmp_path / "b.jsonl",
        {"question": " q1 ", "answer": 27.0},
        {"question": "q2", "answer": "x"},
    )
    loaded = load_benchmark(config.model_copy(update={"problem_field": "question"}))
    assert [(p.idx, p.problem, p.gold) for p in loaded.problems] == [
        (0, "q1", "27"),
        (1, "q2", "x"),
    ]


def test_same_content_has_the_same_hash(tmp_path: Path) -> None:
    row = {"problem": "p", "answer": 1}
    first = load_benchmark(write(tmp_path / "a.jsonl", row))
    second = load_benchmark(write(tmp_path / "b.jsonl", {**row, "extra": 1}))
    third = load_benchmark(write(tmp_path / "c.jsonl", {**row, "answer": 2}))
    assert first.sha256 == second.sha256 != third.sha256


def test_limit(tmp_path: Path) -> None:
    config = write(tmp_path / "b.jsonl", *({"problem": f"p{i}", "answer": i} for i in range(5)))
    assert len(load_benchmark(config.model_copy(update={"limit": 2})).problems) == 2


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", "holds no problem"),
        ("\n\n", "holds no problem"),
        ("{bad", "line 1: not JSON"),
        ("[1]", "line 1: expected an object"),
        ('{"problem": "p"}', "no field 'answer'; it has problem"),
        ('{"problem": 3, "answer": 1}', "'problem' is not text"),
        ('{"problem": "p", "answer": null}', "'answer' is empty"),
        (
            '{"problem": "p", "answer": 1}\n{"problem": "p", "answer": 1}',
            "rows 1 and 2 are the same",
        ),
    ],
)
def test_malformed_benchmarks(lines: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "b.jsonl"
    path.write_text(lines)
    with pytest.raises(BenchmarkError, match=words):
        load_benchmark(BenchmarkConfig(name="b", data=str(path)))


def test_missing_file() -> None:
    with pytest.raises(BenchmarkError, match=r"nowhere\.jsonl: no such file"):
        load_benchmark(BenchmarkConfig(name="b", data="nowhere.jsonl"))


def test_unreachable_hub_set_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(StorageError, match="Give a local JSONL file"):
        load_benchmark(BenchmarkConfig(name="b", data="someone/some-set"))


@pytest.mark.skipif(not SHARED.exists(), reason="needs the public benchmarks beside the project")
@pytest.mark.parametrize(
    ("file", "problem", "answer", "count"),
    [
        ("math-500.jsonl", "problem", "answer", 500),
        ("aime-2024.jsonl", "problem", "expected_answer", 30),
        ("aime-2025.jsonl", "problem", "expected_answer", 30),
        ("amc-2023.jsonl", "question", "answer", 40),
    ],
)
def test_public_benchmarks_load(file: str, problem: str, answer: str, count: int) -> None:
    config = BenchmarkConfig(
        name="b", data=str(SHARED / file), problem_field=problem, answer_field=answer
    )
    loaded = load_benchmark(config)
    assert len(loaded.problems) == count
    assert all(not p.gold.endswith(".0") for p in loaded.problems)
