"""Names from a store never lead out of its folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from svdjobs.ci import fetch_results
from svdjobs.errors import DamagedError, MissingKeyError, StorageError, exit_code
from svdjobs.records import FileRecord
from svdjobs.runs import outputs
from svdjobs.storage.as_files import local_folder
from svdjobs.storage.local import LocalStore
from svdjobs.storage.memory import MemoryStore
from svdjobs.storage.objects import clear, write_bytes
from svdjobs.storage.store import Store

HOSTILE = [
    "../x", "/etc/x", "a/../../x", "a//b", "a/", "", ".", "./a", "a\\b", "..\\x", "a\nb", "a\0b",
    "a\x1b[2Jb", "a/\ud800",
]  # fmt: skip


def finished(store: Store, key: str) -> None:
    """Write a report whose manifest lists one file, under any key."""
    record = {"key": key, "bytes": 4, "sha256": hashlib.sha256(b"evil").hexdigest()}
    document = {
        "stage": "report",
        "fingerprint": "0",
        "inputs": {},
        "config": {},
        "files": [record],
        "provenance": {},
    }
    write_bytes(store, "report/manifest.json", json.dumps(document).encode())


@contextmanager
def unprivileged() -> Iterator[None]:
    """Become nobody if this is root, who may read every file."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


@pytest.mark.parametrize("key", HOSTILE)
def test_a_key_that_leads_elsewhere_is_none(key: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no key"):
        FileRecord(key=key, bytes=0, sha256="")
    store = MemoryStore()
    finished(store, key)
    store.append("report/" + key, b"evil")  # as an object store would have it
    for copy in (
        lambda into: outputs.copy(store, "report", into / "report"),
        lambda into: fetch_results.bring_back(store, into, ["report"]),
    ):
        with pytest.raises(
            DamagedError, match=r"report/manifest\.json is not .*is no key"
        ) as caught:
            copy(tmp_path / "into")
        assert exit_code(caught.value) == 4
        assert str(caught.value).isprintable()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", [key for key in HOSTILE if key not in ("", "a/")])
def test_no_store_or_download_follows_it(key: str, tmp_path: Path) -> None:
    local, there = LocalStore(tmp_path / "run"), MemoryStore()
    there.append(key, b"evil")
    for use in (
        local.read,
        local.size,
        local.version,
        local.exists,
        local.sizes,
        local.delete,
        lambda key: write_bytes(local, key, b""),
        lambda key: local.put_new(key, b""),
        lambda key: local.journal(key).__enter__(),
        lambda key: local_folder(there, [key]).__enter__(),
    ):
        with pytest.raises(DamagedError, match="is no key"):
            use(key)
    assert not list(tmp_path.iterdir())


def test_keys_as_they_are_written() -> None:
    for key in ("a", "plan/plan.json", "ü/日本 b", ".hidden", "a..b/c.", "x+y&z=%20?#'(1)"):
        assert FileRecord(key=key, bytes=0, sha256="").key == key


def test_a_link_out_of_a_run_is_not_followed_to_write_or_delete(tmp_path: Path) -> None:
    home, root = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    root.mkdir()
    (home / "kept").write_text("mine")
    (home / "manifest.json").write_text("{}")
    (root / "report").symlink_to(home)
    (root / "file").symlink_to(home / "kept")
    store = LocalStore(root)
    for use in (
        lambda: clear(store, "report"),
        lambda: store.delete("report/kept"),
        lambda: write_bytes(store, "report/kept", b"theirs"),
        lambda: write_bytes(store, "report/new/deep", b"theirs"),
        lambda: store.put_new("report/new", b"theirs"),
        lambda: store.journal("report/x.journal").__enter__(),
    ):
        with pytest.raises(StorageError, match=rf"through a link to {home}.*outside {root}:"):
            use()
    write_bytes(store, "file", b"theirs")  # replaces the link
    assert sorted(path.name for path in home.iterdir()) == ["kept", "manifest.json"]
    assert (home / "kept").read_text() == "mine"
    (root / "inner").mkdir()
    (root / "alias").symlink_to(root / "inner")
    write_bytes(store, "alias/a", b"1")
    clear(store, "alias")
    assert store.keys("") == ["file"]


def test_a_store_may_itself_be_reached_by_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    store = LocalStore(tmp_path / "run")
    write_bytes(store, "a/b", b"1")
    clear(store, "a")
    assert store.keys("") == []


def test_an_earlier_job_left_a_link(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "junit.xml").write_text("mine")
    (tmp_path / "report").symlink_to(tmp_path / "home")
    fetch_results.clear(tmp_path)
    assert (tmp_path / "home" / "junit.xml").read_text() == "mine"
    assert not (tmp_path / "report").exists()


def test_what_the_file_system_refuses_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir()
    (folder / "file").write_text("x")
    folder.chmod(0)
    store = LocalStore(tmp_path)
    try:
        with unprivileged():
            for use in (store.size, store.version, store.read, store.exists, store.delete):
                with pytest.raises(StorageError, match="closed/file: Permission denied"):
                    use("closed/file")
            with pytest.raises(StorageError, match=r"listing .*: Permission denied"):
                store.keys("")
    finally:
        folder.chmod(0o700)
    for use in (store.size, store.version, store.read):
        with pytest.raises(MissingKeyError):
            use("closed/file/below")
    assert not store.exists("closed/file/below")
    store.delete("closed/file/below")
