"""A checkpoint as the list of its tensors, each read only when asked for.

The model class is never loaded. Whatever the source (a folder, a bucket, a hub snapshot), what is
opened here is a store holding Hugging Face files.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from svdjobs.checkpoint.safetensors_format import (
    FLOATS,
    SAFETENSORS_NAMES,
    TORCH_NAMES,
    TensorEntry,
    read_header,
)
from svdjobs.errors import (
    CheckpointError,
    MissingKeyError,
    StorageError,
    TensorError,
    UnavailableError,
    first_line,
)
from svdjobs.storage.local import LocalStore
from svdjobs.storage.store import Store, read_json

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
# What travels with the weights into every checkpoint we write; README.md is replaced by our card.
COMPANIONS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
    "chat_template.json", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose headers have been read and checked."""

    label: str
    """What the user called it."""
    store: Store
    config: dict[str, Any]
    entries: dict[str, TensorEntry]
    pickled: dict[str, torch.Tensor] = field(default_factory=dict)
    """Tensors of `.bin` files, memory-mapped where they lie on a disk; empty for safetensors."""

    @property
    def architecture(self) -> str:
        """Model class named in config.json."""
        return str((self.config.get("architectures") or ["unknown"])[0])

    @property
    def tied(self) -> bool:
        """Whether lm_head shares the embedding's weights."""
        text_config = self.config.get("text_config") or {}
        return bool(self.config.get("tie_word_embeddings", text_config.get("tie_word_embeddings")))

    def companions(self) -> list[str]:
        """Tokenizer files and the like that are present."""
        with ThreadPoolExecutor(8) as pool:
            there = pool.map(self.store.exists, COMPANIONS)
            return [name for name, found in zip(COMPANIONS, there, strict=True) if found]

    def weight_files(self) -> list[str]:
        """Keys of the files that hold tensors."""
        return sorted({entry.key for entry in self.entries.values()})

    def read(self, name: str) -> torch.Tensor:
        """One tensor in its stored dtype, finite.

        Raises:
            TensorError: NaN or Inf in it, or its bytes are short.
        """
        entry = self.entries[name]
        tensor = self._slice(entry, 0, entry.elements).reshape(entry.shape)
        self._check_finite(entry, tensor)
        return tensor

    def chunks(self, name: str, elements: int = 1 << 24) -> Iterator[torch.Tensor]:
        """One tensor as flat pieces of bounded size, each finite."""
        entry = self.entries[name]
        for start in range(0, entry.elements, elements):
            piece = self._slice(entry, start, min(start + elements, entry.elements))
            self._check_finite(entry, piece)
            yield piece

    def _slice(self, entry: TensorEntry, start: int, stop: int) -> torch.Tensor:
        import torch

        if entry.name in self.pickled:
            return self.pickled[entry.name].reshape(-1)[start:stop]
        width = entry.bytes // entry.elements if entry.elements else 1
        try:
            data = self.store.read(
                entry.key, entry.start + start * width, entry.start + stop * width
            )
        except UnavailableError:
            raise
        except StorageError as error:
            raise TensorError(f"{self.label}: tensor {entry.name!r}: {error}") from None
        dtype: torch.dtype = getattr(torch, TORCH_NAMES[entry.dtype])
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)

    def _check_finite(self, entry: TensorEntry, tensor: torch.Tensor) -> None:
        import torch

        if entry.dtype not in FLOATS:
            return
        # A finite sum has finite terms, and costs a tenth of looking at each; a sum that overflows
        # says nothing, so only then they are looked at.
        wide = torch.float64 if entry.dtype == "F64" else torch.float32
        if bool(tensor.sum(dtype=wide).isfinite()) or bool(tensor.isfinite().all()):
            return
        nans, infinities = int(tensor.isnan().sum()), int(tensor.isinf().sum())
        raise TensorError(
            f"{self.label}: tensor {entry.name!r} {list(entry.shape)} holds {nans:,} NaN and "
            f"{infinities:,} infinite values; all must be finite. The checkpoint is broken (a "
            f"diverged run or a bad conversion): take an earlier one."
        )


