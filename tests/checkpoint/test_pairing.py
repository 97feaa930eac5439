from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from svdjobs.config import SweepConfig
from svdjobs.errors import CheckpointError
from svdjobs.stages import plan
from svdjobs.storage.local import LocalStore
from tests.checkpoints import make_checkpoint, tensors

MakeConfig = Callable[..., SweepConfig]


def test_a_checkpoint_and_its_copy_are_no_pair(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(chain["rl2"], tmp_path / "copy")
    config = make_config(before=str(tmp_path / "copy"), rotations=None)
    with pytest.raises(CheckpointError, match=r"same values in all 14 matrices.*nothing to blend"):
        plan.run(config, LocalStore(config.store_url))


def test_one_value_that_differs_is_enough(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(chain["rl2"], tmp_path / "copy")
    content = tensors(tmp_path / "copy")
    content["model.layers.1.mlp.down_proj.weight"][-1, -1] += 0.5
    save_file(content, tmp_path / "copy" / "model.safetensors")
    config = make_config(before=str(tmp_path / "copy"), rotations=None)
    assert plan.run(config, LocalStore(config.store_url)).selected


def test_a_square_matrix_saved_in_the_other_orientation(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    before = make_checkpoint(tmp_path / "before", hidden_size=64)
    after = make_checkpoint(tmp_path / "after", hidden_size=64, updates=1)
    content = tensors(before)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert content[name].shape[0] == content[name].shape[1]
    content[name] = content[name].T.contiguous()
    save_file(content, before / "model.safetensors")
    config = make_config(before=str(before), after=str(after), rotations=None)
    with pytest.raises(CheckpointError, match=r"layers\.0\.self_attn\.q_proj.*transposed"):
        plan.run(config, LocalStore(config.store_url))
