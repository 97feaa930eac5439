"""Where a key leads on this disk: the one place that joins a folder with a name from elsewhere."""

from __future__ import annotations

from pathlib import Path

from svdjobs.errors import DamagedError, StorageError
from svdjobs.records import checked_key


def joined(folder: Path, key: str) -> Path:
    """The path of a key, or of a prefix, below a folder; the folder itself for an empty one.

    Raises:
        DamagedError: it is no key, and would lead out of the folder.
    """
    if not (name := key.removesuffix("/")):
        return folder
    try:
        return folder / checked_key(name)
    except ValueError as error:
        raise DamagedError(
            f"{folder}: {error}. Nothing is read or written there; delete what names it, e.g. a "
            f"manifest that svdjobs did not write."
        ) from None


def writable(folder: Path, key: str) -> Path:
    """The same for what is to be written or deleted: a folder on the way to it that is a link may
    lead within `folder` only.

    Raises:
        DamagedError: it is no key.
        StorageError: it leads out of the folder.
    """
    path = joined(folder, key)
    real = path.parent.resolve()
    if path != folder and not real.is_relative_to(folder.resolve()):
        raise StorageError(
            f"{path.parent} lies at {real}, outside {folder}, by a link: nothing is written or "
            f"deleted there. Put a folder in place of the link, or give a `store` on that disk."
        )
    return path
