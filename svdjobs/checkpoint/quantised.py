"""Dequantise float8 matrices when they are read. Refuse matrices that are packed integers.

Block-scaled float8 is DeepSeek's layout (arXiv:2412.19437, section 3.3): `weight` in F8_E4M3 beside
`weight_scale_inv`, with one scale per block. compressed-tensors names the scales `weight_scale`; it
may have one scale per matrix or per row, too. Stacks of experts have further axes in front.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from svdjobs.checkpoint.safetensors_format import TensorEntry
from svdjobs.errors import CheckpointError

if TYPE_CHECKING:
    from svdjobs.checkpoint.reader import Checkpoint

# How far rounding to the dtype moves a Gaussian matrix, relative to its norm; a test measures it.
NOISE = {"F8_E4M3": 0.027, "F8_E5M2": 0.053}
_SCALES = ("_scale_inv", "_scale")
_NUMBERS = ("BF16", "F16", "F32", "F64", "F8_E8M0")
# Scales of activations. They are dropped: without quantised weights, activations are not quantised.
_ACTIVATIONS = (".input_scale", ".activation_scale", ".input_scale_inv")
_WHOLE = ("U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64", "F4", "F6_E2M3", "F6_E3M2")


class _Format(NamedTuple):
    """A format of packed integers, recognised by the names of its tensors."""

    endings: tuple[str, ...]
    name: str
    command: str


_LOAD = "AutoModelForCausalLM.from_pretrained(FOLDER{})"
_FORMATS = (
    _Format(
        (".qweight", ".qzeros", ".g_idx"),
        "AWQ or GPTQ",
        "gptqmodel.utils.model_dequant.dequantize_model(FOLDER, OTHER) of GPTQModel",
    ),
    _Format(
        (".weight_packed", ".weight_global_scale"),
        "compressed-tensors",
        _LOAD.format(", quantization_config=CompressedTensorsConfig(dequantize=True)")
        + ".save_pretrained(OTHER)",
    ),
    _Format(
        ("_proj_blocks", "_proj_scales"),
        "MXFP4",
        _LOAD.format(", quantization_config=Mxfp4Config(dequantize=True)")
        + ".save_pretrained(OTHER)",
    ),
    _Format(
        (".absmax", ".quant_map", ".SCB", "__nf4", "__fp4"),
        "bitsandbytes",
        _LOAD.format("") + ".dequantize().save_pretrained(OTHER)",
    ),
)
_ORIGIN = "use the checkpoint it was made from"


def dequantised(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with float8 matrices as float32; each is dequantised when it is read.

    Raises:
        CheckpointError: matrices are packed integers, or are float8 without scales that fit.
    """
    _refuse_packed(checkpoint)
    entries = checkpoint.entries
    matrices = [e for e in entries.values() if e.dtype in NOISE and len(e.shape) >= 2]
    matrices = [matrix for matrix in matrices if not matrix.name.endswith(_SCALES)]
    if not matrices:
        return checkpoint
    scales = {matrix.name: _scales_of(checkpoint, matrix) for matrix in matrices}
    modules = [matrix.name.removesuffix(".weight") for matrix in matrices]
    used = {scale.name for scale in scales.values()}
    used |= {module + ending for module in modules for ending in _ACTIVATIONS}
    kept = {name: entry for name, entry in entries.items() if name not in used}
    derived = dict(checkpoint.derived)
    for matrix in matrices:
        kept[matrix.name] = replace(matrix, dtype="F32")
        derived[matrix.name] = _product(checkpoint, matrix, scales[matrix.name])
    files = tuple(sorted({scale.key for scale in scales.values()}))
    dtypes = sorted({matrix.dtype for matrix in matrices})
    settings = ("quantization_config", "compression_config")
    return replace(
        checkpoint,
        entries=kept,
        derived=derived,
        config={key: value for key, value in checkpoint.config.items() if key not in settings},
        also=(*checkpoint.also, (checkpoint.store, files)),
        notes=(*checkpoint.notes, *(_note(matrices, dtype) for dtype in dtypes)),
    )


def _note(matrices: list[TensorEntry], dtype: str) -> str:
    """Return the note on the matrices of one dtype, with their noise floor."""
    return (
        f"{sum(matrix.dtype == dtype for matrix in matrices)} matrices are quantised ({dtype} with "
        f"scales) and dequantised to float32 on reading. Noise floor: rounding to {dtype} alone "
        f"moved each by about {100 * NOISE[dtype]:.1f} % of its norm."
    )


