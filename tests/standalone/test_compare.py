"""Comparisons of planted runs: what differs, what is paired, and what is marked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from svdjobs.config import SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.errors import ConfigError
from svdjobs.runs.outputs import OutputKey, begin
from svdjobs.standalone import compare
from svdjobs.standalone.compare_text import words
from svdjobs.statistics import holm, sign_flip_p
from svdjobs.storage.local import LocalStore
from tests.evaluation.planted_answers import answer, noted
from tests.forked import run as svdjobs

PROBLEMS = 20
GOOD = [[True, True]] * 15 + [[True, False]] * 5
HEADER = "benchmark,checkpoint,quantity,value,low,high,standard_error\n"
Make = Callable[..., SweepConfig]


def lost(problems: int) -> list[list[bool]]:
    """GOOD, but with no correct completion of the first problems."""
    return [[False, False]] * problems + GOOD[problems:]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a run with planted grades and numbers in a folder `name`; returns its config."""
    data = tmp_path / "sums.jsonl"
    rows = [{"problem": f"{i} + 1?", "answer": i + 1} for i in range(PROBLEMS)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def made(
        name: str,
        after: Sequence[Sequence[bool]] = GOOD,
        *,
        numbers: str | None = "",
        evaluate: dict[str, Any] | None = None,
        **keys: Any,
    ) -> SweepConfig:
        limit = (evaluate or {}).pop("limit", None)
        document = {
            "name": name, "before": "a/b", "after": f"c/{name}", "alphas": [0, 1],
            "store": str(tmp_path / name),
            "evaluate": {
                "benchmarks": [{"name": "sums", "data": str(data), "limit": limit}],
                "n_samples": 2, **(evaluate or {}),
            },
        }  # fmt: skip
        config = parse_config({**document, **keys}, where="test")
        noted(config)
        answer(config, "before", lost(10)[:limit], weights="the same")
        answer(config, "after", after[:limit], weights=name)
        if numbers is not None:
            output = begin(LocalStore(tmp_path / name), "report", OutputKey("report", "5", {}, {}))
            output.write("tables/numbers.csv", (HEADER + numbers).encode())
            output.commit()
        return config

    return made


def compared(*configs: SweepConfig) -> tuple[compare.Compared, str]:
    found = compare.run([config.store_url for config in configs])
    said = "\n".join(words(found))
    assert max(len(line) for line in said.splitlines() if "/" not in line) <= 100
    return found, said


def test_paired_by_problem_if_the_questions_are_the_same(make: Make) -> None:
    found, said = compared(make("one"), make("two", lost(6)), make("three", lost(1)))
    p = {
        (t.checkpoint_id, t.label): (t.comparison.changed if t.comparison else None, t.p)
        for t in found.tests
    }
    expected = {
        label: sign_flip_p([1.0] * n + [0.0] * (20 - n)) for label, n in (("B", 6), ("C", 1))
    }
    assert p == {
        ("before", "B"): (0, None), ("before", "C"): (0, None),
        ("after", "B"): (6, expected["B"]), ("after", "C"): (1, expected["C"]),
    }  # fmt: skip
    assert list(found.adjusted.values()) == list(holm(expected).values())
    lines = [line.split() for line in said.splitlines() if "− A" in line]
    assert [" ".join(line) for line in lines][:2] == [
        "sums, before B − A 0 (same scores) 0 of 20 same weights",
        "sums, after B − A -30.00 [-52.00, -8.00] 6 of 20 0.062",
    ]
    assert "unpaired" not in said


def test_only_settings_that_differ_are_shown(make: Make) -> None:
    more = {"max_tokens": 9, "temperature": 1}
    one, two = make("one"), make("two", evaluate=more, variants={"v": {"before": "matrix"}})
    found, said = compared(one, two)
    assert set(found.settings) == {"after", "evaluate.max_tokens", "variants.v"}
    assert found.settings["evaluate.max_tokens"] == [1024, 9]
    table = said.partition("Settings that differ:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in table[2:]] == list(found.settings)
    assert compare.run([one.store_url, one.store_url]).settings == {}


def test_other_questions_are_marked_with_the_reasons(make: Make) -> None:
    row = "sums,after,avg,0.875,0.75,0.95,0.05\n"
    one, two = make("one", numbers=row), make("two", numbers=row, evaluate={"limit": 19})
    found, said = compared(one, two, make("three", numbers=row, evaluate={"seed": 7}))
    assert [test.comparison is not None for test in found.tests] == [False] * 4
    assert "C *  87.5 % [75.0, 95.0]" in said
    assert "after         A    87.5 % [75.0, 95.0]" in said
    assert "* B is unpaired with A, since its questions are not A's:" in said
    assert "    problems is 19 in B and 20 in A\n" in said
    assert "    evaluate.seed is 7 in C and 0 in A" in said
    assert "p: of no difference" not in said
    document = compare.document(found)
    assert [test["paired"] for test in document["tests"]] == [False] * 4


def test_numbers_are_those_of_the_report(make: Make) -> None:
    numbers = (
        "sums,alpha-0.0000,minus_after,-0.1,-0.2,0.0,0.05\n"
        "sums,alpha-0.0000,read_minus_after,-0.0026,-0.0056,0.0005,0.001\n"
        "sums,alpha-0.0000,avg,nan,nan,nan,nan\n"
        "-,-,other,1,nan,nan,nan\n"
    )
    found, said = compared(make("one", numbers=numbers), make("two", numbers=None))
    assert "alpha-0.0000  A           -  -10.00 [-20.00, +0.00]  -0.26 [-0.56, +0.05]" in said
    assert f"B has no report, so no numbers; `svdjobs status {found.sides[1].store.url}`" in said
    intervals = compare.document(found)["numbers"]
    assert [entry["quantity"] for entry in intervals] == [
        "minus_after", "read_minus_after", "other",
    ]  # fmt: skip
    assert intervals[2]["low"] is None
    other = compared(make("other", numbers="sums,after,avg,high\n"), make("four"))[1]
    assert "A has no numbers: another version of svdjobs wrote its tables/numbers.csv." in other
    path = Path(found.sides[0].store.url) / "report/tables/numbers.csv"
    path.write_text(path.read_text().replace("-0.1", "+0.9"))
    assert "A has no numbers: " in compared(make("one", numbers=None), make("three"))[1]


def test_runs_without_a_common_benchmark(make: Make) -> None:
    none = make("none")
    noted(none.model_copy(update={"evaluate": None}))
    found, said = compared(make("one"), none)
    assert found.tests == []
    assert "All settings are equal" not in said


def test_how_many_runs(make: Make, tmp_path: Path) -> None:
    url = make("one").store_url
    for count in (1, 5):
        with pytest.raises(ConfigError, match=f"give two to 4 runs; found {count}"):
            compare.run([url] * count)
    done = svdjobs("compare", url, tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path} has no config.json, so it holds no run." in done.stderr
    assert len(json.loads(svdjobs("compare", url, url, "--json").stdout)["runs"]) == 2


def test_a_real_run_and_itself(swept: SweepConfig) -> None:
    done = svdjobs("compare", swept.store_url, swept.store_url)
    assert done.returncode == 0, done.stderr
    assert "All settings are equal." in done.stdout
    assert done.stdout.count("same weights") == 3
