"""The log files of a run end up in its store, and no two processes have the same file."""

from __future__ import annotations

from pathlib import Path

import pytest

from svdjobs.errors import StorageError
from svdjobs.runs.logs import run_logs
from svdjobs.storage.local import LocalStore
from svdjobs.storage.memory import MemoryStore


def test_logs_of_a_local_run_are_written_into_the_run(tmp_path: Path) -> None:
    with run_logs(LocalStore(tmp_path / "run")) as logs:
        path = logs.path("vllm-after")
        path.write_text("hello")
        assert path.parent == tmp_path / "run" / "logs"
        assert logs.place(path) == str(path)
    assert path.read_text() == "hello"


def test_logs_of_another_store_are_uploaded_also_after_a_failure() -> None:
    store = MemoryStore()
    with pytest.raises(RuntimeError), run_logs(store) as logs:
        path = logs.path("vllm-after")
        path.write_text("hello")
        assert f"{store.url}/logs/{path.name}" in logs.place(path)
        raise RuntimeError
    assert store.keys("logs") == [f"logs/{path.name}"]
    assert bytes(store.read(f"logs/{path.name}")) == b"hello"
    assert not path.exists()


def test_a_failed_upload_does_not_stop_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise StorageError("no space")

    store = MemoryStore()
    monkeypatch.setattr("svdjobs.runs.logs.write_bytes", refused)
    with run_logs(store) as logs:
        logs.path("vllm-after").write_text("hello")
    assert "could not be uploaded" in capsys.readouterr().err
    assert not store.keys("")


def test_a_link_out_of_the_run_is_not_followed(tmp_path: Path) -> None:
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    run.mkdir()
    elsewhere.mkdir()
    (run / "logs").symlink_to(elsewhere)
    with pytest.raises(StorageError, match="outside"), run_logs(LocalStore(run)):
        pass
