"""Code in a checkpoint is never run, and nobody is asked whether to run it."""

from __future__ import annotations

import ast
import io
import json
import shutil
import sys
from pathlib import Path

import pytest

import svdjobs
from svdjobs.errors import CheckpointError
from svdjobs.evaluation.engines.transformers import _load_model
from svdjobs.evaluation.prompts import load_tokenizer

CODE = """
from pathlib import Path
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
Path({mark!r}).touch()
class Config(PretrainedConfig): model_type = "unheard-of"
class Model(PreTrainedModel): config_class = Config
class Tokenizer(PreTrainedTokenizerFast): pass
"""


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that the checkpoint's code creates if it runs."""
    return tmp_path / "ran"


@pytest.fixture
def folder(
    chain: dict[str, Path], tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A checkpoint with an unknown model_type and auto_map, and a stdin that says yes."""
    folder = Path(shutil.copytree(chain["base"], tmp_path / "with-code"))
    (folder / "code.py").write_text(CODE.format(mark=str(mark)))
    for name, classes in (
        ("config.json", {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "code.Tokenizer"]}),
    ):
        document = json.loads((folder / name).read_text())
        document.pop("tokenizer_class", None)
        document |= {"model_type": "unheard-of", "auto_map": classes}
        (folder / name).write_text(json.dumps(document))
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    return folder


def test_code_of_a_model_is_not_run(folder: Path, mark: Path) -> None:
    with pytest.raises(CheckpointError, match="transformers cannot load"):
        _load_model(str(folder), "float32")
    assert not mark.exists()
    assert sys.stdin.read().count("y") == 9


def test_code_of_a_tokenizer_is_not_run(folder: Path, mark: Path) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer in"):
        load_tokenizer(str(folder))
    assert not mark.exists()
    assert sys.stdin.read().count("y") == 9


def test_every_loader_says_that_code_is_not_run() -> None:
    """Without the argument transformers asks on stdin, if an unknown model_type has an auto_map."""
    calls = [
        (path.name, node)
        for path in Path(svdjobs.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("from_pretrained")
    ]
    assert len(calls) >= 2
    for name, call in calls:
        words = [ast.unparse(keyword) for keyword in call.keywords]
        assert "trust_remote_code=False" in words, (name, ast.unparse(call))
