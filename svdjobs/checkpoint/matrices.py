"""Divide the tensors of a checkpoint into the matrices that they hold.

Some models store several matrices in one tensor: q, k and v (`qkv_proj`), the gate and the up
projection (`gate_up_proj`), all experts of a layer in a stack. The singular values of such a tensor
belong to no single linear map. So each matrix is decomposed and blended by itself, under the name
that it has in a model that stores it alone. Both kinds of model then have the same matrices.

The config's sizes say how a tensor is divided; they must fit its shape. The shape also tells how a
stack is stored, [E, out, in] or [E, in, out]. If both fit, the model type decides. A tensor that
cannot be divided stays as it is, and is not blended.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.safetensors_format import TensorEntry

if TYPE_CHECKING:
    import torch

# Names of tensors that hold several matrices. Such a tensor is not blended if it is not divided.
FUSED = re.compile(
    r"\.(qkv_proj|gate_up_proj|query_key_value|c_attn|Wqkv|qkv|in_proj_qkvz|in_proj_ba)"
    r"(\.weight)?$|\.experts\.(gate_up_proj|down_proj|gate_proj|up_proj)(\.weight)?$"
    r"|\.block_sparse_moe\.(input|output)_linear\.weight$"
)
# Model types whose stacks are [E, in, out], and those whose gate and up columns alternate.
_TRANSPOSED = ("llama4", "llama4_text", "gpt_oss", "qwen3_vl_moe", "qwen3_vl_moe_text")
_ALTERNATE = ("gpt_oss",)
# Model types whose stacks are [E, out, in], like the weights of torch.nn.Linear.
_AS_LINEAR = (
    "mixtral", "qwen2_moe", "qwen3_moe", "qwen3_next", "deepseek_v2", "deepseek_v3", "olmoe",
    "glm4_moe", "granitemoe", "minimax", "phimoe", "dots1", "ernie4_5_moe", "hunyuan_v1_moe",
)  # fmt: skip
# Names of experts' matrices that are stored alone: the old ones, and the present ones.
_MIXTRAL = re.compile(r"^(.+)\.block_sparse_moe\.experts\.(\d+)\.(w1|w2|w3)\.weight$")
_PRESENT = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}

A = TypeVar("A", bound=Any)
Index = tuple[slice | int, ...]
ALL = slice(None)


@dataclass(frozen=True)
class Piece:
    """The place of a matrix in a stored tensor: a run of its elements and an index into it."""

    stored: str
    shape: tuple[int, int]
    start: int
    """First element of the run."""
    block: tuple[int, ...]
    """Shape of the run."""
    index: Index = ()
    """The matrix within the block. All axes but the last become the rows."""
    transposed: bool = False
    """Whether the indexed part is [in, out]."""

    @property
    def stop(self) -> int:
        """The end of the run: the element after its last one."""
        count = 1
        for side in self.block:
            count *= side
        return self.start + count

    def of_run(self, run: A) -> A:
        """Return the matrix, M×N, from its flat run of elements; as a view if possible.

        The run is an array of torch or of NumPy.
        """
        part = run.reshape(self.block)[self.index]
        rows: A = part.reshape(-1, part.shape[-1])
        return rows.T if self.transposed else rows  # type: ignore[no-any-return]

    def of(self, flat: torch.Tensor) -> torch.Tensor:
        """Return the matrix, M×N, from the whole stored tensor, which is flat."""
        return self.of_run(flat[self.start : self.stop])

    def put(self, flat: torch.Tensor, w_MN: torch.Tensor) -> None:
        """Write the matrix to its place in the whole stored tensor, which is flat."""
        place = flat[self.start : self.stop].view(self.block)[self.index]
        place.copy_((w_MN.T if self.transposed else w_MN).reshape(place.shape))


class Matrices(NamedTuple):
    """A checkpoint viewed as matrices, and where it stores them."""

    view: Checkpoint
    """The checkpoint with the matrices, and all other tensors, as entries."""
    stored: Checkpoint
    pieces: dict[str, Piece]
    """The places of the matrices that are not stored alone under their name."""

    def names_in(self) -> dict[str, list[str]]:
        """Return the names of the view's entries that every stored tensor holds."""
        found: dict[str, list[str]] = {}
        for name in self.view.entries:
            piece = self.pieces.get(name)
            found.setdefault(piece.stored if piece else name, []).append(name)
        return found


