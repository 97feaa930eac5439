"""Grades and estimates from completions: again, with bad golds, and after other settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svdjobs import local
from svdjobs.config import SweepConfig
from svdjobs.errors import EXIT_TRY_AGAIN, BenchmarkError, BusyError, ConfigError, exit_code
from svdjobs.evaluation import engine_choice, engine_holder, output_keys
from svdjobs.evaluation.engines import vllm
from svdjobs.stages import evaluate, grade, report
from svdjobs.storage.local import LocalStore

MakeConfig = Callable[..., SweepConfig]
IDS = ["before", "after"]


def section(make_config: MakeConfig, **changes: Any) -> dict[str, Any]:
    base = make_config().evaluate
    assert base is not None
    return {**base.model_dump(), **changes}


def contents(config: SweepConfig) -> dict[str, bytes]:
    root = Path(config.store_url) / "results"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_grading_again_keeps_completions_whatever_has_changed(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(rotations=None)
    store = LocalStore(config.store_url)
    evaluate.run(config, store, checkpoint_ids=IDS)
    generated = {k: v for k, v in contents(config).items() if "completions" in k}
    monkeypatch.setattr(output_keys, "VERSION", "another")
    monkeypatch.setattr(
        engine_choice, "choose_engine", lambda *_: pytest.fail("an engine was chosen")
    )
    changed = make_config(rotations=None, evaluate=section(make_config, engine="vllm"))
    assert len(grade.run(changed, store)) == 2
    assert {k: v for k, v in contents(config).items() if "completions" in k} == generated


def test_grading_against_other_golds_is_refused(
    make_config: MakeConfig, benchmark_file: Path, tmp_path: Path
) -> None:
    config = make_config(rotations=None)
    store = LocalStore(config.store_url)
    evaluate.run(config, store, checkpoint_ids=["after"])
    before = contents(config)
    other = tmp_path / "sums.jsonl"
    other.write_text(benchmark_file.read_text().replace('"1"', '"2"'))
    benchmarks = [{"name": "sums", "data": str(other)}]
    changed = make_config(rotations=None, evaluate=section(make_config, benchmarks=benchmarks))
    with pytest.raises(BenchmarkError, match="sums: its problems or golds have changed since"):
        grade.run(changed, store)
    assert contents(config) == before


def test_wrong_settings_clear_no_existing_output(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(rotations=None)
    store = LocalStore(config.store_url)
    evaluate.run(config, store, checkpoint_ids=IDS)
    before = contents(config)
    too_long = make_config(rotations=None, evaluate=section(make_config, max_tokens=5000))
    with pytest.raises(BenchmarkError, match="max_tokens 5000"):
        evaluate.run(too_long, store, checkpoint_ids=IDS)
    monkeypatch.setattr(vllm, "find_spec", lambda _: None)
    absent = make_config(rotations=None, evaluate=section(make_config, engine="vllm"))
    with pytest.raises(ConfigError, match="vLLM is not installed"):
        evaluate.run(absent, store, checkpoint_ids=IDS)
    assert contents(config) == before


def test_a_longer_grading_timeout_generates_nothing_again(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(rotations=None)
    store = LocalStore(config.store_url)
    evaluate.run(config, store, checkpoint_ids=IDS)
    patient = make_config(rotations=None, evaluate=section(make_config, grade_timeout_seconds=50.0))
    monkeypatch.setattr(
        engine_holder.EngineHolder, "engine_with", lambda *_: pytest.fail("an engine was started")
    )
    evaluate.run(patient, store, checkpoint_ids=IDS)


def test_unreadable_golds_are_named_and_left_out(
    make_config: MakeConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mixed.jsonl"
    golds = ["3", "\\\\frac{", "5"]
    rows = [
        f'{{"problem": "What is {i} + 1?", "answer": "{gold}"}}' for i, gold in enumerate(golds)
    ]
    path.write_text("\n".join(rows))
    config = make_config(
        rotations=None, evaluate=section(make_config, benchmarks=[str(path)], n_samples=2)
    )
    evaluate.run(config, LocalStore(config.store_url), checkpoint_ids=["after"])
    folder = Path(config.store_url) / "grades" / "after" / "mixed"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["gold_errors"] == [1]
    assert summary["problems"] == 3
    assert len(summary["problem_scores"]) == 2
    results = json.loads((folder / "results.json").read_text())["results"][0]["details"]
    assert [row["per_problem_score"] is None for row in results] == [False, True, False]
    assert "1 golds cannot be read" in capfd.readouterr().err


def test_a_benchmark_without_a_readable_gold_is_refused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    path = tmp_path / "none.jsonl"
    path.write_text('{"problem": "a", "answer": "\\\\frac{"}\n')
    config = make_config(rotations=None, evaluate=section(make_config, benchmarks=[str(path)]))
    with pytest.raises(BenchmarkError, match=r"none of its 1 golds.*answer_field the right one"):
        evaluate.run(config, LocalStore(config.store_url), checkpoint_ids=["after"])


def test_the_report_follows_new_grades(make_config: MakeConfig) -> None:
    config = make_config(rotations=None)
    store = LocalStore(config.store_url)
    first = local.sweep(config)
    assert report.run(config, store) == first
    summary = Path(config.store_url) / "grades" / "after" / "sums" / "grades.jsonl"
    summary.write_text(summary.read_text().replace('"wrong"', '"correct"'))
    grade.run(config, store, force=True)  # as before, so the report stays current
    assert report.run(config, store).fingerprint == first.fingerprint


def test_a_journal_has_one_writer_and_drops_a_torn_line(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    with store.journal("x/j") as journal:
        journal.append("a")
        with (
            pytest.raises(BusyError, match="being written by another process") as refused,
            store.journal("x/j"),
        ):
            pass
    assert exit_code(refused.value) == EXIT_TRY_AGAIN
    (tmp_path / "x" / "j").write_bytes(b"a\nb\ntor")
    with store.journal("x/j") as journal:
        assert journal.lines == ["a", "b"]
        journal.append("c")
    assert (tmp_path / "x" / "j").read_bytes() == b"a\nb\nc\n"


def test_a_completion_twice_in_the_journal_counts_once(make_config: MakeConfig) -> None:
    config = make_config(rotations=None)
    store = LocalStore(config.store_url)
    evaluate.run(config, store, checkpoint_ids=["after"])
    folder = Path(config.store_url) / "results" / "after" / "sums"
    expected = (folder / "completions.jsonl").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    lines = expected.decode().splitlines()
    (folder / "completions.journal").write_text("\n".join([*lines[:4], *lines[2:6], ""]))
    marker = {"fingerprint": manifest["fingerprint"]}
    (folder / "in-progress.json").write_text(json.dumps(marker))
    for name in ("manifest.json", "completions.jsonl"):
        (folder / name).unlink()
    evaluate.run(config, store, checkpoint_ids=["after"])
    assert (folder / "completions.jsonl").read_bytes() == expected
