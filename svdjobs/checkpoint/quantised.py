"""Quantised matrices: those that are a product are multiplied out when read, others are refused.

Block-scaled float8 is DeepSeek's layout (arXiv:2412.19437, section 3.3): `weight` in F8_E4M3 and
`weight_scale_inv` with one scale a block. compressed-tensors' float8 has `weight_scale`, one scale
for a matrix or a row.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from svdjobs.checkpoint.safetensors_format import TensorEntry
from svdjobs.errors import CheckpointError

if TYPE_CHECKING:
    import torch

    from svdjobs.checkpoint.reader import Checkpoint

_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_SCALES = ("_scale_inv", "_scale")
# What rounding to it moves a Gaussian matrix by, of its norm; tests measure it.
NOISE = {"F8_E4M3": 0.027, "F8_E5M2": 0.053}
# Names of what packed formats keep: AWQ and GPTQ; compressed-tensors; bitsandbytes; MXFP4.
_PACKED = (
    ".qweight", ".qzeros", ".weight_packed", ".weight.absmax", ".weight.quant_map",
    "_proj_blocks", ".SCB",
)  # fmt: skip
_DEQUANTISE = (
    "AutoModelForCausalLM.from_pretrained(FOLDER).dequantize().save_pretrained(OTHER), or take the "
    "checkpoint it was made from"
)


def dequantised(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with its float8 matrices as float32, each multiplied out when it is read.

    Raises:
        CheckpointError: matrices that are packed, or float8 without a scale.
    """
    entries = checkpoint.entries
    if packed := sorted(name for name in entries if name.endswith(_PACKED)):
        raise CheckpointError(
            f"{checkpoint.label}: {len(packed)} tensors are parts of quantised matrices, e.g. "
            f"{packed[0]} ({entries[packed[0]].dtype}): packed integers have no singular values. "
            f"Dequantise it first: {_DEQUANTISE}."
        )
    matrices = [e for e in entries.values() if e.dtype in _FLOAT8 and len(e.shape) == 2]
    if not matrices:
        return checkpoint
    scales = {matrix.name: _scale_of(checkpoint, matrix) for matrix in matrices}
    used = {scale.name for scale in scales.values()}
    kept = {name: entry for name, entry in entries.items() if name not in used}
    derived = dict(checkpoint.derived)
    for matrix in matrices:
        kept[matrix.name] = replace(matrix, dtype="F32")
        derived[matrix.name] = _product(checkpoint, matrix, scales[matrix.name])
    dtype = matrices[0].dtype
    note = (
        f"{checkpoint.label}: {len(matrices)} matrices are stored in {dtype} and multiplied by "
        f"their scales; that rounding alone moved each by about {100 * NOISE[dtype]:.0f} % of its "
        f"norm."
    )
    files = tuple(sorted({scale.key for scale in scales.values()}))
    return replace(
        checkpoint,
        entries=kept,
        derived=derived,
        config={k: v for k, v in checkpoint.config.items() if k != "quantization_config"},
        also=(*checkpoint.also, (checkpoint.store, files)),
        notes=(*checkpoint.notes, note),
    )


def _scale_of(checkpoint: Checkpoint, matrix: TensorEntry) -> TensorEntry:
    """The scales of a matrix, whose number fits its shape."""
    found = [checkpoint.entries.get(matrix.name + suffix) for suffix in _SCALES]
    scale = next((entry for entry in found if entry is not None), None)
    if scale is None:
        raise CheckpointError(
            f"{checkpoint.label}: {matrix.name} is quantised ({matrix.dtype}) and has no "
            f"{matrix.name}_scale_inv or {matrix.name}_scale beside it. Dequantise the checkpoint "
            f"first: {_DEQUANTISE}."
        )
    blocks = tuple(math.ceil(n / b) for n, b in zip(matrix.shape, _block(checkpoint), strict=True))
    whole = ((), (1,), (matrix.shape[0], 1), (matrix.shape[0],))
    allowed = (blocks,) if scale.name.endswith("_inv") else whole
    if scale.shape not in allowed:
        raise CheckpointError(
            f"{checkpoint.label}: {scale.name} has shape {list(scale.shape)}, expected "
            f"{' or '.join(str(list(shape)) for shape in allowed)} for a matrix "
            f"{list(matrix.shape)} (quantization_config.weight_block_size in config.json)."
        )
    return scale


def _block(checkpoint: Checkpoint) -> tuple[int, int]:
    """Rows and columns that share a scale."""
    settings = checkpoint.config.get("quantization_config") or {}
    size = settings.get("weight_block_size") or (128, 128)
    whole = isinstance(size, (list, tuple)) and len(size) == 2
    if not whole or any(type(side) is not int or side < 1 for side in size):
        raise CheckpointError(
            f"{checkpoint.label}: quantization_config.weight_block_size is {size!r:.40}, expected "
            f"two positive integers."
        )
    return size[0], size[1]


def _product(checkpoint: Checkpoint, matrix: TensorEntry, scale: TensorEntry):  # type: ignore[no-untyped-def]
    rows, columns = _block(checkpoint)

    def read() -> torch.Tensor:
        import torch

        w_MN = checkpoint.stored(matrix).to(torch.float32)
        scale_MN = checkpoint.stored(scale).to(torch.float32)
        if scale.name.endswith("_inv"):
            scale_MN = scale_MN.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
            scale_MN = scale_MN[: w_MN.shape[0], : w_MN.shape[1]]
        elif scale_MN.ndim == 1 and scale_MN.numel() > 1:
            scale_MN = scale_MN[:, None]
        return w_MN * scale_MN

    return read
