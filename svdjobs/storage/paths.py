"""Join a folder and a key to a path: the only place that does so with names from elsewhere."""

from __future__ import annotations

from pathlib import Path

from svdjobs.errors import DamagedError, StorageError
from svdjobs.records import checked_key


def joined(folder: Path, key: str) -> Path:
    """The path of a key or prefix below a folder; for an empty one, the folder itself.

    Raises:
        DamagedError: the key is not a valid one: it might lead out of the folder.
    """
    if not (name := key.removesuffix("/")):
        return folder
    try:
        return folder / checked_key(name)
    except ValueError as error:
        raise DamagedError(
            f"{folder}: {error}. svdjobs reads and writes nothing there. Delete the file that "
            f"names this key, e.g. a manifest that svdjobs did not write."
        ) from None


def writable(folder: Path, key: str) -> Path:
    """The path of a key that is to be written or deleted. No link on the way to it may lead out of
    `folder`.

    Raises:
        DamagedError: the key is not a valid one.
        StorageError: a link leads out of the folder.
    """
    path = joined(folder, key)
    real = path.parent.resolve()
    if path != folder and not real.is_relative_to(folder.resolve()):
        raise StorageError(
            f"{path.parent} leads through a link to {real}, outside {folder}: svdjobs writes and "
            f"deletes nothing there. Replace the link by a folder, or give a `store` on that disk."
        )
    return path
