from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from svdjobs.checkpoint.on_disk import on_disk
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.errors import CheckpointError, StorageError, TensorError
from tests.checkpoints import make_checkpoint, make_model, tensors


def test_single_file(chain: dict[str, Path]) -> None:
    opened = open_checkpoint(str(chain["base"]))
    expected = tensors(chain["base"])
    assert opened.architecture == "Qwen2ForCausalLM"
    assert opened.tied
    assert opened.entries.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(opened.read(name), tensor)


def test_sharded_checkpoint_reads_the_same(chain: dict[str, Path], tmp_path: Path) -> None:
    sharded = make_checkpoint(tmp_path / "sharded", max_shard_size="40KB")
    opened = open_checkpoint(str(sharded))
    assert len(opened.weight_files()) > 2
    for name, tensor in tensors(chain["base"]).items():
        assert torch.equal(opened.read(name), tensor)


def test_every_missing_shard_is_named(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "sharded", max_shard_size="40KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    for shard in shards[:2]:
        shard.unlink()
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(folder))
    assert all(shard.name in str(caught.value) for shard in shards[:2])
    assert shards[2].name not in str(caught.value)


def test_index_may_not_point_outside(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "sharded", max_shard_size="40KB")
    index = folder / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    name = next(iter(document["weight_map"]))
    document["weight_map"][name] = "../secret.safetensors"
    index.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"outside the folder"):
        open_checkpoint(str(folder))


def test_index_naming_a_tensor_nobody_holds(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "sharded", max_shard_size="40KB")
    index = folder / "model.safetensors.index.json"
    document = json.loads(index.read_text())
    document["weight_map"]["ghost.weight"] = next(iter(document["weight_map"].values()))
    index.write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"1 tensors that the file.*hold: ghost\.weight"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(chain: dict[str, Path], tmp_path: Path, value: float) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(chain["base"], folder)
    content = tensors(folder)
    name = "model.layers.1.mlp.up_proj.weight"
    content[name][3, 4] = value
    save_file(content, folder / "model.safetensors")
    opened = open_checkpoint(str(folder))
    with pytest.raises(TensorError, match=r"layers\.1\.mlp\.up_proj.*1 NaN|0 NaN and 1 infinite"):
        opened.read(name)
    with pytest.raises(TensorError, match="must be finite"):
        list(opened.chunks(name, elements=100))