def matrices(checkpoint: Checkpoint) -> Matrices:
    """View a checkpoint as its matrices."""
    pieces: dict[str, Piece] = {}
    entries: dict[str, TensorEntry] = {}
    divided: dict[str, int] = {}
    for name, entry in checkpoint.entries.items():
        found = _divided(entry, checkpoint.config)
        if not found or any(other in checkpoint.entries for other in found if other != name):
            entries[name] = entry
            continue
        for matrix, piece in found.items():
            pieces[matrix] = piece
            entries[matrix] = replace(entry, name=matrix, shape=piece.shape)
        if len(found) > 1:
            leaf = name.removesuffix(".weight").rpartition(".")[2]
            divided[leaf] = divided.get(leaf, 0) + 1
    if not pieces:
        return Matrices(checkpoint, checkpoint, {})
    derived = {n: f for n, f in checkpoint.derived.items() if n in entries}
    derived |= {matrix: _reader(checkpoint, piece) for matrix, piece in pieces.items()}
    notes = checkpoint.notes
    if divided:
        tensors = ", ".join(f"{count} {leaf}" for leaf, count in sorted(divided.items()))
        notes = (*notes, f"{tensors} hold several matrices each, and are blended as these.")
    view = replace(checkpoint, entries=entries, derived=derived, notes=notes)
    return Matrices(view, checkpoint, pieces)


def _reader(checkpoint: Checkpoint, piece: Piece) -> Callable[[], npt.NDArray[Any]]:
    def read() -> npt.NDArray[Any]:
        run = checkpoint.run(piece.stored, piece.start, piece.stop)
        return np.ascontiguousarray(piece.of_run(run))

    return read


def size_in(config: Mapping[str, Any], *keys: str) -> int:
    """The size of the language model by the first of these keys that gives one; 0 if none does."""
    text = config.get("text_config") or config
    found = (text.get(key) for key in keys)
    return next((v for v in found if isinstance(v, int) and v > 0), 0)


