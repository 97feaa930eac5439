from __future__ import annotations

import errno
import hashlib
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from svdjobs.errors import ConfigError, MissingKeyError, StorageError
from svdjobs.storage.dev_server import BUCKET, S3Server
from svdjobs.storage.journal import appending
from svdjobs.storage.local import LocalStore
from svdjobs.storage.memory import MemoryStore
from svdjobs.storage.objects import clear, read_json, write_bytes
from svdjobs.storage.open import open_store
from svdjobs.storage.overlay import Overlay
from svdjobs.storage.s3.store import S3Store
from svdjobs.storage.store import Store
from tests.storage.s3_server import open_uploads
from tests.waiting import until


class StoreConformance:
    """Tests for every store; a backend subclasses this and provides `store`."""

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

    def test_a_listing_does_not_look_into_folders(self, store: Store) -> None:
        started = datetime.now(UTC) - timedelta(seconds=2)  # S3 counts whole seconds
        for key in ("run/plan/manifest.json", "run/plan/deep/er", "run/a.json", "runs"):
            write_bytes(store, key, key.encode())
        found = store.listing("run")
        assert (found.folders, list(found.files)) == (["plan"], ["a.json"])
        assert found.files["a.json"].bytes == 10
        assert started <= found.files["a.json"].at <= datetime.now(UTC) + timedelta(seconds=2)
        assert store.listing("run/") == found
        assert store.listing("run/plan").folders == ["deep"]
        assert (store.listing("").folders, list(store.listing("").files)) == (["run"], ["runs"])
        for nothing in ("no/such", "run/a.json"):
            assert store.listing(nothing) == ([], {})

    def test_awkward_keys(self, store: Store) -> None:
        keys = ["a b/c d", "ü/日本", "x+y&z=%20?#'(1)", "svd_logs/alpha_0.2/model__w.pt"]
        for key in keys:
            write_bytes(store, key, key.encode())
        assert store.keys("") == sorted(keys)
        assert [bytes(store.read(key)).decode() for key in keys] == keys
        for key in keys:
            store.delete(key)
        assert store.keys("") == []

    def test_more_keys_than_a_page_holds(self, store: Store) -> None:
        keys = [f"many/{number:04d}" for number in range(1050)]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda key: write_bytes(store, key, b""), keys))
        assert store.keys("many/") == keys
        assert list(store.listing("many").files) == [key.removeprefix("many/") for key in keys]
        clear(store, "many")
        assert store.keys("") == []

    def test_overwriting(self, store: Store) -> None:
        write_bytes(store, "twice", b"first, and longer")
        write_bytes(store, "twice", b"second")
        assert store.read("twice") == b"second"
        assert store.keys("") == ["twice"]

    def test_versions(self, store: Store) -> None:
        write_bytes(store, "a", b"one")
        first = store.version("a")
        assert store.version("a") == first
        write_bytes(store, "a", b"another")
        assert store.version("a") != first
        with pytest.raises(MissingKeyError, match="nothing"):
            store.version("nothing")

    def test_put_new_writes_once(self, store: Store) -> None:
        assert store.put_new("deep/er/new", b"first")
        assert not store.put_new("deep/er/new", b"second")
        assert store.read("deep/er/new") == b"first"
        assert store.keys("") == ["deep/er/new"]
        store.delete("deep/er/new")
        assert store.put_new("deep/er/new", b"")

    def test_put_new_has_one_winner(self, store: Store) -> None:
        start = threading.Barrier(16)

        def put(number: int) -> bool:
            start.wait()
            return store.put_new("raced", str(number).encode())

        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(put, range(16)))
        assert won.count(True) == 1
        assert store.read("raced") == str(won.index(True)).encode()
        assert store.keys("") == ["raced"]

    def test_journal_keeps_lines(self, store: Store) -> None:
        with store.journal("p/x.journal") as journal:
            assert journal.lines == []
            journal.append("first")
            journal.append("zweite ü \u2028")
        with pytest.raises(RuntimeError), store.journal("p/x.journal") as journal:
            assert journal.lines == ["first", "zweite ü \u2028"]
            journal.append("third")
            raise RuntimeError
        with store.journal("p/x.journal") as journal:
            assert journal.lines == ["first", "zweite ü \u2028", "third"]

    def test_journal_goes_with_its_key(self, store: Store) -> None:
        for number in range(2):
            with store.journal("p/x.journal") as journal:
                journal.append(str(number))
        write_bytes(store, "p/x", b"other")
        assert all(key.startswith("p/x") for key in store.keys("p"))
        store.delete("p/x.journal")
        assert store.keys("") == ["p/x"]
        with store.journal("p/x.journal") as journal:
            assert journal.lines == []
            journal.append("again")
        clear(store, "p")
        assert store.keys("") == []

    def test_range_edges(self, store: Store) -> None:
        write_bytes(store, "ten", b"0123456789")
        assert store.read("ten", 10) == b""
        assert store.read("ten", 3, 3) == b""
        assert store.read("ten", 9, 10) == b"9"
        store.read("ten", 0, 2)[0] = 1  # the buffer may be changed
        with pytest.raises(StorageError, match="ten"):
            store.read("ten", 12, 14)

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

    def test_torn_line_is_cut_off(self, tmp_path: Path) -> None:
        (tmp_path / "x.journal").write_bytes(b"whole\ntor")
        with LocalStore(tmp_path).journal("x.journal") as journal:
            assert journal.lines == ["whole"]
            journal.append("next")
        assert (tmp_path / "x.journal").read_bytes() == b"whole\nnext\n"

    def test_a_journal_has_one_writer(self, tmp_path: Path) -> None:
        store = LocalStore(tmp_path)
        with (
            store.journal("x.journal"),
            pytest.raises(StorageError, match="by another process"),
            store.journal("x.journal"),
        ):
            pass

    def test_blobs_of_a_hub_cache_have_one_version_everywhere(self, tmp_path: Path) -> None:
        versions: set[str] = set()
        for machine in ("a", "b"):
            blob = tmp_path / machine / "blobs" / ("0123456789abcdef" * 4)
            snapshot = tmp_path / machine / "snapshots" / "main"
            blob.parent.mkdir(parents=True)
            snapshot.mkdir(parents=True)
            blob.write_bytes(b"weights")
            os.utime(blob, ns=(0, len(versions)))
            (snapshot / "model.safetensors").symlink_to(blob)
            versions.add(LocalStore(snapshot).version("model.safetensors"))
        assert versions == {f"blob:{'0123456789abcdef' * 4}:7"}


