"""Open a checkpoint from a folder, a bucket, this package or the Hugging Face hub."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable
from fnmatch import fnmatch
from functools import partial
from importlib.resources import files
from pathlib import Path

from svdjobs.checkpoint.documents import COMPANIONS
from svdjobs.checkpoint.foreign import what_it_is
from svdjobs.checkpoint.hub_files import HubFiles, hub_errors
from svdjobs.checkpoint.lora import adapter_config, is_adapter, refuse_unmerged, with_adapter
from svdjobs.checkpoint.quantised import dequantised
from svdjobs.checkpoint.reader import WHOLE, Checkpoint, read_checkpoint
from svdjobs.errors import (
    CheckpointError,
    StorageError,
    first_line,
)
from svdjobs.storage.local import LocalStore
from svdjobs.storage.open import open_store
from svdjobs.storage.store import S3, Readable, Store

DEMO = "demo:"
ADDED = " + "
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?|[\w.-]+@[\w./-]+")
_PATTERNS = [
    "config.json", "adapter_config.json", "*.safetensors", "*.safetensors.index.json", *COMPANIONS,
]  # fmt: skip


Copies = Callable[[str], Store | None]
"""The store with a copy of a hub checkpoint; None if there is none."""


def no_copies(source: str) -> Store | None:
    """Checkpoints of the hub are nowhere but there and in its cache."""


def open_checkpoint(
    source: str, *, allow_pickle: bool = False, copies: Copies = no_copies
) -> Checkpoint:
    """Open the checkpoint that `source` names.

    A source is `s3://bucket/prefix`, a checkpoint of this package (`demo:base`), a folder if one of
    that name exists, or else a hub id `owner/name@revision`. A LoRA adapter is merged into the base
    that its config names, or into the base in front of it: `BASE + ADAPTER`.

    A hub snapshot is read from its copy, or downloaded unless the cache holds it.

    Raises:
        CheckpointError: `source` is neither a folder nor a hub id, or not a whole checkpoint.
        StorageError: the bucket refuses; or the cache does not hold the checkpoint, and
            HF_HUB_OFFLINE is set.
        UnavailableError: the bucket or the hub does not answer for now.
    """
    again = partial(open_checkpoint, allow_pickle=allow_pickle, copies=copies)
    if ADDED in source:
        first, second = source.split(ADDED, 1)
        adapter = copies(second) or _named(second) or LocalStore(_download(second))
        return _with_adapter(source, again(first), adapter, second)
    store = copies(source) or _named(source)
    store = store or LocalStore(_download(source, allow_pickle=allow_pickle))
    return _opened(store, source, allow_pickle=allow_pickle, open_base=again)


def open_headers(
    source: str, *, allow_pickle: bool = False, copies: Copies = no_copies
) -> Checkpoint:
    """Open `source` only for its config and headers.

    If a hub checkpoint is not in the cache, this fetches a few hundred kilobytes of it by ranges,
    but not its weights. Its tensors can be read, but each read is then a request to the hub.

    Raises:
        CheckpointError, StorageError: as `open_checkpoint`.
    """
    again = partial(open_headers, allow_pickle=allow_pickle, copies=copies)
    if ADDED in source:
        first, second = source.split(ADDED, 1)
        adapter = copies(second) or _named(second) or _cached(second) or hub_files(second)
        with hub_errors(second):
            return _with_adapter(source, again(first), adapter, second)
    if store := copies(source) or _named(source) or _cached(source):
        return _opened(store, source, allow_pickle=allow_pickle, open_base=again)
    files = hub_files(source)
    with hub_errors(source):
        if allow_pickle and not any(key.endswith(".safetensors") for key in files.keys("")):
            return open_checkpoint(source, allow_pickle=allow_pickle)  # pickles have no headers
        return _opened(files, source, allow_pickle=False, open_base=again)


def is_hub_id(source: str) -> bool:
    """Whether a source is a checkpoint of the hub, and not a folder of that name."""
    return bool(_HUB_ID.fullmatch(source)) and not Path(source).exists()


def hub_parts(source: str) -> list[str]:
    """The hub checkpoints that a source consists of: itself, or those of `BASE + ADAPTER`."""
    return [part for part in source.split(ADDED) if is_hub_id(part)]


def hub_files(source: str) -> HubFiles:
    """The files of a hub checkpoint at the commit that its revision names now.

    Raises:
        CheckpointError, StorageError, UnavailableError: as `open_checkpoint`.
    """
    repository, _, revision = source.partition("@")
    with hub_errors(source):
        return HubFiles(repository, revision or None)


def wanted_files(files: HubFiles, *, allow_pickle: bool) -> list[str]:
    """The files of a repository that a checkpoint consists of: config, weights, tokenizer."""
    patterns = [*_PATTERNS, "*.bin"] if allow_pickle else _PATTERNS
    return [name for name in files.keys("") if any(fnmatch(name, pattern) for pattern in patterns)]


def base_of(adapter: Readable, source: str) -> str:
    """The base that an adapter names.

    Raises:
        CheckpointError: it names none, or is of an unsupported kind.
    """
    named = adapter_config(adapter, source).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise CheckpointError(
            f"{source}: adapter_config.json names no base_model_name_or_path. Give the base, too: "
            f"`BASE{ADDED}{source}`."
        )
    return named


def _opened(
    store: Readable, source: str, *, allow_pickle: bool, open_base: Callable[[str], Checkpoint]
) -> Checkpoint:
    """Open the checkpoint in a store; for an adapter, open its base and merge the adapter."""
    if not is_adapter(store):
        return _usable(read_checkpoint(store, source, allow_pickle=allow_pickle))
    if whole := [key for key in WHOLE if store.exists(key)]:
        raise CheckpointError(
            f"{source} holds an adapter (adapter_model.safetensors) and whole weights "
            f"({whole[0]}), which may be its base or another checkpoint. Give "
            f"`BASE{ADDED}{source}` to use the adapter, or move the adapter's files to another "
            f"folder to use the weights."
        )
    return with_adapter(open_base(base_of(store, source)), store, source)


def _with_adapter(source: str, base: Checkpoint, adapter: Readable, named: str) -> Checkpoint:
    """Merge the adapter of `BASE + ADAPTER`."""
    if not is_adapter(adapter):
        raise CheckpointError(
            f"{source}: {named} holds no adapter (adapter_config.json, adapter_model.safetensors)."
        )
    return with_adapter(base, adapter, source)


def _usable(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint whose tensors are the model's weights; dequantise float8 matrices.

    Raises:
        CheckpointError: the checkpoint holds packed integers or unmerged adapters.
    """
    refuse_unmerged(checkpoint)
    return dequantised(checkpoint)


