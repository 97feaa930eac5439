from __future__ import annotations

from pathlib import Path

import pytest

from svdjobs import progress


def test_argo_reads_a_percentage_that_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "progress"
    monkeypatch.setenv(progress.ARGO_PROGRESS_FILE, str(path))
    seen = []
    with progress.track("work", 8) as advance:
        for _ in range(8):
            advance(1)
            seen.append(path.read_text())
    assert seen == [f"{n}/100" for n in (12, 25, 37, 50, 62, 75, 87, 99)]


def test_a_file_that_cannot_be_written_does_not_end_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(progress.ARGO_PROGRESS_FILE, str(tmp_path / "none" / "progress"))
    with progress.track("work", 2) as advance:
        advance(2)


def test_no_file_without_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(progress.ARGO_PROGRESS_FILE, raising=False)
    monkeypatch.chdir(tmp_path)
    with progress.track("work", 2) as advance:
        advance(2)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_do_is_no_division_by_zero(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "progress"
    monkeypatch.setenv(progress.ARGO_PROGRESS_FILE, str(path))
    with progress.track("work", 0) as advance:
        advance(0)
    assert path.read_text() == "99/100"
