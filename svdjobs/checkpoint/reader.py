"""Open a checkpoint as a list of tensors, and read each tensor on demand.

The model class is never loaded. Every source (a folder, a bucket, a hub snapshot) is opened as a
store that holds Hugging Face files.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from svdjobs.checkpoint.documents import (
    check_companions,
    companions,
    read_config,
    read_document,
)
from svdjobs.checkpoint.dtypes import as_array, as_tensor, numpy_dtype
from svdjobs.checkpoint.foreign import what_it_is
from svdjobs.checkpoint.safetensors_format import (
    FLOATS,
    ITEM_BITS,
    SAFETENSORS_NAMES,
    TensorEntry,
    read_header,
)
from svdjobs.errors import (
    CheckpointError,
    DamagedError,
    TensorError,
    first_line,
)
from svdjobs.storage.local import LocalStore
from svdjobs.storage.store import Readable

if TYPE_CHECKING:
    import torch

    Array = npt.NDArray[Any]

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED_INDEX = "pytorch_model.bin.index.json"
# A folder with any of these files holds whole weights, not only an adapter.
WHOLE = (INDEX, SINGLE, PICKLED_INDEX, "pytorch_model.bin")
# An index of 100,000 tensors has ten megabytes.
_MAX_INDEX_BYTES = 32 << 20
_NUMBERED = re.compile(r"model-(\d{5})-of-(\d{5})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose headers have been read and checked.

    All code reads its tensors through `entries`, `read`, `chunks` and `head`. What holds their
    elements is NumPy's, so a stage that only looks at some values needs no torch. Most tensors are
    a byte range of a file. A tensor in `derived` is the result of a function: a dequantised matrix,
    a slice of a stack, a matrix with an adapter merged into it. To view a checkpoint in another
    way, make a new one with `dataclasses.replace`: set `entries` and `derived`, a `config` that
    fits them, `also` for the other files that the functions read, and a sentence in `notes`.
    """

    label: str
    """The source as the user wrote it."""
    store: Readable
    config: dict[str, Any]
    entries: dict[str, TensorEntry]
    pickled: dict[str, Array] = field(default_factory=dict)
    """Tensors of `.bin` files, memory-mapped if the files are local; empty for safetensors."""
    derived: dict[str, Callable[[], Array]] = field(default_factory=dict)
    """Functions that compute a tensor when it is read, by tensor name.

    The tensor has the dtype and shape of its entry. The entry's `key` is one of the files that the
    tensor is made from; its `start` means nothing. Several threads call the functions, once for
    each read, and the functions keep no state."""
    ignored: tuple[str, ...] = ()
    """Tensors or weight files that do not belong to the checkpoint; other readers may take them."""
    also: tuple[tuple[Readable, tuple[str, ...]], ...] = ()
    """Other files that decide the tensors, with their store: those of an adapter, for example."""
    notes: tuple[str, ...] = ()
    """Sentences for the user on how this checkpoint is read."""

    @property
    def architecture(self) -> str:
        """The model class that config.json names."""
        return str((self.config.get("architectures") or ["unknown"])[0])

    @property
    def tied(self) -> bool:
        """Whether lm_head shares the embedding's weights."""
        text_config = self.config.get("text_config") or {}
        return bool(self.config.get("tie_word_embeddings", text_config.get("tie_word_embeddings")))

    @property
    def as_stored(self) -> bool:
        """Whether the files hold exactly these tensors: then every reader finds the same."""
        return not self.derived and not self.ignored

    def companions(self) -> list[str]:
        """Return the names of the companion files (tokenizer and the like) that are present."""
        return companions(self.store)

    def weight_files(self) -> list[str]:
        """Return the keys of the files that hold tensors."""
        return sorted({entry.key for entry in self.entries.values()})

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor in the dtype of its entry, after a check that it is finite.

        Raises:
            TensorError: the tensor holds NaN or Inf, or its file is too short.
        """
        entry = self.entries[name]
        tensor = as_tensor(self.array(name), entry.dtype)
        self._check_finite(entry, tensor)
        return tensor

    def array(self, name: str) -> Array:
        """Return one tensor as a NumPy array, in the dtype of its entry."""
        return self.derived[name]() if name in self.derived else self.stored(self.entries[name])

    def head(self, name: str, elements: int) -> npt.NDArray[np.float64]:
        """Return the first elements of one tensor, flat; all of them if it has fewer."""
        stop = min(elements, self.entries[name].elements)
        return self.run(name, 0, stop).astype(np.float64)

    def run(self, name: str, start: int, stop: int) -> Array:
        """Return the elements [start, stop) of one tensor, flat, in the dtype of its entry."""
        if name in self.derived:
            return self.derived[name]().reshape(-1)[start:stop]
        return self._slice(self.entries[name], start, stop)

    def stored(self, entry: TensorEntry) -> Array:
        """Return the tensor at the place of an entry; as flat bytes if NumPy has no such dtype."""
        flat = self._slice(entry, 0, entry.elements)
        if numpy_dtype(entry.dtype) is None:
            return flat
        try:
            return flat.reshape(entry.shape)
        except (TypeError, ValueError) as error:  # no elements, but sides beyond 64 bits
            raise TensorError(
                f"{self.label}: tensor {entry.name!r} has a shape that NumPy cannot hold: "
                f"{first_line(error):.80}."
            ) from None

    def chunks(self, name: str, elements: int = 1 << 24) -> Iterator[torch.Tensor]:
        """Yield one tensor as flat pieces of bounded size, after a check that each is finite."""
        entry = self.entries[name]
        whole = self.array(name).reshape(-1) if name in self.derived else None
        for start in range(0, entry.elements, elements):
            stop = min(start + elements, entry.elements)
            flat = self._slice(entry, start, stop) if whole is None else whole[start:stop]
            piece = as_tensor(flat, entry.dtype)
            self._check_finite(entry, piece)
            yield piece

    def _slice(self, entry: TensorEntry, start: int, stop: int) -> Array:
        if entry.name in self.pickled:
            return self.pickled[entry.name].reshape(-1)[start:stop]
        bits = ITEM_BITS[entry.dtype]
        try:
            data = self.store.read(
                entry.key, entry.start + start * bits // 8, entry.start + stop * bits // 8
            )
        except DamagedError as error:
            raise TensorError(f"{self.label}: tensor {entry.name!r}: {error}") from None
        return np.frombuffer(data, numpy_dtype(entry.dtype) or np.uint8)

    def _check_finite(self, entry: TensorEntry, tensor: torch.Tensor) -> None:
        import torch

        if entry.dtype not in FLOATS:
            return
        # If the sum is finite, all terms are; it costs a tenth of a test of each term. A sum can
        # overflow though all terms are finite, so each term is tested if the sum is not finite.
        wide = torch.float64 if entry.dtype == "F64" else torch.float32
        if bool(tensor.sum(dtype=wide).isfinite()) or bool(tensor.isfinite().all()):
            return
        nans, infinities = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        raise TensorError(
            f"{self.label}: tensor {entry.name!r} {list(entry.shape)} holds {nans:,} NaN and "
            f"{infinities:,} infinite values; all must be finite. The checkpoint is broken (a "
            f"diverged run or a bad conversion): use an earlier one."
        )


def read_checkpoint(store: Readable, label: str, *, allow_pickle: bool = False) -> Checkpoint:
    """Open a checkpoint. Read its config and headers, but not its weights.

    Raises:
        CheckpointError: the config, the weights or a weight file is missing; a header is corrupt;
            or the weights are pickled and `allow_pickle` is not set.
    """
    config = read_config(store, label)
    check_companions(store, label)
    weights = _weight_map(store, label, INDEX) if store.exists(INDEX) else {}
    if files := _weight_files(store, label, weights):
        with ThreadPoolExecutor(8) as pool:
            headers = pool.map(partial(read_header, store), files)
            found = [entry for header in headers for entry in header]
        opened = _placed(label, store, config, weights, found, INDEX)
        return opened if weights else _beside_others(opened, files)
    return _read_pickled(store, label, config, allow_pickle=allow_pickle)


def _placed(
    label: str,
    store: Readable,
    config: dict[str, Any],
    weights: dict[str, str],
    tensors: Iterable[TensorEntry],
    index: str,
) -> Checkpoint:
    """Make a checkpoint from the tensors in its files. `weights` is its index; empty without one.

    The index decides from which file a tensor is read. A tensor that it does not name is not part
    of the checkpoint.

    Raises:
        CheckpointError: a tensor is missing in the file that the index names for it; or, without an
            index, two files hold the same tensor.
    """
    found = {(entry.key, entry.name): entry for entry in tensors}
    if not weights:
        _check_unique(label, found, index)
        return Checkpoint(label, store, config, {entry.name: entry for entry in found.values()})
    named = {(key, name) for name, key in weights.items()}
    if missing := sorted(name for key, name in named if (key, name) not in found):
        elsewhere = {name: key for key, name in found}
        first = missing[0]
        hint = f"; {elsewhere[first]} holds {first}" if first in elsewhere else ""
        raise CheckpointError(
            f"{label}: {index} lists {len(missing)} tensors that the file it names does not hold: "
            f"{', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}{hint}. Fetch the "
            f"checkpoint again, or save it again."
        )
    entries = {entry.name: entry for place, entry in found.items() if place in named}
    ignored = tuple(sorted(f"{name} in {key}" for key, name in found if (key, name) not in named))
    notes: tuple[str, ...] = ()
    if ignored:
        notes = (
            f"{len(ignored)} tensors lie in files where {index} does not place them, and are not "
            f"read: {', '.join(ignored[:3])}{' …' if len(ignored) > 3 else ''}.",
        )
    return Checkpoint(label, store, config, entries, ignored=ignored, notes=notes)


def _check_unique(label: str, found: dict[tuple[str, str], TensorEntry], index: str) -> None:
    """Refuse a tensor that two files hold, in a checkpoint without an index."""
    seen: dict[str, str] = {}
    for key, name in found:
        if name in seen:
            raise CheckpointError(
                f"{label}: the tensor {name!r} lies in {seen[name]} and in {key}, and there is no "
                f"{index} to decide. Remove the file that does not belong to the checkpoint."
            )
        seen[name] = key


def _beside_others(opened: Checkpoint, files: list[str]) -> Checkpoint:
    """Check the other weight files in the folder of a checkpoint without an index.

    Some engines read all of them. Refuse numbered files beside its own; note any others.
    """
    keys = [key for key in opened.store.keys("") if "/" not in key]
    others = [key for key in keys if key.endswith(".safetensors") and key not in files]
    if numbered := [key for key in others if _NUMBERED.fullmatch(key)]:
        raise CheckpointError(
            f"{opened.label}: {opened.store.url} has {files[0]} and {', '.join(numbered)}, and "
            f"there is no {INDEX} to decide. Remove the files that do not belong to the checkpoint."
        )
    if not others:
        return opened
    note = f"{', '.join(others)} beside {files[0]} is not read: no {INDEX} names it."
    return replace(opened, ignored=tuple(others), notes=(*opened.notes, note))


def _weight_files(store: Readable, label: str, weights: dict[str, str]) -> list[str]:
    """Return the keys of the safetensors files. `weights` is the index; empty without one."""
    if not weights:
        return [SINGLE] if store.exists(SINGLE) else _numbered_files(store, label)
    return _all_there(store, label, weights, INDEX)


def _all_there(store: Readable, label: str, weights: dict[str, str], index: str) -> list[str]:
    """Return the files that an index names. Raise if one is missing."""
    files = sorted(set(weights.values()))
    if missing := [key for key in files if not store.exists(key)]:
        raise CheckpointError(
            f"{label}: {index} names {len(files)} files, {len(missing)} of them missing from "
            f"{store.url}: {', '.join(missing)}. Fetch them again."
        )
    return files


def _numbered_files(store: Readable, label: str) -> list[str]:
    """Return `model-00001-of-00003.safetensors` and so on, in a checkpoint without an index.

    Raises:
        CheckpointError: one is missing, or the files are of two checkpoints.
    """
    matches = {key: match for key in store.keys("") if (match := _NUMBERED.fullmatch(key))}
    counts = {int(match[2]) for match in matches.values()}
    numbers = sorted(int(match[1]) for match in matches.values())
    if len(counts) > 1 or (counts and numbers != list(range(1, max(counts) + 1))):
        raise CheckpointError(
            f"{label}: {store.url} has {', '.join(sorted(matches))} and no {INDEX}; files are "
            f"missing, or belong to two checkpoints. Fetch them and the index again."
        )
    return sorted(matches)


def _weight_map(store: Readable, label: str, index: str) -> dict[str, str]:
    """Read an index: the file of each tensor. No file may lie outside the folder."""
    weights = read_document(store, index, label, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{label}: {index} has no weight_map.")
    for name, key in weights.items():
        if not name.isprintable():
            raise CheckpointError(
                f"{label}: {index} names a tensor {name!r:.80}, which has control characters."
            )
        if not isinstance(key, str) or PurePosixPath(key).name != key or not key.isprintable():
            raise CheckpointError(f"{label}: {index} names the file {key!r} outside the folder.")
    return weights


def _read_pickled(
    store: Readable, label: str, config: dict[str, Any], *, allow_pickle: bool
) -> Checkpoint:
    """Open a `.bin` checkpoint if the user allows it. weights_only runs no code from the files."""
    files = [key for key in store.keys("") if "/" not in key and key.endswith(".bin")]
    files = [key for key in files if key.startswith("pytorch_model")]
    if not files:
        raise CheckpointError(f"{label}: no {SINGLE} or {INDEX} in {store.url}.{what_it_is(store)}")
    if not allow_pickle:
        raise CheckpointError(
            f"{label}: only pickled weights ({', '.join(files)}) in {store.url}. Pickle files can "
            f"run code when opened: convert them to safetensors, or pass --allow-pickle to read "
            f"them with weights_only."
        )
    weights = {}
    if store.exists(PICKLED_INDEX):
        weights = _weight_map(store, label, PICKLED_INDEX)
        files = _all_there(store, label, weights, PICKLED_INDEX)
    loaded = {key: _load_pickle(store, key, label) for key in files}
    found = [
        TensorEntry(name, str(_short_dtype(tensor)), tuple(tensor.shape), key, 0)
        for key, tensors in loaded.items()
        for name, tensor in tensors.items()
    ]
    opened = _placed(label, store, config, weights, found, PICKLED_INDEX)
    pickled = {name: as_array(loaded[entry.key][name]) for name, entry in opened.entries.items()}
    return replace(opened, pickled=pickled)


def _short_dtype(tensor: torch.Tensor) -> str | None:
    """Return safetensors' name of a tensor's dtype; None if it has none."""
    return SAFETENSORS_NAMES.get(str(tensor.dtype).removeprefix("torch."))


def _load_pickle(store: Readable, key: str, label: str) -> dict[str, torch.Tensor]:
    import pickle

    import torch

    try:
        if isinstance(store, LocalStore):
            loaded = torch.load(store.path(key), map_location="cpu", weights_only=True, mmap=True)
        else:
            data = io.BytesIO(store.read(key))
            loaded = torch.load(data, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = first_line(error)
        raise CheckpointError(f"{label}: {key} cannot be read as plain tensors: {reason}") from None
    if isinstance(loaded, dict):  # a trainer wraps the weights and adds its own state
        wrapped = (loaded.get(name) for name in ("model", "module", "state_dict"))
        loaded = next((inner for inner in wrapped if isinstance(inner, dict)), loaded)
    if not isinstance(loaded, dict) or not all(torch.is_tensor(t) for t in loaded.values()):
        raise CheckpointError(f"{label}: {key} does not hold a mapping from names to tensors.")
    for name, tensor in loaded.items():
        if _short_dtype(tensor) is None:
            raise TensorError(
                f"{label}: {key}: tensor {name!r} has dtype {tensor.dtype}, which safetensors does "
                f"not have; expected one of {', '.join(SAFETENSORS_NAMES)}."
            )
    return {name: tensor.contiguous() for name, tensor in loaded.items()}


def config_dtype_fields(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return the config with the dtype of the weights (`torch_dtype` before transformers 5)."""
    stated = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return {**config, **dict.fromkeys(stated, dtype)}
