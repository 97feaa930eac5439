from __future__ import annotations

from collections.abc import Hashable
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


def test_time_left_has_a_basis_or_is_not_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    pieces: dict[Hashable, str] = {"a": "draw", "b": "draw", "c": "read", "d": "read", "e": "read"}
    left = progress.TimeLeft("pieces", pieces)
    said = []
    for piece, seconds in (("a", 40), ("finished before", 1), ("c", 20), ("b", 60), ("d", 30)):
        with left.one(piece):
            now += seconds
        said.append(capsys.readouterr().err.strip())
    # First no reading has been done; "c" ends too soon after that was said.
    assert said == [
        "pieces left: 4", "", "", "pieces left: 2, about 40 s", "pieces left: 1, about 25 s",
    ]  # fmt: skip