def _refuse_packed(checkpoint: Checkpoint) -> None:
    """Refuse matrices that are stored as integers, one or several to a byte."""
    method = (checkpoint.config.get("quantization_config") or {}).get("quant_method")
    for form in _FORMATS:
        found = sorted(name for name in checkpoint.entries if name.endswith(form.endings))
        if found:
            _refuse(checkpoint, found, form.name, f"{form.command}; or {_ORIGIN}")
    found = sorted(
        entry.name
        for entry in checkpoint.entries.values()
        if entry.name.endswith("weight") and len(entry.shape) >= 2 and entry.dtype in _WHOLE
    )
    if found:
        _refuse(checkpoint, found, str(method or "an unknown format"), _ORIGIN)


def _refuse(checkpoint: Checkpoint, found: list[str], form: str, command: str) -> None:
    entry = checkpoint.entries[found[0]]
    raise CheckpointError(
        f"{checkpoint.label}: {len(found)} tensors are of quantised matrices ({form}), e.g. "
        f"{entry.name} {list(entry.shape)} in {entry.dtype}: these integers are codes, whose "
        f"singular values are not those of the matrix. Dequantise the checkpoint first: {command}."
    )


def _scales_of(checkpoint: Checkpoint, matrix: TensorEntry) -> TensorEntry:
    """Return the scales of a matrix, after a check of their shape and dtype."""
    found = [checkpoint.entries.get(matrix.name + suffix) for suffix in _SCALES]
    scale = next((entry for entry in found if entry is not None), None)
    if scale is None:
        raise CheckpointError(
            f"{checkpoint.label}: {matrix.name} is quantised ({matrix.dtype}) and has no "
            f"{matrix.name}_scale_inv or {matrix.name}_scale beside it. Fetch the checkpoint "
            f"again, or {_ORIGIN}."
        )
    allowed = [_blocks(checkpoint, matrix), *_wholes(matrix)]
    if scale.shape not in allowed or scale.dtype not in _NUMBERS:
        raise CheckpointError(
            f"{checkpoint.label}: {scale.name} is {scale.dtype} {list(scale.shape)}, expected "
            f"one of the shapes {', '.join(str(list(shape)) for shape in allowed)} for a matrix "
            f"{list(matrix.shape)} (see quantization_config.weight_block_size in config.json)."
        )
    return scale


def _blocks(checkpoint: Checkpoint, matrix: TensorEntry) -> tuple[int, ...]:
    """Return the shape of the scales if each belongs to a block of rows and columns."""
    *front, rows, columns = matrix.shape
    block_rows, block_columns = _block(checkpoint)
    return (*front, math.ceil(rows / block_rows), math.ceil(columns / block_columns))


def _wholes(matrix: TensorEntry) -> list[tuple[int, ...]]:
    """Return the shapes of the scales if each belongs to a whole matrix or to a row."""
    *front, rows, _ = matrix.shape
    return [(*front, 1, 1), (*front, rows, 1), *([(), (1,), (rows,)] if not front else [])]


def _block(checkpoint: Checkpoint) -> tuple[int, int]:
    """Return the rows and columns of a block, which share a scale."""
    settings = checkpoint.config.get("quantization_config") or {}
    size = settings.get("weight_block_size") or (128, 128)
    whole = isinstance(size, (list, tuple)) and len(size) == 2
    if not whole or any(type(side) is not int or side < 1 for side in size):
        raise CheckpointError(
            f"{checkpoint.label}: quantization_config.weight_block_size is {size!r:.40}, expected "
            f"two positive integers."
        )
    return size[0], size[1]


def _product(
    checkpoint: Checkpoint, matrix: TensorEntry, scale: TensorEntry
) -> Callable[[], npt.NDArray[np.float32]]:
    """Return a function that reads a matrix and its scales and multiplies them in float32."""
    rows, columns = _block(checkpoint)
    in_blocks = scale.shape == _blocks(checkpoint, matrix)

    def read() -> npt.NDArray[np.float32]:
        w_MN = checkpoint.stored(matrix).astype(np.float32)
        scale_MN = checkpoint.stored(scale).astype(np.float32)
        if in_blocks:
            scale_MN = scale_MN.repeat(rows, -2).repeat(columns, -1)
            return w_MN * scale_MN[..., : w_MN.shape[-2], : w_MN.shape[-1]]
        return w_MN * (scale_MN[:, None] if scale_MN.ndim == 1 else scale_MN)

    return read
