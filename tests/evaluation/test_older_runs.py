"""Older runs, with grades and completions in one output, are read as they are."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from svdjobs.config import SweepConfig
from svdjobs.evaluation import engine_holder, grades
from svdjobs.runs import layout
from svdjobs.runs.outputs import MANIFEST
from svdjobs.stages import evaluate, grade, report
from svdjobs.storage.local import LocalStore
from tests.evaluation.older_runs import made_older


@pytest.fixture
def older(swept: SweepConfig) -> SweepConfig:
    made_older(swept)
    return swept


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_report_of_an_older_run_is_the_same(older: SweepConfig) -> None:
    store, root = LocalStore(older.store_url), Path(older.store_url)
    before = files_in(root / "report" / "tables")
    report.run(older, store, force=True)
    assert files_in(root / "report" / "tables") == before
    assert not report.unfinished(older, store)
    assert not (root / "grades").exists()


def test_an_older_run_is_graded_again_without_generating(
    older: SweepConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, root = LocalStore(older.store_url), Path(older.store_url)
    results = files_in(root / "results")
    monkeypatch.setattr(
        engine_holder.EngineHolder, "engine_with", lambda *_: pytest.fail("an engine was started")
    )
    evaluate.run(older, store)
    assert files_in(root / "results") == results
    for checkpoint_id in layout.evaluated_ids(older):
        place = f"{checkpoint_id}/sums"
        for name in ("grades.jsonl", "summary.json", "results.json"):
            assert store.read(f"grades/{place}/{name}") == store.read(f"results/{place}/{name}")
        evaluation = grades.find(store, checkpoint_id, "sums")
        assert evaluation is not None
        assert evaluation.prefix == f"grades/{place}"


@pytest.mark.parametrize("changed", [(grades, "GRADER"), (grades, "SUMMARY_VERSION")])
def test_a_newer_grader_or_summary_generates_nothing(
    changed: tuple[ModuleType, str], swept: SweepConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, root = LocalStore(swept.store_url), Path(swept.store_url)
    results, old = files_in(root / "results"), files_in(root / "grades")
    monkeypatch.setattr(*changed, "another")
    monkeypatch.setattr(
        engine_holder.EngineHolder, "engine_with", lambda *_: pytest.fail("an engine was started")
    )
    evaluate.run(swept, store)
    assert files_in(root / "results") == results
    new = files_in(root / "grades")
    others = {name for name in old if new[name] != old[name]}
    assert {Path(name).name for name in others} == {MANIFEST}
    assert len(grade.run(swept, store)) == len(layout.evaluated_ids(swept))
    assert files_in(root / "grades") == new
