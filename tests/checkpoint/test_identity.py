"""Other bytes are another checkpoint, whatever the file system says."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from svdjobs.checkpoint.identity import identity
from svdjobs.checkpoint.reader import read_checkpoint
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.cli.options import Given
from svdjobs.runs import layout
from svdjobs.storage.local import LocalStore
from svdjobs.storage.memory import MemoryStore


@pytest.fixture
def folder(chain: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(chain["base"], tmp_path / "copy"))


def named(folder: Path, cache: MemoryStore) -> str:
    return identity(open_checkpoint(str(folder)), cache, "ids")


def test_other_weights_with_the_same_size_and_time(chain: dict[str, Path], folder: Path) -> None:
    """`cp -p`, `rsync -t` and a reproducible image leave files like this."""
    weights, cache = folder / "model.safetensors", MemoryStore()
    before, times = named(folder, cache), weights.stat()
    shutil.copyfile(chain["rl2"] / weights.name, weights)
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (weights.stat().st_size, weights.stat().st_mtime_ns) == (
        times.st_size,
        times.st_mtime_ns,
    )
    assert named(folder, cache) != before


class Frozen(LocalStore):
    """A file system that copies every timestamp and inode number."""

    def version(self, key: str) -> str:
        return "same"


def test_other_weights_of_which_the_file_system_knows_nothing(
    chain: dict[str, Path], folder: Path
) -> None:
    cache = MemoryStore()
    before = identity(read_checkpoint(Frozen(folder), "x"), cache, "ids")
    shutil.copyfile(chain["rl2"] / "model.safetensors", folder / "model.safetensors")
    assert identity(read_checkpoint(Frozen(folder), "x"), cache, "ids") != before


def test_the_same_bytes_are_hashed_once(folder: Path) -> None:
    cache = MemoryStore()
    first = named(folder, cache)
    known = json.loads(cache.read("ids"))
    poisoned = dict.fromkeys(known, "0" * 64)
    with cache.sink("ids") as sink:
        sink.write(json.dumps(poisoned).encode())
    assert named(folder, cache) != first


def test_rehash_forgets_what_was_known(
    chain: dict[str, Path], folder: Path, tmp_path: Path
) -> None:
    config = tmp_path / "sweep.yaml"
    config.write_text(f"name: x\nbefore: {folder}\nafter: {chain['rl2']}\nstore: {tmp_path}/run\n")
    store = LocalStore(tmp_path / "run")
    right = identity(open_checkpoint(str(folder)), store, layout.IDENTITIES)
    known = json.loads(store.read(layout.IDENTITIES))
    wrong = json.dumps(dict.fromkeys(known, "0" * 64))
    store.path(layout.IDENTITIES).write_text(wrong)
    Given(str(config), (), "", False).opened()
    assert identity(open_checkpoint(str(folder)), store, layout.IDENTITIES) != right
    Given(str(config), (), "", False, rehash=True).opened()
    assert identity(open_checkpoint(str(folder)), store, layout.IDENTITIES) == right
