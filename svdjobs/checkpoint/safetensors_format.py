"""The safetensors container: read a header, lay a file out, write it tensor by tensor.

The library holds every tensor of a file in memory to write it and reads only whole local files; a
sweep needs one tensor at a time, and byte ranges. Files written here equal the library's, byte for
byte. Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from svdjobs.errors import CheckpointError, MissingKeyError, TensorError
from svdjobs.storage.store import Store

ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1,
    "U16": 2, "U32": 4, "U64": 8, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32",
    "U64": "uint64", "BOOL": "bool", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
SAFETENSORS_NAMES = {name: short for short, name in TORCH_NAMES.items()}
FLOATS = ("F64", "F32", "F16", "BF16")
# The library refuses longer headers too (safetensors/src/tensor.rs, MAX_HEADER_SIZE).
MAX_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: a byte range of a file."""

    name: str
    dtype: str
    """safetensors' own name, e.g. BF16."""
    shape: tuple[int, ...]
    key: str
    """File, as a key of the checkpoint's store."""
    start: int
    """First byte, counted from the start of the file."""

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Number of bytes."""
        return self.elements * ITEM_BYTES[self.dtype]


def read_header(store: Store, key: str) -> list[TensorEntry]:
    """The tensors of one file, in file order; every byte of the file is accounted for.

    Raises:
        CheckpointError: the file is missing, truncated or not safetensors.
    """
    where = f"{store.url}/{key}"
    try:
        size = store.size(key)
    except MissingKeyError:
        raise CheckpointError(f"{where}: no such file.") from None
    if size < 8:
        raise _corrupt(where, f"it has {size} bytes, a header length alone takes 8")
    length = int.from_bytes(store.read(key, 0, 8), "little")
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise _corrupt(where, f"its header claims {length:,} bytes, the file has {size:,}")
    try:
        header = json.loads(store.read(key, 8, 8 + length))
        header.pop("__metadata__", None)
        entries = [_entry(where, key, 8 + length, name, item) for name, item in header.items()]
    except (ValueError, TypeError, AttributeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise _corrupt(where, "its header is not a JSON object") from None
    entries.sort(key=lambda entry: (entry.start, entry.bytes))
    position = 8 + length
    for entry in entries:
        if entry.start != position:
            raise _corrupt(where, f"tensor {entry.name!r} does not start where the last one ends")
        position += entry.bytes
    if position != size:
        raise _corrupt(where, f"its header promises {position:,} bytes, the file has {size:,}")
    return entries


def _corrupt(where: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{where} is not a whole safetensors file: {what}. It was probably cut off while being "
        f"copied or downloaded; fetch it again."
    )


def _entry(where: str, key: str, offset: int, name: str, item: Any) -> TensorEntry:
    try:
        dtype, shape, (start, end) = item["dtype"], tuple(item["shape"]), item["data_offsets"]
        whole = all(isinstance(number, int) and number >= 0 for number in (*shape, start, end))
    except (KeyError, TypeError, ValueError):
        raise _corrupt(where, f"tensor {name!r} has no dtype, shape and data_offsets") from None
    if dtype not in ITEM_BYTES:
        raise TensorError(
            f"{where}: tensor {name!r} has dtype {dtype!r}; known are {', '.join(ITEM_BYTES)}. "
            f"Quantised checkpoints must be dequantised first."
        )
    entry = TensorEntry(name, dtype, shape, key, offset + start) if whole else None
    if entry is None or entry.bytes != end - start:
        raise _corrupt(where, f"tensor {name!r}: shape {list(shape)} does not fit its byte range")
    return entry


@dataclass(frozen=True)
class OutputTensor:
    """A tensor about to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


def file_order(tensors: Sequence[OutputTensor]) -> list[OutputTensor]:
    """The library's order within a file: wide dtypes first, then by name."""
    return sorted(tensors, key=lambda tensor: (-ITEM_BYTES[tensor.dtype], tensor.name))


def header_bytes(tensors: Sequence[OutputTensor]) -> bytes:
    """Length and header of a file that will hold these tensors in this order."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        end = position + tensor.bytes
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