def read_checkpoint(store: Store, label: str, *, allow_pickle: bool = False) -> Checkpoint:
    """Open a checkpoint: config and headers are read, weights are not.

    Raises:
        CheckpointError: no config, no weights, a missing shard or a corrupt header; a pickled
            checkpoint unless `allow_pickle`.
    """
    try:
        config = read_json(store, "config.json")
    except MissingKeyError:
        raise CheckpointError(
            f"{label}: no config.json in {store.url}, so this is not a Hugging Face checkpoint "
            f"folder."
        ) from None
    except UnavailableError:
        raise
    except StorageError as error:
        raise CheckpointError(f"{label}: {error}") from None
    if not isinstance(config, dict):
        raise CheckpointError(f"{label}: config.json must hold a JSON object.")
    weights = _weight_map(store, label) if store.exists(INDEX) else {}
    if files := _weight_files(store, label, weights):
        with ThreadPoolExecutor(8) as pool:
            headers = pool.map(partial(read_header, store), files)
            entries = {entry.name: entry for header in headers for entry in header}
        _check_index(label, weights, entries)
        return Checkpoint(label, store, config, entries)
    return _read_pickled(store, label, config, allow_pickle=allow_pickle)


def _weight_files(store: Store, label: str, weights: dict[str, str]) -> list[str]:
    """Keys of the safetensors files, all present; `weights` is empty where there is no index."""
    if not weights:
        return [SINGLE] if store.exists(SINGLE) else []
    files = sorted(set(weights.values()))
    if missing := [key for key in files if not store.exists(key)]:
        raise CheckpointError(
            f"{label}: {INDEX} names {len(files)} files, {len(missing)} of them missing from "
            f"{store.url}: {', '.join(missing)}. Fetch them again."
        )
    return files


def _weight_map(store: Store, label: str) -> dict[str, str]:
    index = read_json(store, INDEX)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not weights:
        raise CheckpointError(f"{label}: {INDEX} has no weight_map.")
    for key in weights.values():
        if not isinstance(key, str) or PurePosixPath(key).name != key:
            raise CheckpointError(f"{label}: {INDEX} names the file {key!r} outside the folder.")
    return weights


def _check_index(label: str, weights: dict[str, str], entries: dict[str, TensorEntry]) -> None:
    absent = sorted(name for name in weights if name not in entries)
    if absent:
        raise CheckpointError(
            f"{label}: {INDEX} lists {len(absent)} tensors that no file holds: "
            f"{', '.join(absent[:5])}{' …' if len(absent) > 5 else ''}."
        )


def _read_pickled(
    store: Store, label: str, config: dict[str, Any], *, allow_pickle: bool
) -> Checkpoint:
    """A `.bin` checkpoint, only on request and never executing what it holds (weights_only)."""
    files = [key for key in store.keys("") if "/" not in key and key.endswith(".bin")]
    files = [key for key in files if key.startswith("pytorch_model")]
    if not files:
        raise CheckpointError(f"{label}: no {SINGLE} or {INDEX} in {store.url}.")
    if not allow_pickle:
        raise CheckpointError(
            f"{label}: only pickled weights ({', '.join(files)}) in {store.url}. Pickle files can "
            f"run code when opened: convert them to safetensors, or pass --allow-pickle to read "
            f"them with weights_only."
        )
    tensors: dict[str, torch.Tensor] = {}
    origin: dict[str, str] = {}
    for key in files:
        loaded = _load_pickle(store, key, label)
        tensors.update(loaded)
        origin.update(dict.fromkeys(loaded, key))
    entries = {
        name: TensorEntry(name, SAFETENSORS_NAMES[str(tensor.dtype).removeprefix("torch.")],
                          tuple(tensor.shape), origin[name], 0)
        for name, tensor in tensors.items()
    }  # fmt: skip
    return Checkpoint(label, store, config, entries, tensors)


def _load_pickle(store: Store, key: str, label: str) -> dict[str, torch.Tensor]:
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
    if not isinstance(loaded, dict) or not all(torch.is_tensor(t) for t in loaded.values()):
        raise CheckpointError(f"{label}: {key} does not hold a mapping from names to tensors.")
    return {name: tensor.contiguous() for name, tensor in loaded.items()}


def config_dtype_fields(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A config that states the dtype the weights were written in (`torch_dtype` before v5)."""
    stated = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    return {**config, **dict.fromkeys(stated, dtype)}
