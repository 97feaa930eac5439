from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svdjobs.config import BenchmarkConfig
from svdjobs.errors import BenchmarkError
from svdjobs.evaluation.benchmarks.load import load_benchmark, normalise_gold


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
        ('{"problem": "p", "answer": " "}', "'answer' is empty"),
        ('{"problem": "p", "answer": NaN}', "'answer' is nan; expected text or a number"),
        ('{"problem": "p", "answer": true}', "'answer' is True; expected text or a number"),
        ('{"problem": "p", "answer": ["1"]}', "expected text or a number"),
        ('{"problem": " \\n", "answer": 1}', "'problem' is not text"),
        ('{"problem": "\\ud800", "answer": 1}', "half of a surrogate pair"),
        ("[" * 100_000, "line 1: not JSON"),
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


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("nowhere.jsonl", r"nowhere\.jsonl: no such file"),
        ("nowhere.parquet", r"nowhere\.parquet: no such file"),
        ("{tmp}", "a folder; expected a JSONL or Parquet file"),
        ("{tmp}/latin.jsonl", "can't decode byte"),
        ("{tmp}/broken.parquet", r"broken\.parquet: .*Parquet"),
        ("math500", r"not a hub data set \(owner/name\).* did you mean math-500"),
        ("../a/b/c", "no such file, not a hub data set"),
    ],
)
def test_places_that_hold_no_benchmark(data: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "latin.jsonl").write_bytes(b'{"problem": "\xe9", "answer": 1}')
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(BenchmarkError, match=words):
        load_benchmark(BenchmarkConfig(name="b", data=data.format(tmp=tmp_path)))


def test_only_a_line_feed_ends_a_line(tmp_path: Path) -> None:
    """CRLF files, a byte-order mark, and characters that other readers take for line ends."""
    texts = ["a\u2028b\u2029c\x85d\x0be", "two\r\nlines", "last"]
    lines = [json.dumps({"problem": t, "answer": 1}, ensure_ascii=False) for t in texts]
    path = tmp_path / "b.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    loaded = load_benchmark(BenchmarkConfig(name="b", data=str(path)))
    assert [p.problem for p in loaded.problems] == texts


@pytest.mark.parametrize(
    ("values", "golds"),
    [
        (pa.array([27, 336], pa.int64()), ["27", "336"]),
        (pa.array([27.0, 0.5], pa.float64()), ["27", "0.5"]),
        (pa.array([25.0, 1e-7], pa.float32()), ["25", "0.00000010000000116860974"]),
        (pa.array([Decimal("27.00"), Decimal("1.25")]), ["27", "1.25"]),
        (pa.array(["025", "x^2"]), ["25", "x^2"]),
        (pa.array(["a", "b"]).dictionary_encode(), ["a", "b"]),
    ],
)
def test_parquet(values: Any, golds: list[str], tmp_path: Path) -> None:
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table({"question": ["p", "q"], "answer": values}), path)
    config = BenchmarkConfig(name="b", data=str(path), problem_field="question")
    assert [p.gold for p in load_benchmark(config).problems] == golds
    with pytest.raises(BenchmarkError, match="no field 'problem'; it has answer, question"):
        load_benchmark(BenchmarkConfig(name="b", data=str(path)))


def test_empty_parquet(tmp_path: Path) -> None:
    path = tmp_path / "b.parquet"
    pq.write_table(pa.table({"problem": pa.array([], pa.string())}), path)
    with pytest.raises(BenchmarkError, match="holds no problem"):
        load_benchmark(BenchmarkConfig(name="b", data=str(path)))


def test_same_content_from_parquet_has_the_same_hash(tmp_path: Path) -> None:
    rows = [{"problem": "p", "answer": "7"}, {"problem": "q", "answer": "025"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "b.parquet")
    lines = load_benchmark(write(tmp_path / "b.jsonl", *rows))
    assert (
        load_benchmark(BenchmarkConfig(name="b", data=str(tmp_path / "b.parquet"))).sha256
        == lines.sha256
    )


@pytest.mark.parametrize(
    ("value", "gold"),
    [
        (27, "27"),
        (27.0, "27"),
        ("27.0", "27"),
        ("27.", "27."),
        ("025", "25"),
        ("000", "0"),
        ("-0", "0"),
        (-0.0, "0"),
        ("-007", "-7"),
        ("+5", "5"),
        (r"336^\circ", "336"),
        (r" 336^{\circ} ", "336"),
        (r"33.5^\circ", r"33.5^\circ"),
        (r"\frac{1}{2}^\circ", r"\frac{1}{2}^\circ"),
        ("1.50", "1.50"),
        ("1,-2", "1,-2"),
        ("52_8", "52_8"),
        (r"10,\!080", r"10,\!080"),
        (1e22, "10000000000000000000000"),
        (1e-7, "0.0000001"),
        (10**30, "1" + "0" * 30),
        (None, ""),
        (float("inf"), None),
        (True, None),
        ({"a": 1}, None),
    ],
)
def test_golds(value: object, gold: str | None) -> None:
    assert normalise_gold(value) == gold


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()))
def test_normalising_twice_changes_nothing_and_keeps_the_value(value: float | str) -> None:
    gold = normalise_gold(value)
    assert gold is not None
    assert normalise_gold(gold) == gold
    if isinstance(value, int):
        assert int(gold) == value
    elif isinstance(value, float):
        assert float(gold) == value


def test_missing_fields_are_listed_with_what_is_there(tmp_path: Path) -> None:
    config = write(tmp_path / "b.jsonl", {"expected_answer": "70", "id": 1, "problem": "p"})
    with pytest.raises(BenchmarkError, match=r"row 1: .*it has expected_answer, id, problem\."):
        load_benchmark(config)
