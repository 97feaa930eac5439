"""Where checkpoints come from: a folder, or the Hugging Face hub."""

from __future__ import annotations

import re
from pathlib import Path

from svdjobs.checkpoint.reader import COMPANIONS, Checkpoint, read_checkpoint
from svdjobs.errors import CheckpointError, StorageError
from svdjobs.storage.local import LocalStore

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?|[\w.-]+@[\w./-]+")
_PATTERNS = ["config.json", "*.safetensors", "*.safetensors.index.json", *COMPANIONS]


def open_checkpoint(source: str, *, allow_pickle: bool = False) -> Checkpoint:
    """Open `source`: a folder if there is one of that name, else a hub id `owner/name@revision`.

    Hub snapshots come from the offline cache where they are in it.

    Raises:
        CheckpointError: neither a folder nor a hub id, or not a whole checkpoint.
        StorageError: the hub cannot be reached and the cache does not hold it.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if folder.is_file():
            raise CheckpointError(f"{source} is a file; expected the folder of a checkpoint.")
        if source.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(source):
            raise CheckpointError(f"{source}: no such folder, and not a hub id (owner/name).")
        folder = _download(source, allow_pickle=allow_pickle)
    return read_checkpoint(LocalStore(folder), source, allow_pickle=allow_pickle)


def _download(source: str, *, allow_pickle: bool) -> Path:
    """Folder of a hub snapshot, downloaded unless the cache has it."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repository, _, revision = source.partition("@")
    patterns = [*_PATTERNS, "*.bin"] if allow_pickle else _PATTERNS
    try:
        return Path(
            snapshot_download(repository, revision=revision or None, allow_patterns=patterns)
        )
    except GatedRepoError:
        raise CheckpointError(
            f"{source}: access must be asked for on the hub (set HF_TOKEN)."
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(f"{source}: no such folder, and the hub has no such model.") from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{source}: the hub has no revision {revision!r} of it.") from None
    except (LocalEntryNotFoundError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(
            f"{source}: no such folder, and the hub could not be reached for it ({reason}). Copy "
            f"the checkpoint here and give its folder, or try again with a network."
        ) from None
