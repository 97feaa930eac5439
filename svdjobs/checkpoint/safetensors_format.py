"""Read the header of a safetensors file, and lay out a file that is written tensor by tensor.

The library holds all tensors of a file in memory to write it, and reads only whole local files. A
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
# enum Dtype). A file holds its tensors in the reverse of this order.
ITEM_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8,
    "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
_ORDER = {dtype: place for place, dtype in enumerate(ITEM_BITS)}
# Tensors of other dtypes are copied as bytes.
TORCH_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "U16": "uint16", "U32": "uint32",
    "U64": "uint64", "BOOL": "bool", "C64": "complex64", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip
SAFETENSORS_NAMES = {name: short for short, name in TORCH_NAMES.items()}
FLOATS = ("F64", "F32", "F16", "BF16")
# The hub's limit (huggingface_hub/constants.py, SAFETENSORS_MAX_HEADER_LENGTH): some 200,000
# tensors in one file. The library accepts four times as much, and needs a gigabyte to parse it.
MAX_HEADER_BYTES = 25_000_000
# A tensor takes some ten of `[`, `{` and `,`. A header with many more does not describe tensors; to
# parse it, the library would need a hundred times its size in memory.
_STRUCTURE_PER_TENSOR, _STRUCTURE_FREE = 16, 100_000
# If the library refuses a header up to this size, we parse it too, to say what is wrong with it.
_EXPLAINED_BYTES = 4_000_000
# The beginning of a Git LFS pointer (Git LFS, docs/spec.md).
_LFS = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """The place of one tensor: a byte range of a file."""

    name: str
    dtype: str
    """safetensors' name, e.g. BF16."""
    shape: tuple[int, ...]
    key: str
    """The file, as a key of the checkpoint's store."""
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
    """Return the tensors of one file, in file order. Together they fill the file to its end.

    The safetensors library checks the header. Two rules of the format that it does not check are
    checked here: a header begins with `{`, and it gives no name twice.

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
            f"{where}: its header has {length:,} bytes; expected at most {MAX_HEADER_BYTES:,}. If "
            f"the header is right, save the checkpoint again with a smaller max_shard_size."
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
    found = _tensors_in(where, header, size)
    # The library keeps only one of two equal names. Without escapes, each entry has `data_offsets`
    # once, so equal counts show that no name was given twice.
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
    """Refuse a header that gives a name twice: readers differ in which entry they use."""
    try:
        parsed_json(header, "it", unique=True)
    except DamagedError as error:
        raise _corrupt(where, first_line(error)) from None


def _something_else(start: bytes) -> str | None:
    """Say what a file is that plainly is not safetensors, and what to do; None if it may be."""
    if start == _LFS:
        return "a Git LFS pointer, not the weights it stands for. Run `git lfs pull` in its folder."
    if start.lstrip()[:1] == b"<":
        return "a web page, not weights: a login page or an error was saved in their place."
    return None


def _tensors_in(where: str, header: bytearray, size: int) -> list[tuple[str, str, tuple[int, ...]]]:
    """Return name, dtype and shape of a header's tensors, in file order, as the library reads them.

    The library reads only whole files. It gets a file of the same size with this header and zeros
    in place of the tensors. The file is sparse and takes no space on the disk.
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
        raise _refusal(where, header, size, first_line(error)) from None
    except OSError as error:
        raise from_os_error(error, doing=f"checking the header of {where}") from None


def _refusal(where: str, header: bytearray, size: int, words: str) -> CheckpointError:
    """Return the error for a header that the library refuses.

    It says which tensor is wrong and how. If that cannot be found out, it quotes the library.
    """
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
    """Return the error for one entry of a header; None if the entry is right."""
    try:
        dtype, shape, (start, end) = item["dtype"], tuple(item["shape"]), item["data_offsets"]
        whole = all(type(number) is int and 0 <= number < 1 << 64 for number in (start, end))
    except (KeyError, TypeError, ValueError):
        return _corrupt(where, f"tensor {name!r} has no dtype, shape and data_offsets")
    if dtype not in ITEM_BITS:
        return TensorError(
            f"{where}: tensor {name!r} has dtype {dtype!r}; expected one of "
            f"{', '.join(ITEM_BITS)}. A quantised checkpoint must be dequantised first."
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
        f"{where} is not a valid safetensors file: {what}. It was damaged, or written by another "
        f"program; fetch it again, or save it again with the safetensors library."
    )


@dataclass(frozen=True)
class OutputTensor:
    """A tensor that is to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * ITEM_BITS[self.dtype] // 8


def file_order(tensors: Sequence[OutputTensor]) -> list[OutputTensor]:
    """Sort tensors as the library does within a file: by dtype, the last first, then by name."""
    return sorted(tensors, key=lambda tensor: (-_ORDER[tensor.dtype], tensor.name))


def header_bytes(tensors: Sequence[OutputTensor]) -> bytes:
    """Return the header length and the header of a file with these tensors in this order."""
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