def test_file_cut_after_the_header_was_read(chain: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "shrinking"
    shutil.copytree(chain["base"], folder)
    opened = open_checkpoint(str(folder))
    weights = folder / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    with pytest.raises(TensorError, match="the requested range"):
        for name in opened.entries:
            opened.read(name)


def test_folder_without_config(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_checkpoint(str(tmp_path))


def test_config_that_is_not_json(chain: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        open_checkpoint(str(tmp_path))


def test_folder_without_weights(chain: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(chain["base"] / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        open_checkpoint(str(tmp_path))


@pytest.fixture
def pickled(chain: dict[str, Path], tmp_path: Path) -> Path:
    folder = tmp_path / "pickled"
    shutil.copytree(chain["base"], folder)
    (folder / "model.safetensors").unlink()
    torch.save(make_model().state_dict(), folder / "pytorch_model.bin")
    return folder


def test_pickle_is_refused_unless_allowed(pickled: Path) -> None:
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*--allow-pickle"):
        open_checkpoint(str(pickled))


def test_allowed_pickle_reads_the_same(pickled: Path, chain: dict[str, Path]) -> None:
    opened = open_checkpoint(str(pickled), allow_pickle=True)
    for name, tensor in tensors(chain["base"]).items():
        assert torch.equal(opened.read(name), tensor)


class Payload:
    """Creates a file if it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (self.target,))  # type: ignore[return-value]


def test_pickle_never_runs_code(pickled: Path, tmp_path: Path) -> None:
    torch.save({"x": Payload(tmp_path / "pwned")}, pickled / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="cannot be read as plain tensors"):
        open_checkpoint(str(pickled), allow_pickle=True)
    assert not (tmp_path / "pwned").exists()


@pytest.fixture
def hub_cache(chain: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An offline hub cache that holds one revision of `someone/small`."""
    commit = "0" * 40
    repository = tmp_path / "hub" / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    for ref in ("main", "v1"):
        (repository / "refs" / ref).write_text(commit)
    shutil.copytree(chain["base"], repository / "snapshots" / commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("source", ["someone/small", "someone/small@v1"])
def test_hub_id_comes_from_the_offline_cache(source: str, chain: dict[str, Path]) -> None:
    opened = open_checkpoint(source)
    assert opened.label == source
    assert opened.entries.keys() == tensors(chain["base"]).keys()


@pytest.mark.usefixtures("hub_cache")
def test_hub_that_cannot_be_reached_says_what_to_do() -> None:
    with pytest.raises(StorageError, match=r"someone/other.*hub could not be reached.*folder"):
        open_checkpoint("someone/other")


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "a/b/c"])
def test_neither_folder_nor_hub_id(source: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder, and not a hub id"):
        open_checkpoint(source)


@pytest.mark.parametrize("source", ["./" + "x" * 300, "~nobody-of-that-name/x", "a\0b"])
def test_names_that_no_folder_can_have(source: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        open_checkpoint(source)


def two_files(folder: Path, index: dict[str, str] | None) -> Path:
    """Make a checkpoint of two numbered files that both hold `shared`: as zeros and as ones."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    for number, name in ((1, "only_1"), (2, "only_2")):
        content = {"shared": torch.full((2, 2), float(number)), name: torch.zeros(1)}
        save_file(content, folder / f"model-0000{number}-of-00002.safetensors")
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.mark.parametrize(("file", "value"), [(FIRST, 1.0), (SECOND, 2.0)])
def test_the_index_decides_which_copy_is_read(file: str, value: float, tmp_path: Path) -> None:
    index = {"shared": file, "only_1": FIRST, "only_2": SECOND}
    opened = open_checkpoint(str(two_files(tmp_path / "two", index)))
    assert opened.entries["shared"].key == file
    assert torch.equal(opened.read("shared"), torch.full((2, 2), value))
    (note,) = opened.notes
    assert note.startswith("1 tensors lie in files where")


def test_what_the_index_does_not_name_is_no_part_of_it(tmp_path: Path) -> None:
    folder = two_files(tmp_path / "two", {"shared": SECOND, "only_1": FIRST})
    opened = open_checkpoint(str(folder))
    assert set(opened.entries) == {"shared", "only_1"}
    assert "only_2 in model-00002" in opened.notes[0]
    with on_disk(opened) as rewritten:  # an engine may not find it either
        assert set(tensors(rewritten)) == {"shared", "only_1"}
        assert torch.equal(tensors(rewritten)["shared"], torch.full((2, 2), 2.0))


def test_a_tensor_that_lies_in_another_file_than_the_index_says(tmp_path: Path) -> None:
    index = {"shared": FIRST, "only_1": SECOND, "only_2": SECOND}
    with pytest.raises(CheckpointError, match=r"does not hold: only_1; model-00001.* holds only_1"):
        open_checkpoint(str(two_files(tmp_path / "two", index)))


def test_a_tensor_in_two_files_without_an_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"'shared' lies in model-00001.*and in model-00002"):
        open_checkpoint(str(two_files(tmp_path / "two", None)))


def test_a_single_file_under_a_numbered_name_is_read(
    chain: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "lone"
    shutil.copytree(chain["base"], folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    opened = open_checkpoint(str(folder))
    for name, tensor in tensors(chain["base"]).items():
        assert torch.equal(opened.read(name), tensor)


def test_numbered_files_without_an_index_are_all_there_or_refused(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "sharded", max_shard_size="40KB")
    expected = open_checkpoint(str(folder)).entries
    (folder / "model.safetensors.index.json").unlink()
    assert open_checkpoint(str(folder)).entries.keys() == expected.keys()
    next(folder.glob("model-00002-*")).unlink()
    with pytest.raises(CheckpointError, match="files are missing, or belong to two checkpoints"):
        open_checkpoint(str(folder))


def test_exotic_tensors_are_carried_along_byte_for_byte(tmp_path: Path) -> None:
    """A checkpoint may hold complex buffers and dtypes that torch does not have; no bit is lost."""
    folder = make_checkpoint(tmp_path / "exotic")
    content = {
        "frequencies": torch.polar(torch.ones(3, 4), torch.arange(12.0).reshape(3, 4)),
        "scales": torch.tensor([[120, 127]], dtype=torch.uint8).view(torch.float8_e8m0fnu),
        "other": torch.tensor([1.5, -2]).to(torch.float8_e4m3fnuz),
    }
    weights = folder / "model.safetensors"
    save_file({**tensors(folder), **content}, weights)
    packed = b'{"packed":{"dtype":"F4","shape":[3,2],"data_offsets":[0,3]}}'
    (folder / "model-00001-of-00001.safetensors").write_bytes(
        len(packed).to_bytes(8, "little") + packed + b"\x12\x34\x56"
    )
    index = dict.fromkeys(tensors_of(weights), weights.name)
    index["packed"] = "model-00001-of-00001.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    opened = open_checkpoint(str(folder))
    for name, tensor in content.items():
        assert opened.read(name).dtype == tensor.dtype
        assert torch.equal(opened.read(name).view(torch.uint8), tensor.view(torch.uint8))
    assert bytes(opened.read("packed").numpy()) == b"\x12\x34\x56"
    with on_disk(replace(opened, ignored=("to be written again",))) as again:
        rewritten = open_checkpoint(str(again))
        for name in opened.entries:
            assert rewritten.entries[name].dtype == opened.entries[name].dtype
            assert rewritten.entries[name].shape == opened.entries[name].shape
            pair = (one.read(name).reshape(-1).view(torch.uint8) for one in (opened, rewritten))
            assert torch.equal(*pair)


def tensors_of(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def test_a_pickled_tensor_of_a_dtype_that_cannot_be_written(pickled: Path) -> None:
    torch.save({"x": torch.zeros(2, dtype=torch.complex128)}, pickled / "pytorch_model.bin")
    with pytest.raises(TensorError, match=r"'x' has dtype torch\.complex128, which safetensors"):
        open_checkpoint(str(pickled), allow_pickle=True)


@pytest.mark.parametrize("source", ["checkpoints/rl-step-10", "checkpoints/rl_step_100"])
def test_a_slip_of_the_pen_is_not_asked_of_the_hub(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub would be tried again for half a minute."""
    (tmp_path / "checkpoints" / "rl-step-100").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("svdjobs.checkpoint.sources._download", lambda *_, **__: pytest.fail())
    with pytest.raises(CheckpointError, match=r"Did you mean checkpoints/rl-step-100\?.*@main"):
        open_checkpoint(source)
    with pytest.raises(CheckpointError, match=r"not a hub id.*Did you mean .*rl-step-100"):
        open_checkpoint(f"./{source}")


@pytest.mark.usefixtures("hub_cache")
def test_a_hub_id_is_asked_of_the_hub_beside_other_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "someone" / "unlike").mkdir(parents=True)
    (tmp_path / "someone" / "smell").mkdir()
    monkeypatch.chdir(tmp_path)
    assert open_checkpoint("someone/small@main").label == "someone/small@main"


def test_other_files_beside_a_single_one(chain: dict[str, Path], tmp_path: Path) -> None:
    """Some engines read every file of a folder, so they get only the checkpoint's files."""
    folder = tmp_path / "beside"
    shutil.copytree(chain["base"], folder)
    save_file({"model.norm.weight": torch.zeros(48)}, folder / "old.safetensors")
    opened = open_checkpoint(str(folder))
    assert "old.safetensors beside model.safetensors is not read" in opened.notes[0]
    with on_disk(opened) as written:
        assert not (written / "old.safetensors").exists()
        assert torch.equal(tensors(written)["model.norm.weight"], torch.ones(48))
    (folder / "old.safetensors").rename(folder / "model-00002-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"has model\.safetensors and model-00002.*to decide"):
        open_checkpoint(str(folder))


def test_the_index_decides_between_pickled_files_too(pickled: Path) -> None:
    state = make_model().state_dict()
    name = "model.norm.weight"
    (pickled / "pytorch_model.bin").unlink()
    torch.save(state, pickled / "pytorch_model-00001-of-00002.bin")
    torch.save({name: torch.zeros(48)}, pickled / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(CheckpointError, match=rf"'{name}' lies in .*00001.* and in .*00002"):
        open_checkpoint(str(pickled), allow_pickle=True)
    for file, value in (("00001", 1.0), ("00002", 0.0)):
        weights = dict.fromkeys(state, "pytorch_model-00001-of-00002.bin")
        weights[name] = f"pytorch_model-{file}-of-00002.bin"
        index = json.dumps({"weight_map": weights})
        (pickled / "pytorch_model.bin.index.json").write_text(index)
        opened = open_checkpoint(str(pickled), allow_pickle=True)
        assert torch.equal(opened.read(name), torch.full((48,), value))
