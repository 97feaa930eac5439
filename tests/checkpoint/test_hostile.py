"""Harmful files of a checkpoint, made so or by accident: each is an error, at little cost."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svdjobs.checkpoint.reader import INDEX, SINGLE
from svdjobs.checkpoint.safetensors_format import read_header
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.errors import CheckpointError, TensorError
from svdjobs.storage.local import LocalStore
from tests.fuzz.headers import forget_peak, status

MOST_MIB = 300
TENSOR = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def with_header(folder: Path, text: bytes, data: bytes = b"") -> LocalStore:
    (folder / SINGLE).write_bytes(len(text).to_bytes(8, "little") + text + data)
    return LocalStore(folder)


def refused(read: Callable[[], object]) -> str:
    """Return the text of the error, after a check that reading took little memory."""
    resident = forget_peak()
    with pytest.raises(CheckpointError) as caught:
        read()
    assert status("VmHWM") - resident < MOST_MIB
    return str(caught.value)


HUGE_SHAPE = ",".join(["18446744073709551615"] * 60_000 + ["0"])
BOMBS = {
    "shape": (f'{{"a":{{"dtype":"F32","shape":[{HUGE_SHAPE}],"data_offsets":[0,0]}}}}', "shape"),
    "lists": ("[" + "[],[]," * 16_500_000 + "[]]", "expected at most 25,000,000"),
    "fewer lists": ('{"a":[' + "[],[]," * 3_500_000 + "[]]}", "describes at most 0 tensors"),
    "lists that name offsets": (
        '{"a":[' + ('"data_offsets",' + "[]," * 8) * 500_000 + "[]]}", "not a valid safetensors",
    ),
    "depth": ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", "describes at most 0 tensors"),
    "less depth": ('{"a":' + "[" * 5000 + "]" * 5000 + "}", "not a JSON object of tensors"),
    "digits": ('{"a":{"dtype":"F32","shape":[' + "1" * 1_000_000 + "]}}", "not a valid"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_headers_that_cost_more_to_parse_than_to_write(name: str, tmp_path: Path) -> None:
    text, words = BOMBS[name]
    store = with_header(tmp_path, text.encode())
    assert words in refused(lambda: read_header(store, SINGLE))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'{{"a":{TENSOR},"a":{TENSOR}}}', "it gives the key 'a' twice"),
        (f'{{"a":{TENSOR},"\\u0061":{TENSOR}}}', "it gives the key 'a' twice"),
        (f'{{"__metadata__":{{}},"__metadata__":{{}},"a":{TENSOR}}}', "duplicate field"),
        ('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "duplicate"),
        (f' {{"a":{TENSOR}}}', "not a JSON object from its first byte"),
        (f'{{"__metadata__":{{"a":1}},"a":{TENSOR}}}', "expected a string"),
        (f'{{"__metadata__":"pt","a":{TENSOR}}}', "not a valid safetensors file"),
        ('{"a":{"dtype":"F32","shape":[18446744073709551616],"data_offsets":[0,4]}}', "'a'"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,0]}}', "'a'"),
        ('{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', "'a'"),
        ('{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', "'a'"),
        (f'{{"a\\u0000":{TENSOR}}}', r"'a\x00' of a tensor holds a control character"),
        (f'{{"a\\n::error::":{TENSOR}}}', "control character"),
        (f'{{"\\ud800":{TENSOR}}}', "not a valid safetensors file"),
    ],
)
def test_headers_that_the_library_or_the_format_refuses(
    text: str, words: str, tmp_path: Path
) -> None:
    store = with_header(tmp_path, text.encode(), b"1234")
    found = refused(lambda: read_header(store, SINGLE))
    assert words in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "is a web page, not weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    ],
)
def test_files_that_were_saved_in_the_place_of_weights(
    content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / SINGLE).write_bytes(content)
    assert words in refused(lambda: read_header(LocalStore(tmp_path), SINGLE))


def test_a_header_as_long_as_a_web_pages_first_letter_says_is_read(tmp_path: Path) -> None:
    text = f'{{"a":{TENSOR}}}'.ljust(ord("<")).encode()
    assert text[-1:] == b" "
    (entry,) = read_header(with_header(tmp_path, text, b"1234"), SINGLE)
    assert (entry.name, entry.start) == ("a", 8 + len(text))


def test_trailing_bytes_are_not_called_cut_off(tmp_path: Path) -> None:
    store = with_header(tmp_path, f'{{"a":{TENSOR}}}'.encode(), b"1234" + b"more")
    words = refused(lambda: read_header(store, SINGLE))
    assert "4 bytes follow the last tensor" in words
    assert "cut off" not in words
    with_header(tmp_path, f'{{"a":{TENSOR}}}'.encode(), b"12")
    assert "cut off" in refused(lambda: read_header(store, SINGLE))


@pytest.fixture
def folder(chain: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(chain["base"], tmp_path / "copy"))


def changed(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"eos_token_id": "x"}, "eos_token_id is 'x', expected a token id"),
        ({"eos_token_id": [1, "x"]}, "eos_token_id is"),
        ({"vocab_size": -5}, "vocab_size is -5, expected a positive integer"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"text_config": {"hidden_size": "wide"}}, "text_config.hidden_size is 'wide'"),
        ({"text_config": [1]}, "text_config is [1], expected an object"),
        ({"architectures": "Qwen2"}, "architectures is 'Qwen2', expected a list"),
        ({"x": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_values_of_a_config_that_cannot_be(
    values: dict[str, Any], words: str, folder: Path
) -> None:
    changed(folder, **values)
    assert words in refused(lambda: open_checkpoint(str(folder)))


def test_a_config_with_a_number_for_each_layer_is_read(folder: Path) -> None:
    changed(folder, intermediate_size=[80, 80], num_experts=0, eos_token_id=[0, 1], head_dim=None)
    assert open_checkpoint(str(folder)).architecture == "Qwen2ForCausalLM"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "must hold a JSON object"),
        ("<html><body>503</body></html>", "is a web page"),
        ("[" * 100_000 + "]" * 100_000, "nested too deep"),
        ('{"a":' * 990 + "1" + "}" * 990, "nested too deep"),
        ('{"a":[' + "[]," * 1_200_000 + "[]]}", "expected at most 500,000"),
        ('{"a": 1, "a": 2}', "it gives the key 'a' twice"),
        ('{"a": "' + "x" * (5 << 20) + '"}', "expected at most"),
        ('{"vocab_size": ' + "9" * 5000 + "}", "not valid JSON"),
    ],
)
def test_a_config_that_is_none(text: str, words: str, folder: Path) -> None:
    (folder / "config.json").write_text(text)
    found = refused(lambda: open_checkpoint(str(folder)))
    assert "config.json" in found
    assert words in found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "must hold a JSON object"),
        ('{"weight_map": ["a"]}', "has no weight_map"),
        ('{"weight_map": {"a": "x", "a": "y"}}', "it gives the key 'a' twice"),
        ('{"weight_map": {"a\\u0000": "model.safetensors"}}', r"names a tensor 'a\x00'"),
        ('{"weight_map": {"a": "model.safetensors\\u0000"}}', "outside the folder"),
        ('{"weight_map": {"a": 3}}', "outside the folder"),
        ('{"weight_map": [' + "[]," * 9_000_000 + "[]]}", "expected at most 500,000"),
    ],
)
def test_an_index_that_is_none(text: str, words: str, folder: Path) -> None:
    (folder / INDEX).write_text(text)
    found = refused(lambda: open_checkpoint(str(folder)))
    assert INDEX in found
    assert words in found


@pytest.mark.parametrize("shape", [[0, 2**64 - 1], [2**62, 2, 0], [1] * 40_000])
def test_shapes_that_the_library_takes_and_torch_may_not(shape: list[int], tmp_path: Path) -> None:
    count = int(0 not in shape)
    header = {"a": {"dtype": "U8", "shape": shape, "data_offsets": [0, count]}}
    store = with_header(tmp_path, json.dumps(header).encode(), b"x" * count)
    (tmp_path / "config.json").write_text("{}")
    assert read_header(store, SINGLE)[0].shape == tuple(shape)
    opened = open_checkpoint(str(tmp_path))
    with contextlib.suppress(TensorError):
        assert opened.read("a").numel() == count
