"""The safetensors container: read a header, lay a file out, write it tensor by tensor.

The library holds every tensor of a file in memory to write it and reads only whole local files; a
sweep needs one tensor at a time, and byte ranges. Files written here equal the library's, byte for
byte. Format: https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from svdjobs.errors import (
    CheckpointError,
    DamagedError,
    MissingKeyError,
    TensorError,
    first_line,
    from_os_error,
)
from svdjobs.storage.objects import parsed_json
from svdjobs.storage.store import Readable

# Every dtype of the library with its bits, in the library's own order (safetensors/src/tensor.rs,
# enum Dtype), which is also the order of tensors in a file, last first.
ITEM_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
_ORDER = {dtype: place for place, dtype in enumerate(ITEM_BITS)}
# Tensors of other dtypes are carried along as bytes.
TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32",
    "U64": "uint64", "BOOL": "bool", "C64": "complex64", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
SAFETENSORS_NAMES = {name: short for short, name in TORCH_NAMES.items()}
FLOATS = ("F64", "F32", "F16", "BF16")
# As the hub has it (huggingface_hub/constants.py, SAFETENSORS_MAX_HEADER_LENGTH): some 200,000
# tensors in one file. The library takes four times as much, and a gigabyte to parse it.
MAX_HEADER_BYTES = 25_000_000
# A tensor takes some ten of `[`, `{` and `,`. A header with many more describes no tensors, but
# parsing it takes the library a hundred times its size.
_STRUCTURE_PER_TENSOR, _STRUCTURE_FREE = 16, 100_000
# A header up to this size is looked at once more, to say what is wrong with it.
_EXPLAINED_BYTES = 4_000_000
# Git LFS, docs/spec.md: a pointer begins so.
_LFS = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
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
        return self.elements * ITEM_BITS[self.dtype] // 8


def read_header(store: Readable, key: str) -> list[TensorEntry]:
    """The tensors of one file, in file order; every byte of the file is accounted for.

    The safetensors library judges the header. Where it refuses, so do we; and where the format does
    and the library does not: a header begins with `{` and gives no name twice.

    Raises:
        CheckpointError: the file is missing, cut off or not safetensors.
    """
    where = f"{store.url}/{key}"
    try:
        size = store.size(key)
    except MissingKeyError:
        raise CheckpointError(f"{where}: no such file.") from None
    if size < 8:
        raise _cut_off(where, f"it has {size} bytes, a header length alone takes 8")
    start = bytes(store.read(key, 0, min(size, len(_LFS))))
    length = int.from_bytes(start[:8], "little")
    if length > size - 8:
        if other := _something_else(start):
            raise CheckpointError(f"{where} is {other}")
        raise _cut_off(where, f"its header claims {length:,} bytes, the file has {size:,}")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{where}: its header has {length:,} bytes; read are at most {MAX_HEADER_BYTES:,}. If "
            f"it is meant so, save the checkpoint again with a smaller max_shard_size."
        )
    header = store.read(key, 8, 8 + length)
    structure = sum(header.count(mark) for mark in (b"[", b"{", b","))
    described = header.count(b"data_offsets")
    if structure > _STRUCTURE_FREE + _STRUCTURE_PER_TENSOR * described:
        raise _corrupt(
            where, f"its header of {length:,} bytes describes at most {described:,} tensors"
        )
    if header[:1] != b"{":
        raise _corrupt(where, "its header is not a JSON object from its first byte on")
    found = _judged(where, header, size)
    # Each name stands for itself where nothing is escaped, and has its own data_offsets.
    if described != len(found) or b"\\" in header:
        _require_unique(where, header)
    entries, position = [], 8 + length
    for name, dtype, shape in found:
        if not name.isprintable():
            raise _corrupt(where, f"the name {name!r:.80} of a tensor holds a control character")
        entries.append(TensorEntry(name, dtype, shape, key, position))
        position += entries[-1].bytes
    return entries


def _require_unique(where: str, header: bytearray) -> None:
    """Refuse a name that a header gives twice: readers differ in which of the two they take."""
    try:
        parsed_json(header, "it", unique=True)
    except DamagedError as error:
        raise _corrupt(where, first_line(error)) from None


def _something_else(start: bytes) -> str | None:
    """What a file is that plainly holds no tensors, and what to do; None where it may hold some."""
    if start == _LFS:
        return "a Git LFS pointer, not the weights it stands for. Run `git lfs pull` in its folder."
    if start.lstrip()[:1] == b"<":
        return "a web page, not weights: a login page or an error was saved in their place."
    return None


def _judged(where: str, header: bytearray, size: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """Name, dtype and shape of the tensors of a header, in file order, as the library reads them.

    The library takes whole files only. It gets one with this header and as many zeros as there are
    bytes of tensors: a sparse file, which takes no room on the disk.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with tempfile.NamedTemporaryFile(prefix="svdjobs-header-") as file:
            file.write(len(header).to_bytes(8, "little"))
            file.write(header)
            file.truncate(size)
            file.flush()
            with safe_open(file.name, framework="numpy") as opened:
                return [
                    (name, one.get_dtype(), tuple(one.get_shape()))
                    for name in opened.offset_keys()
                    for one in (opened.get_slice(name),)
                ]
    except SafetensorError as error:
        raise _explained(where, header, size, first_line(error)) from None
    except OSError as error:
        raise from_os_error(error, doing=f"looking at the header of {where}") from None


