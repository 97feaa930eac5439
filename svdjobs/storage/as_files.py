"""Download the objects of a store to files on this disk, for libraries that take only paths.

The sha256 of a downloaded object must be the one that its manifest lists. For an object without a
manifest, only the version can be checked: it must be the same before and after the download.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from svdjobs.errors import DamagedError, StorageError, UnavailableError, from_os_error
from svdjobs.parallel import in_order
from svdjobs.progress import Advance, size, track
from svdjobs.records import FileRecord, Manifest
from svdjobs.storage.local import LocalStore
from svdjobs.storage.objects import try_read_json
from svdjobs.storage.paths import joined
from svdjobs.storage.store import Hashing, Readable

PIECE_BYTES = 8 << 20
# Pieces to read ahead of the one in use; this bounds memory.
AHEAD = 8
# Space to leave free on the disk for the other files of a pod.
_MARGIN_BYTES = 64 << 20


@contextmanager
def local_folder(store: Readable, names: Sequence[str], *, below: str = "") -> Iterator[Path]:
    """Provide a folder that holds the objects `names` below a prefix, while the block runs.

    For a store in a folder, this is that folder, and its files are not checked. For another store,
    threads download the objects, in bounded memory, into a new folder in `tempfile.gettempdir()`.

    Raises:
        MissingKeyError: an object does not exist.
        StorageError: the disk has too little space (checked before any download), or an object
            differs from its record in the manifest.
        UnavailableError: an object was replaced during the download.
    """
    if isinstance(store, LocalStore):
        yield store.path(below)
        return
    keys = {name: f"{below}/{name}" if below else name for name in names}
    records = listed(store, below)
    with tempfile.TemporaryDirectory(prefix="svdjobs-", ignore_cleanup_errors=True) as folder:
        total = sum(store.size(key) for key in keys.values())
        require_room(store, Path(folder), total)
        with track(f"download {store.url}/{below}".rstrip("/"), total) as advance:
            for name, key in keys.items():
                _download(store, key, Path(folder), name, records.get(name), advance)
        yield Path(folder)


def listed(store: Readable, below: str = "") -> dict[str, FileRecord]:
    """Return the records in the manifest of a prefix, by name.

    Empty if there is no manifest of svdjobs: a checkpoint from elsewhere has none.
    """
    document = try_read_json(store, f"{below}/manifest.json" if below else "manifest.json")
    try:
        manifest = Manifest.read(document)
    except ValueError:
        return {}
    return {record.key: record for record in manifest.files}


def read_checked(store: Readable, key: str, record: FileRecord) -> bytearray:
    """Read a whole object, and compare its size and sha256 with its record.

    Raises:
        MissingKeyError: the object does not exist.
        DamagedError: its size or sha256 differs.
    """
    data = store.read(key)
    hashing = Hashing()
    hashing.update(data)
    _compare(store, key, hashing.record(key), record)
    return data


def pieces(store: Readable, key: str) -> Iterator[bytearray]:
    """Yield an object in pieces, from its first byte to its last, and read some pieces ahead."""
    length = store.size(key)

    def read(start: int) -> bytearray:
        return store.read(key, start, min(start + PIECE_BYTES, length))

    pool = ThreadPoolExecutor(AHEAD)
    try:
        yield from in_order(pool, read, range(0, length, PIECE_BYTES), ahead=AHEAD)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _download(
    store: Readable, key: str, folder: Path, name: str, record: FileRecord | None, advance: Advance
) -> None:
    path = joined(folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    version, hashing = store.version(key), Hashing()
    try:
        with path.open("wb") as file:
            for piece in pieces(store, key):
                hashing.update(piece)
                file.write(piece)
                advance(len(piece), name)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise from_os_error(error, doing=f"downloading {store.url}/{key} to {path}") from None
    if record is not None:
        _compare(store, key, hashing.record(key), record)
    elif store.version(key) != version:
        raise UnavailableError(
            f"{store.url}/{key} was replaced while it was being downloaded. Run the same command "
            f"again."
        )


def _compare(store: Readable, key: str, found: FileRecord, expected: FileRecord) -> None:
    if (found.bytes, found.sha256) != (expected.bytes, expected.sha256):
        raise DamagedError(
            f"{store.url}/{key} is not what its manifest lists: its sha256 is {found.sha256} "
            f"({found.bytes:,} bytes), expected {expected.sha256} ({expected.bytes:,} bytes). It "
            f"was damaged or replaced after it was written. Run its stage again with --force; for "
            f"grades and summaries `svdjobs grade` is enough, which generates no completions."
        )


def require_room(store: Readable, folder: Path, needed: int) -> None:
    """Check that the disk of a temporary folder has room for `needed` bytes of a store.

    Raises:
        StorageError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if needed + _MARGIN_BYTES > free:
        raise StorageError(
            f"{store.url}: its files need {size(needed)} on this disk, but {folder.parent} has "
            f"{size(free)} free. Set TMPDIR (now {os.environ.get('TMPDIR', 'unset')}) to a larger "
            f"disk, or give the pod a larger scratch volume."
        )