class SeveralWriters:
    """Tests for stores in which several writers can write one journal at once."""

    def test_journal_of_several_writers(self, store: Store) -> None:
        with store.journal("j") as one, store.journal("j") as two:
            for number in range(3):
                one.append(f"one {number}")
                two.append(f"two {number}")
        with store.journal("j") as merged:
            assert sorted(merged.lines) == [f"{w} {n}" for w in ("one", "two") for n in range(3)]


class TestMemoryStore(SeveralWriters, StoreConformance):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestOverlay(SeveralWriters, StoreConformance):
    """Over a store that holds other objects, none of which it changes."""

    @pytest.fixture
    def store(self) -> Iterator[Store]:
        below = MemoryStore()
        with below.sink("below/kept") as sink:
            sink.write(b"kept")
        before = below.sizes("")
        overlay = Overlay(below)
        overlay.delete("below/kept")
        yield overlay
        assert below.sizes("") == before

    def test_what_is_below_is_read_until_it_is_written_or_deleted(self) -> None:
        below = MemoryStore()
        for key in ("a/one", "a/two"):
            with below.sink(key) as sink:
                sink.write(key.encode())
        overlay = Overlay(below)
        version = overlay.version("a/one")
        assert bytes(overlay.read("a/one")) == b"a/one"
        assert not overlay.put_new("a/one", b"new")
        with overlay.sink("a/one") as sink:
            sink.write(b"new")
        assert bytes(overlay.read("a/one")) == b"new"
        assert overlay.version("a/one") != version
        overlay.delete("a/two")
        assert overlay.keys("") == ["a/one"]
        assert list(overlay.listing("a").files) == ["one"]
        with pytest.raises(MissingKeyError):
            overlay.read("a/two")
        assert bytes(below.read("a/one")) == b"a/one"
        assert below.keys("") == ["a/one", "a/two"]

    def test_a_journal_goes_on_from_the_lines_below(self) -> None:
        below = MemoryStore()
        below.append("j", b"one\n")
        overlay = Overlay(below)
        with overlay.journal("j") as journal:
            assert journal.lines == ["one"]
            journal.append("two")
        assert bytes(overlay.read("j")) == b"one\ntwo\n"
        assert bytes(below.read("j")) == b"one\n"


class TestS3Store(SeveralWriters, StoreConformance):
    @pytest.fixture
    def store(self, s3_prefix: str) -> S3Store:
        return S3Store(BUCKET, f"{s3_prefix}/run", part_bytes=5 << 20)

    def test_neighbours_of_the_prefix_are_not_ours(self, store: S3Store) -> None:
        above = S3Store(store.bucket, f"/{store.prefix.removesuffix('run')}")
        write_bytes(S3Store(store.bucket, f"{store.prefix}2"), "a", b"")
        write_bytes(above, "b", b"")
        assert store.keys("") == []
        assert above.keys("") == ["b", "run2/a"]

    def test_large_object_goes_in_parts(self, store: S3Store, s3_environment: S3Server) -> None:
        data = random.Random(0).randbytes((23 << 20) + 1)
        with store.sink("large") as sink:
            for start in range(0, len(data), 1_000_003):
                sink.write(memoryview(data)[start:][:1_000_003])
            record = sink.record("large")
        assert (record.bytes, record.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert store.read("large") == data  # over several ranges
        assert store.read("large", 5_000_000, 22_222_222) == data[5_000_000:22_222_222]
        assert store.version("large").endswith(f"-5:{len(data)}")  # five parts
        assert open_uploads(s3_environment, store) == []

    def test_lines_of_a_killed_writer_are_kept_from_the_last_sending(self, store: S3Store) -> None:
        with appending(store, "j", flush_seconds=0.05) as journal:
            journal.append("sent")
            until(lambda: store.keys("j"), 20, "the journal has been sent", pause=0.02)
            with store.journal("j") as other:
                assert other.lines == ["sent"]


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


@pytest.mark.parametrize("url", ["s3://KEY:SECRET@bucket/p", "s3://host:9000/bucket"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="holds no credentials or port") as caught:
        open_store(url)
    assert "SECRET" not in str(caught.value)


def test_file_systems_without_links_work_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    store = LocalStore(tmp_path)
    assert store.put_new("a/manifest.json", b"one")
    assert not store.put_new("a/manifest.json", b"two")
    assert store.read("a/manifest.json") == b"one"
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["manifest.json"]


def test_unknown_scheme_is_refused() -> None:
    with pytest.raises(ConfigError, match="no backend for gopher://"):
        open_store("gopher://x")