@dataclass(frozen=True)
class Sizes:
    """The sizes in a config; 0 for a size that the config does not give."""

    model_type: str
    hidden: int
    heads: int
    kv_heads: int
    head: int
    mlp: int
    expert_mlp: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Sizes:
        """Read the sizes of the language model."""
        text, size = config.get("text_config") or config, partial(size_in, config)
        hidden, heads = (
            size("hidden_size", "n_embd", "d_model"),
            size("num_attention_heads", "n_head", "n_heads"),
        )
        mlp = size("intermediate_size", "n_inner", "ffn_hidden_size")
        return cls(
            str(text.get("model_type", config.get("model_type", ""))),
            hidden,
            heads,
            size("num_key_value_heads") or heads,
            size("head_dim") or (hidden // heads if heads else 0),
            mlp,
            size("moe_intermediate_size") or mlp,
        )


def _divided(entry: TensorEntry, config: Mapping[str, Any]) -> dict[str, Piece]:
    """Return the matrices of one tensor by name; empty if there is nothing to divide or rename."""
    name, shape = entry.name, entry.shape
    if (old := _MIXTRAL.match(name)) and len(shape) == 2:
        present = f"{old[1]}.mlp.experts.{old[2]}.{_PRESENT[old[3]]}.weight"
        return {present: Piece(name, (shape[0], shape[1]), 0, shape)}
    if not FUSED.search(name) or not entry.elements:
        return {}
    sizes = Sizes.of(config)
    stem, _, leaf = name.removesuffix(".weight").rpartition(".")
    if len(shape) == 3:
        return _stack(name, stem, leaf, shape, sizes)
    return dict(_flat(name, stem, leaf, shape, sizes)) if len(shape) == 2 else {}


def _flat(
    name: str, stem: str, leaf: str, shape: tuple[int, ...], sizes: Sizes
) -> Iterator[tuple[str, Piece]]:
    """Yield the matrices that lie below or beside each other in a 2-D tensor."""
    rows, columns = shape
    q, kv = sizes.heads * sizes.head, sizes.kv_heads * sizes.head
    qkv = {"q_proj": q, "k_proj": kv, "v_proj": kv}
    if leaf == "qkv" and _in_tower(name):
        if rows == 3 * columns:
            yield from _below(name, stem, columns, dict.fromkeys(qkv, columns))
    elif leaf in ("qkv_proj", "Wqkv") or (leaf == "c_attn" and sizes.model_type == "qwen"):
        if columns == sizes.hidden and rows == q + 2 * kv and q:
            yield from _below(name, stem, columns, qkv)
    elif leaf == "gate_up_proj":
        if columns == sizes.hidden and rows % 2 == 0 and rows // 2 in (sizes.mlp, sizes.expert_mlp):
            half = rows // 2
            yield from _below(name, stem, columns, {"gate_proj": half, "up_proj": half})
    elif leaf == "query_key_value" and (rows, columns) == (3 * q, sizes.hidden):
        if sizes.model_type in ("gpt_neox", "bloom"):
            yield from _by_head(name, stem, columns, sizes)
    elif leaf == "c_attn" and (rows, columns) == (sizes.hidden, 3 * sizes.hidden):  # noqa: SIM102
        if sizes.model_type == "gpt2":
            yield from _beside(name, stem, rows)


def _by_head(name: str, stem: str, columns: int, sizes: Sizes) -> Iterator[tuple[str, Piece]]:
    """Yield q, k and v of a tensor that holds one head after another, each with its q, k and v."""
    block = (sizes.heads, 3, sizes.head, columns)
    shape = (sizes.heads * sizes.head, columns)
    for number, part in enumerate(("q_proj", "k_proj", "v_proj")):
        yield f"{stem}.{part}.weight", Piece(name, shape, 0, block, (ALL, number))


def _beside(name: str, stem: str, side: int) -> Iterator[tuple[str, Piece]]:
    """Yield q, k and v that lie beside each other, [in, out], as in transformers' Conv1D."""
    for number, part in enumerate(("q_proj", "k_proj", "v_proj")):
        where = (ALL, slice(number * side, (number + 1) * side))
        piece = Piece(name, (side, side), 0, (side, 3 * side), where, transposed=True)
        yield f"{stem}.{part}.weight", piece


def _below(
    name: str, stem: str, columns: int, parts: Mapping[str, int]
) -> Iterator[tuple[str, Piece]]:
    """Yield matrices that lie below each other; `parts` gives the rows of each."""
    start = 0
    for part, rows in parts.items():
        piece = Piece(name, (rows, columns), start * columns, (rows, columns))
        yield f"{stem}.{part}.weight", piece
        start += rows


def _in_tower(name: str) -> bool:
    return TOWER.search(name) is not None


TOWER = re.compile(
    r"(?:^|\.)(visual|vision_tower|vision_model|vision_encoder|audio_tower|audio_encoder|audio_model)\."
)


def _stack(
    name: str, stem: str, leaf: str, shape: tuple[int, ...], sizes: Sizes
) -> dict[str, Piece]:
    """Return the matrices of all experts of a layer by name; empty if the shape does not fit."""
    experts, hidden, inner = shape[0], sizes.hidden, sizes.expert_mlp
    granite = stem.endswith(".block_sparse_moe")
    if granite:
        stem = f"{stem.rpartition('.')[0]}.mlp.experts"
        leaf = {"input_linear": "gate_up_proj", "output_linear": "down_proj"}[leaf]
    out, into = {
        "gate_up_proj": (2 * inner, hidden),
        "down_proj": (hidden, inner),
    }.get(leaf, (inner, hidden))
    transposed = _orientation(shape[1:], out, into, sizes, granite=granite)
    if transposed is None:
        return {}
    found: dict[str, Piece] = {}
    for number in range(experts):
        start = number * out * into
        own = f"{stem}.{number}"
        if leaf != "gate_up_proj":
            piece = Piece(name, (out, into), start, shape[1:], (), transposed)
            found[f"{own}.{leaf}.weight"] = piece
            continue
        for half, part in enumerate(("gate_proj", "up_proj")):
            matrix = f"{own}.{part}.weight"
            if not transposed:
                begin = start + half * inner * hidden
                found[matrix] = Piece(name, (inner, hidden), begin, (inner, hidden))
                continue
            alternate = sizes.model_type in _ALTERNATE
            columns = slice(half, None, 2) if alternate else slice(half * inner, (half + 1) * inner)
            where = (ALL, columns)
            found[matrix] = Piece(name, (inner, hidden), start, shape[1:], where, transposed=True)
    return found


def _orientation(
    shape: tuple[int, ...], out: int, into: int, sizes: Sizes, *, granite: bool
) -> bool | None:
    """Whether an expert's matrix is stored as [in, out]; None if that cannot be decided."""
    if not out or not into or set(shape) != {out, into} or sorted(shape) != sorted((out, into)):
        return None
    if out != into:
        return shape == (into, out)
    if sizes.model_type in _TRANSPOSED:
        return True
    return False if granite or sizes.model_type in _AS_LINEAR else None
