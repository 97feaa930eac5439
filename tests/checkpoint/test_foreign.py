"""For a folder that is not a Hugging Face checkpoint, the error says what it is and what to do."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch

from svdjobs.checkpoint.foreign import what_it_is
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.errors import CheckpointError
from svdjobs.storage.local import LocalStore
from tests.checkpoints import tensors


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("actor/model_world_size_8_rank_0.pt", r"verl.*--local_dir \S+/actor --target_dir"),
        ("global_step_100/actor/model_world_size_8_rank_0.pt", r"verl.*global_step_100/actor"),
        ("pytorch_model_fsdp_0/__0_0.distcp", r"runs code.*dcp_to_torch \S+/pytorch_model_fsdp_0 "),
        ("dcp/.metadata", "torch.distributed.checkpoint"),
        ("global_step_5/zero_pp_rank_0_mp_rank_00_model_states.pt", "DeepSpeed.*zero_to_fp32.py"),
        ("mp_rank_00_model_states.pt", "DeepSpeed"),
        ("iter_0000100/mp_rank_00/model_optim_rng.pt", "Megatron.*export_ckpt"),
        ("iter_0000100/common.pt", "Megatron"),
        ("checkpoint-500/model.safetensors", "folder for each step.*give the folder of one step"),
        ("global_step_40/data.txt", "folder for each step"),
        ("model-Q4_K_M.gguf", r"GGUF file.*model-Q4_K_M\.gguf.*gguf_file="),
        ("consolidated.00.pth", "pickled by torch.save"),
        ("optimizer.pt", "beside the weights, but no weights"),
        ("rng_state_0.pth", "beside the weights"),
        ("tf_model.h5", "another framework.*transformers 4"),
        ("flax_model.msgpack", "another framework"),
        ("diffusion_pytorch_model.safetensors", "under other names"),
        ("adapter_model.safetensors", r"LoRA adapter without its adapter_config\.json"),
    ],
)
def test_a_folder_is_called_what_it_is(file: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"no config\.json.*{words}.*"):
        open_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    if file != "dcp/.metadata":
        with pytest.raises(CheckpointError, match=words):
            open_checkpoint(str(tmp_path))


def test_a_single_file_is_called_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"is a file; expected the folder.*GGUF"):
        open_checkpoint(str(tmp_path / "model.gguf"))


def test_someones_home_is_not_searched_to_its_last_file(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b" / "c" / "d"
    deep.mkdir(parents=True)
    (deep / "model.gguf").write_bytes(b"")
    assert what_it_is(LocalStore(tmp_path)) == ""
    assert "GGUF" in what_it_is(LocalStore(tmp_path / "a"))


def test_a_distributed_checkpoint_is_readable_after_the_command_that_is_named(
    chain: dict[str, Path], tmp_path: Path
) -> None:
    import torch.distributed.checkpoint as distributed
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    expected = tensors(chain["base"])
    with warnings.catch_warnings():  # of a single process
        warnings.simplefilter("ignore")
        distributed.save({"model": expected}, checkpoint_id=tmp_path / "dcp")  # type: ignore[attr-defined]
    with pytest.raises(
        CheckpointError, match=r"format_utils dcp_to_torch \S+ FOLDER/pytorch_model"
    ):
        open_checkpoint(str(tmp_path / "dcp"))
    folder = tmp_path / "made"
    folder.mkdir()
    dcp_to_torch_save(tmp_path / "dcp", folder / "pytorch_model.bin")  # that command's function
    shutil.copy(chain["base"] / "config.json", folder)
    opened = open_checkpoint(str(folder), allow_pickle=True)
    assert opened.entries.keys() == expected.keys()
    assert all(torch.equal(opened.read(name), tensor) for name, tensor in expected.items())
