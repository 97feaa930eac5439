"""Objects as files: an object that differs from its manifest never reaches a library."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from svdjobs.checkpoint.identity import companions_digest, identity
from svdjobs.checkpoint.on_disk import on_disk
from svdjobs.checkpoint.sources import open_checkpoint, open_headers
from svdjobs.config import BenchmarkConfig
from svdjobs.demo import CHECKPOINTS
from svdjobs.errors import BenchmarkError, CheckpointError, MissingKeyError, StorageError
from svdjobs.evaluation.benchmarks.load import load_benchmark
from svdjobs.records import FileRecord, Manifest
from svdjobs.storage.as_files import local_folder, read_checked
from svdjobs.storage.dev_server import BUCKET, S3Server
from svdjobs.storage.local import LocalStore
from svdjobs.storage.memory import MemoryStore
from svdjobs.storage.objects import write_bytes, write_json
from svdjobs.storage.s3.store import S3Store
from svdjobs.storage.store import Store
from tests.storage.proxy import harming

DATA = random.Random(2).randbytes((33 << 20) + 5)  # three pieces


def upload(folder: Path, store: Store) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            write_bytes(store, str(path.relative_to(folder)), path.read_bytes())


def commit(store: Store, below: str, records: list[FileRecord]) -> None:
    manifest = Manifest(
        stage="blend", fingerprint="f", inputs={}, config={}, files=records, provenance={}
    )
    write_json(store, f"{below}/manifest.json", manifest.model_dump(mode="json"))


@pytest.fixture(params=["memory", "s3"])
def remote(request: pytest.FixtureRequest) -> Store:
    if request.param == "memory":
        return MemoryStore()
    return S3Store(BUCKET, request.getfixturevalue("s3_prefix"))


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def test_files_are_the_objects_and_go_again(remote: Store, scratch: Path) -> None:
    records = [write_bytes(remote, "c/a/large.bin", DATA), write_bytes(remote, "c/empty", b"")]
    commit(remote, "c", [r.model_copy(update={"key": r.key[2:]}) for r in records])
    with local_folder(remote, ["a/large.bin", "empty"], below="c") as folder:
        assert folder.parent == scratch
        assert (folder / "a" / "large.bin").read_bytes() == DATA
        assert (folder / "empty").read_bytes() == b""
    assert list(scratch.iterdir()) == []


def test_a_folder_is_itself(tmp_path: Path) -> None:
    with local_folder(LocalStore(tmp_path), ["x"], below="c") as folder:
        assert folder == tmp_path / "c"


@pytest.mark.parametrize("damage", [DATA[:-1], DATA[:-1] + b"?"])
def test_what_the_manifest_does_not_list_is_refused(
    remote: Store, scratch: Path, damage: bytes
) -> None:
    record = write_bytes(remote, "c/x", DATA).model_copy(update={"key": "x"})
    commit(remote, "c", [record])
    write_bytes(remote, "c/x", damage)
    wrong = hashlib.sha256(damage).hexdigest()
    words = f"{remote.url}/c/x is not what its manifest lists.*{wrong}.*{record.sha256}"
    with pytest.raises(StorageError, match=words), local_folder(remote, ["x"], below="c"):
        pass
    with pytest.raises(StorageError, match=words):
        read_checked(remote, "c/x", record)
    assert list(scratch.iterdir()) == []
    write_bytes(remote, "c/x", DATA)
    assert read_checked(remote, "c/x", record) == DATA


def test_too_little_disk_is_said_before_anything_is_downloaded(
    remote: Store, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes(remote, "x", DATA)
    usage = shutil.disk_usage(scratch)._replace(free=90 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StorageError, match=r"TMPDIR"), local_folder(remote, ["x"]):
        pass


def test_missing_object_is_named(remote: Store) -> None:
    with pytest.raises(MissingKeyError, match="absent"), local_folder(remote, ["absent"]):
        pass


def test_checkpoint_in_a_bucket_is_the_one_in_the_folder(
    s3_prefix: str, chain: dict[str, Path], tmp_path: Path
) -> None:
    here = open_checkpoint(str(chain["rl2"]))
    upload(chain["rl2"], S3Store(BUCKET, f"{s3_prefix}/models/rl2"))
    url = f"s3://{BUCKET}/{s3_prefix}/models/rl2"
    there = open_checkpoint(url)
    assert open_headers(url).entries == there.entries == here.entries
    for name in here.entries:
        assert torch.equal(here.read(name), there.read(name))
    cache = MemoryStore()
    assert identity(there, cache, "ids") == identity(here, cache, "ids")
    assert companions_digest(there) == companions_digest(here)
    known = json.loads(cache.read("ids"))
    assert all(there.store.version(name) in "".join(known) for name in there.weight_files())
    with on_disk(there) as folder:
        copied = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert copied == {
        path.name: path.read_bytes() for path in chain["rl2"].iterdir() if path.name in copied
    }
    assert {"config.json", *here.companions(), *here.weight_files()} == set(copied)
    with on_disk(there, weights=False) as folder:
        assert not list(folder.glob("*.safetensors"))
    with on_disk(here) as folder:
        assert folder == chain["rl2"]


def test_one_tensor_costs_its_own_bytes(
    s3_prefix: str, chain: dict[str, Path], s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(chain["base"], S3Store(BUCKET, s3_prefix))
    with harming(s3_server.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        opened = open_checkpoint(f"s3://{BUCKET}/{s3_prefix}")
        before = proxy.traffic.bytes_down
        assert before < 20_000 + sum(opened.store.size(n) for n in ("config.json",))
        smallest = min(opened.entries.values(), key=lambda entry: entry.bytes)
        opened.read(smallest.name)
        assert proxy.traffic.bytes_down - before == smallest.bytes


def test_pickles_in_a_bucket(s3_prefix: str, chain: dict[str, Path]) -> None:
    store = S3Store(BUCKET, f"{s3_prefix}/pickled")
    here = open_checkpoint(str(chain["base"]))
    weights = {name: here.read(name) for name in here.entries}
    with tempfile.NamedTemporaryFile() as file:
        torch.save(weights, file.name)
        write_bytes(store, "pytorch_model.bin", Path(file.name).read_bytes())
    write_bytes(store, "config.json", (chain["base"] / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        open_checkpoint(store.url)
    opened = open_checkpoint(store.url, allow_pickle=True)
    assert all(torch.equal(opened.read(name), weights[name]) for name in weights)


def test_no_checkpoint_in_a_bucket(s3_prefix: str) -> None:
    with pytest.raises(CheckpointError, match=f"no config.json in s3://{BUCKET}/{s3_prefix}/none"):
        open_checkpoint(f"s3://{BUCKET}/{s3_prefix}/none")


def test_shipped_checkpoints_have_names() -> None:
    for name, folder in CHECKPOINTS.items():
        opened = open_checkpoint(f"demo:{name}")
        assert opened.store.url == str(folder)
        assert opened.label == f"demo:{name}"
    with pytest.raises(CheckpointError, match="demo:base, demo:rl1, demo:rl2"):
        open_headers("demo:rl3")


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_benchmark_in_a_bucket(s3_prefix: str, suffix: str, tmp_path: Path) -> None:
    rows = [{"problem": f"{n} + 1?", "answer": str(n + 1)} for n in range(3)]
    path = tmp_path / f"own{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    store = S3Store(BUCKET, f"{s3_prefix}/data")
    write_bytes(store, path.name, path.read_bytes())
    there = load_benchmark(BenchmarkConfig(name="own", data=f"{store.url}/{path.name}"))
    assert there == load_benchmark(BenchmarkConfig(name="own", data=str(path)))
    with pytest.raises(BenchmarkError, match=f"{store.url}/none{suffix}: no such file"):
        load_benchmark(BenchmarkConfig(name="own", data=f"{store.url}/none{suffix}"))
