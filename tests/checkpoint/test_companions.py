"""Companion files belong to the checkpoint; a link out of its folder is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from svdjobs.checkpoint.reader import read_checkpoint
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.errors import CheckpointError
from svdjobs.storage.local import LocalStore


@pytest.fixture
def folder(chain: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(chain["base"], tmp_path / "copy"))


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "config.json"])
def test_a_link_out_of_the_checkpoint_is_refused(name: str, folder: Path, tmp_path: Path) -> None:
    """The target of the link would be uploaded with every blend."""
    secret = tmp_path / "secret"
    secret.write_text((folder / name).read_text())
    (folder / name).unlink()
    (folder / name).symlink_to(secret)
    with pytest.raises(CheckpointError, match=rf"{name} is a link to {secret}, outside the folder"):
        open_checkpoint(str(folder))


def test_links_within_the_checkpoint_and_to_it_are_followed(folder: Path, tmp_path: Path) -> None:
    (folder / "vocab.json").symlink_to("tokenizer.json")
    (tmp_path / "link").symlink_to(folder)
    opened = open_checkpoint(str(tmp_path / "link"))
    assert "vocab.json" in opened.companions()


def test_the_blobs_of_a_hub_cache_belong_to_its_snapshots(folder: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--small"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    for number, file in enumerate(sorted(folder.iterdir())):
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    expected = open_checkpoint(str(folder)).companions()
    assert read_checkpoint(LocalStore(snapshot), "x").companions() == expected


@pytest.mark.parametrize("ids", ['"x"', "[1, null, 1.5]", '["2"]'])
def test_token_ids_of_a_generation_config_that_are_none(ids: str, folder: Path) -> None:
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": {ids}}}')
    with pytest.raises(CheckpointError, match=r"generation_config\.json cannot be right: eos_tok"):
        open_checkpoint(str(folder))


def test_a_generation_config_that_is_none(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps([1]))
    with pytest.raises(CheckpointError, match=r"generation_config\.json must hold a JSON object"):
        open_checkpoint(str(folder))
