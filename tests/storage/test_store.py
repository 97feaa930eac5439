from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from svdjobs.errors import ConfigError, MissingKeyError, StorageError
from svdjobs.storage.local import LocalStore
from svdjobs.storage.memory import MemoryStore
from svdjobs.storage.s3 import S3Store
from svdjobs.storage.store import Store, clear, open_store, read_json, write_bytes


class StoreConformance:
    """What every store must do; a backend subclasses this and provides `store`."""

    def test_what_is_written_is_read(self, store: Store) -> None:
        record = write_bytes(store, "a/b.bin", b"0123456789")
        assert (record.key, record.bytes) == ("a/b.bin", 10)
        assert record.sha256 == "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
        assert store.read("a/b.bin") == b"0123456789"
        assert store.read("a/b.bin", 2, 5) == b"234"
        assert store.read("a/b.bin", 7) == b"789"
        assert store.size("a/b.bin") == 10

    def test_empty_object(self, store: Store) -> None:
        assert write_bytes(store, "empty", b"").bytes == 0
        assert store.exists("empty")
        assert store.read("empty") == b""

    def test_pieces_are_joined(self, store: Store) -> None:
        with store.sink("joined") as sink:
            sink.write(b"one ")
            sink.write(memoryview(b"two"))
        assert store.read("joined") == b"one two"

    def test_nothing_appears_before_the_end(self, store: Store) -> None:
        with store.sink("late") as sink:
            sink.write(b"x")
            assert not store.exists("late")
            assert store.keys("") == []
        assert store.keys("") == ["late"]

    def test_failed_write_leaves_nothing(self, store: Store) -> None:
        with pytest.raises(RuntimeError, match="stop"), store.sink("half") as sink:
            sink.write(b"x")
            raise RuntimeError("stop")
        assert not store.exists("half")

    def test_failed_rewrite_keeps_the_old_object(self, store: Store) -> None:
        write_bytes(store, "kept", b"old")
        with pytest.raises(RuntimeError), store.sink("kept") as sink:
            sink.write(b"new")
            raise RuntimeError
        assert store.read("kept") == b"old"

    def test_missing_key_is_named(self, store: Store) -> None:
        with pytest.raises(MissingKeyError, match="no/such"):
            store.read("no/such")
        with pytest.raises(MissingKeyError, match="no/such"):
            store.size("no/such")
        with pytest.raises(FileNotFoundError):
            store.read("no/such")
        store.delete("no/such")

    def test_range_past_the_end_is_an_error(self, store: Store) -> None:
        write_bytes(store, "short", b"123")
        with pytest.raises(StorageError, match="short"):
            store.read("short", 0, 10)

    def test_keys_are_sorted_and_below_the_prefix(self, store: Store) -> None:
        for key in ("b/2", "b/1", "a", "b/c/3"):
            write_bytes(store, key, b"")
        assert store.keys("b") == ["b/1", "b/2", "b/c/3"]
        assert store.keys("nothing") == []

    def test_clear_removes_a_prefix(self, store: Store) -> None:
        for key in ("x/1", "x/manifest.json", "y"):
            write_bytes(store, key, b"")
        clear(store, "x")
        assert store.keys("") == ["y"]

    def test_broken_json_names_the_object(self, store: Store) -> None:
        write_bytes(store, "bad.json", b"{")
        with pytest.raises(StorageError, match=r"bad\.json is not valid JSON"):
            read_json(store, "bad.json")


class TestLocalStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path)

    def test_leftovers_of_dead_processes_are_removed(self, tmp_path: Path) -> None:
        child = subprocess.Popen(["true"])
        child.wait()
        orphan = tmp_path / f".file.{child.pid}.partial"
        alive = tmp_path / f".file.{os.getppid()}.partial"
        orphan.write_bytes(b"x")
        alive.write_bytes(b"x")
        write_bytes(LocalStore(tmp_path), "file", b"whole")
        assert not orphan.exists()
        assert alive.exists()
        assert LocalStore(tmp_path).keys("") == ["file"]


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestS3Store(StoreConformance):
    @pytest.fixture
    def store(self, bucket: str) -> S3Store:
        return S3Store(bucket, "some/run")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk_says_so_and_leaves_nothing(tiny_disk: Path) -> None:
    store = LocalStore(tiny_disk)
    write_bytes(store, "first", b"x" * 1000)
    with pytest.raises(StorageError, match=r"no space left.*run the same command again"):
        write_bytes(store, "second", b"x" * (2 << 20))
    assert [path.name for path in tiny_disk.iterdir()] == ["first"]


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="no backend for gopher://"):
        open_store("gopher://x")
