"""Tensors that are computed when read behave like tensors that lie in a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from svdjobs.checkpoint.identity import identity
from svdjobs.checkpoint.on_disk import on_disk
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.errors import TensorError
from svdjobs.storage.memory import MemoryStore

NAME = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture
def opened(chain: dict[str, Path]) -> Checkpoint:
    return open_checkpoint(str(chain["base"]))


def doubled(opened: Checkpoint) -> Checkpoint:
    return replace(opened, derived={NAME: lambda: 2 * opened.array(NAME)})


def test_read_and_chunks_give_what_is_computed(opened: Checkpoint) -> None:
    expected = 2 * opened.read(NAME)
    assert torch.equal(doubled(opened).read(NAME), expected)
    pieces = list(doubled(opened).chunks(NAME, elements=1000))
    assert max(len(piece) for piece in pieces) == 1000
    assert torch.equal(torch.cat(pieces), expected.reshape(-1))
    assert doubled(opened).weight_files() == opened.weight_files()


def test_what_is_computed_must_be_finite(opened: Checkpoint) -> None:
    broken = replace(opened, derived={NAME: lambda: opened.array(NAME) * np.float32("nan")})
    with pytest.raises(TensorError, match="must be finite"):
        broken.read(NAME)


def test_an_engine_is_given_what_is_computed(opened: Checkpoint, chain: dict[str, Path]) -> None:
    with on_disk(doubled(opened)) as folder:
        assert folder != chain["base"]
        again = open_checkpoint(str(folder))
        assert again.companions() == opened.companions()
        for name in opened.entries:
            assert torch.equal(again.read(name), doubled(opened).read(name))
    assert not folder.exists()


def test_identity_is_that_of_other_files_too(opened: Checkpoint, chain: dict[str, Path]) -> None:
    cache = MemoryStore()
    base, other = (open_checkpoint(str(chain[name])).store for name in ("base", "rl2"))
    found = [
        identity(replace(opened, also=also), cache, "ids")
        for also in ((), ((base, ("model.safetensors",)),), ((other, ("model.safetensors",)),))
    ]
    assert len(set(found)) == 3
