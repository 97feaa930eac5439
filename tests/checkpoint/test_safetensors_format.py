from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.safetensors_format import OutputTensor, file_order, read_header
from svdjobs.checkpoint.writer import Shard, open_shard
from svdjobs.errors import CheckpointError, TensorError
from svdjobs.storage.local import LocalStore
from svdjobs.storage.objects import write_bytes

CONTENT = {
    "b.weight": torch.arange(12, dtype=torch.float32).reshape(3, 4),
    "a.weight": torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16),
    "ünï": torch.tensor([1, 2, 3]),
    "empty": torch.zeros(0, 4),
    "scalar": torch.tensor(2.5),
    "flags": torch.tensor([True, False]),
}
NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64", torch.bool: "BOOL"}


def written(store: LocalStore) -> bytes:
    planned = [OutputTensor(n, NAMES[t.dtype], tuple(t.shape)) for n, t in CONTENT.items()]
    shard = Shard("x.safetensors", tuple(file_order(planned)))
    with open_shard(store, "x.safetensors", shard) as writer:
        for tensor in shard.tensors:
            writer.write(CONTENT[tensor.name])
        writer.finish("x.safetensors")
    return bytes(store.read("x.safetensors"))


def test_bytes_equal_the_library(tmp_path: Path) -> None:
    assert written(LocalStore(tmp_path)) == save(CONTENT, metadata={"format": "pt"})


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    found = load(written(LocalStore(tmp_path)))
    assert found.keys() == CONTENT.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in CONTENT.items())


def test_we_read_what_the_library_writes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    write_bytes(store, "x.safetensors", save(CONTENT))
    entries = {entry.name: entry for entry in read_header(store, "x.safetensors")}
    checkpoint = Checkpoint("x", store, {}, entries)
    for name, tensor in CONTENT.items():
        assert torch.equal(checkpoint.read(name), tensor)
        assert checkpoint.read(name).dtype == tensor.dtype
        pieces = list(checkpoint.chunks(name, elements=5))
        assert all(len(piece) <= 5 for piece in pieces)
        assert torch.equal(torch.cat([*pieces, tensor.reshape(-1)[:0]]), tensor.reshape(-1))


WHOLE = save(CONTENT)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(length=st.integers(0, len(WHOLE) - 1))
def test_any_truncation_is_noticed_from_the_header(length: int, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    write_bytes(store, "cut.safetensors", WHOLE[:length])
    with pytest.raises(CheckpointError, match=r"cut\.safetensors is not a whole safetensors file"):
        read_header(store, "cut.safetensors")


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0, 200), value=st.integers(0, 255))
def test_a_damaged_header_never_gives_another_error(
    position: int, value: int, tmp_path: Path
) -> None:
    data = bytearray(WHOLE)
    data[position] = value
    store = LocalStore(tmp_path)
    write_bytes(store, "bad.safetensors", bytes(data))
    try:
        entries = read_header(store, "bad.safetensors")
    except CheckpointError:
        return
    assert sum(entry.bytes for entry in entries) <= len(WHOLE)


def with_header(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ([1, 2], "not a JSON object"),
        ({"a": 3}, "no dtype, shape and data_offsets"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}}, "no dtype, shape"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "does not fit"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "does not fit"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "does not start"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, "promises"),
    ],
)
def test_malformed_headers(header: object, words: str, tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    write_bytes(store, "bad.safetensors", with_header(header))
    with pytest.raises(CheckpointError, match=words):
        read_header(store, "bad.safetensors")


def test_unknown_dtype_names_the_tensor(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    item = {"dtype": "Q4", "shape": [1], "data_offsets": [0, 1]}
    write_bytes(store, "q.safetensors", with_header({"layer.weight": item}) + b"x")
    with pytest.raises(TensorError, match=r"layer\.weight.*'Q4'.*dequantised"):
        read_header(store, "q.safetensors")