def _explained(where: str, header: bytearray, size: int, words: str) -> CheckpointError:
    """What is wrong with a header that the library refuses: which tensor, where that can be told,
    else in the library's words."""
    try:
        document = json.loads(header) if len(header) <= _EXPLAINED_BYTES else None
    except (ValueError, RecursionError):
        return _corrupt(where, f"its header is not a JSON object of tensors ({words})")
    if document is None:
        return _corrupt(where, words)
    if not isinstance(document, dict):
        return _corrupt(where, "its header is not a JSON object")
    document.pop("__metadata__", None)
    for name, item in document.items():
        if problem := _problem(where, name, item):
            return problem
    position = 0
    for start, end, name in sorted((*item["data_offsets"], n) for n, item in document.items()):
        if start != position:
            return _corrupt(where, f"tensor {name!r} does not start where the last one ends")
        position = end
    promised = 8 + len(header) + position
    if promised > size:
        return _cut_off(where, f"its header promises {promised:,} bytes, the file has {size:,}")
    if promised < size:
        extra = size - promised
        return _corrupt(where, f"{extra:,} bytes follow the last tensor that its header promises")
    return _corrupt(where, words)


def _problem(where: str, name: str, item: Any) -> CheckpointError | None:
    """What is wrong with a header's entry."""
    try:
        dtype, shape, (start, end) = item["dtype"], tuple(item["shape"]), item["data_offsets"]
        whole = all(type(number) is int and 0 <= number < 1 << 64 for number in (start, end))
    except (KeyError, TypeError, ValueError):
        return _corrupt(where, f"tensor {name!r} has no dtype, shape and data_offsets")
    if dtype not in ITEM_BITS:
        return TensorError(
            f"{where}: tensor {name!r} has dtype {dtype!r}; known are {', '.join(ITEM_BITS)}. "
            f"A quantised checkpoint must be dequantised first."
        )
    elements = 1
    for side in shape:
        whole = whole and type(side) is int and side >= 0
        elements = elements * side if whole and elements < 1 << 64 else 1 << 64
    if not whole or elements * ITEM_BITS[dtype] != 8 * (end - start):
        return _corrupt(where, f"tensor {name!r}: its shape does not fit its byte range")
    return None


def _cut_off(where: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{where} is not a whole safetensors file: {what}. It was probably cut off while being "
        f"copied or downloaded; fetch it again."
    )


def _corrupt(where: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{where} is not a valid safetensors file: {what}. It was damaged, or written by something "
        f"else; fetch it again, or save it again with the safetensors library."
    )


@dataclass(frozen=True)
class OutputTensor:
    """A tensor about to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * ITEM_BITS[self.dtype] // 8


def file_order(tensors: Sequence[OutputTensor]) -> list[OutputTensor]:
    """The library's order within a file: by dtype, the last of its list first, then by name."""
    return sorted(tensors, key=lambda tensor: (-_ORDER[tensor.dtype], tensor.name))


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