def _named(source: str) -> Store | None:
    """Return the store that a source names; None for a hub id."""
    if source.startswith(S3):
        return open_store(source)
    if source.startswith(DEMO):
        return LocalStore(_shipped(source.removeprefix(DEMO)))
    folder = _folder(source)
    return None if folder is None else LocalStore(folder)


def _shipped(name: str) -> Path:
    """Return the folder of a checkpoint that comes with the package.

    Images hold the package but not the repository, so its checkpoints are in the package.
    """
    root = Path(str(files("svdjobs"))) / "demo" / "checkpoints"
    names = sorted(path.name for path in root.iterdir())
    if name not in names:
        raise CheckpointError(
            f"{DEMO}{name}: no such checkpoint; there are {', '.join(DEMO + n for n in names)}."
        )
    return root / name


def _folder(source: str) -> Path | None:
    """Return the folder that a source names; None for a hub id."""
    try:  # fails on a name that is too long, and on the home of a user who does not exist
        folder = Path(source).expanduser()
        is_folder, is_file = folder.is_dir(), folder.is_file()
    except (
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        raise CheckpointError(f"{source!r:.80}: no such folder ({first_line(error)}).") from None
    if is_folder:
        return folder
    if is_file:
        raise CheckpointError(
            f"{source} is a file; expected the folder of a checkpoint."
            f"{what_it_is(LocalStore(folder.parent), folder.name)}"
        )
    near = _folder_nearly(folder)
    hint = f" Did you mean {near}?" if near else ""
    if source.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source):
        raise CheckpointError(f"{source}: no such folder, and not a hub id (owner/name).{hint}")
    if near and folder.parent != Path():
        # Probably a misspelt folder, not a hub id; a request to the hub would take half a minute.
        raise CheckpointError(
            f"{source}: no such folder.{hint} For the hub's model of that name, give "
            f"{source.partition('@')[0]}@main."
        )
    return None


def _folder_nearly(folder: Path) -> Path | None:
    """Return a folder with a similar name in the same folder; None if there is none."""
    if "@" in folder.name or not folder.parent.is_dir():
        return None
    try:
        names = [path.name for path in folder.parent.iterdir() if path.is_dir()]
    except OSError:
        return None
    close = difflib.get_close_matches(folder.name, names, n=1, cutoff=0.8)
    return folder.parent / close[0] if close else None


def in_shared_cache(source: str) -> bool:
    """Whether a read-only cache of the hub, which pods share, holds the whole checkpoint."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    if not cache.exists() or os.access(cache, os.W_OK) or (found := _cached(source)) is None:
        return False
    if not is_adapter(found):
        return True
    base = base_of(found, source)
    return not is_hub_id(base) or in_shared_cache(base)


def _cached(source: str) -> LocalStore | None:
    """Return the folder of a snapshot in the cache; None if some of its weights are missing."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    repository, _, revision = source.partition("@")
    try:
        folder = LocalStore(
            snapshot_download(repository, revision=revision or None, local_files_only=True)
        )
        if not is_adapter(folder):
            read_checkpoint(folder, source, allow_pickle=True)
    except (LocalEntryNotFoundError, HFValidationError, CheckpointError, StorageError):
        return None
    return folder


def _download(source: str, *, allow_pickle: bool = False) -> Path:
    """Download a hub snapshot unless the cache has it. Return its folder."""
    from huggingface_hub import snapshot_download

    repository, _, revision = source.partition("@")
    patterns = [*_PATTERNS, "*.bin"] if allow_pickle else _PATTERNS
    with hub_errors(source):
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
        )
