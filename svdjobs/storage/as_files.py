"""Objects of a store as files on this disk, for libraries that take paths only; all of it checked.

What a manifest lists must have the sha256 it lists. Of other objects only the version can be looked
at: it must be the same after the download as before it.
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
# Pieces read ahead of the one being used; the bound on memory.
AHEAD = 8
# Left free on the disk: other files of the same pod need some.
_MARGIN_BYTES = 64 << 20


@contextmanager
def local_folder(store: Readable, names: Sequence[str], *, below: str = "") -> Iterator[Path]:
    """A folder that holds the objects `names` below a prefix, while the block runs.

    Of a store that is a folder, that very folder; of another, a new one in `tempfile.gettempdir()`,
    into which they are downloaded by several threads in bounded memory.

    Raises:
        MissingKeyError: one is not there.
        StorageError: too little disk (before anything is downloaded), or bytes that differ from
            the manifest's.
        UnavailableError: an object was replaced meanwhile.
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
    """What the manifest of a prefix lists, by name; empty where there is none, as of a checkpoint
    that svdjobs did not write."""
    document = try_read_json(store, f"{below}/manifest.json" if below else "manifest.json")
    try:
        manifest = Manifest.read(document)
    except ValueError:
        return {}
    return {record.key: record for record in manifest.files}


def read_checked(store: Readable, key: str, record: FileRecord) -> bytearray:
    """A whole object, with the size and sha256 of its record.

    Raises:
        MissingKeyError: it is not there.
        DamagedError: it has others.
    """
    data = store.read(key)
    hashing = Hashing()
    hashing.update(data)
    _compare(store, key, hashing.record(key), record)
    return data


def pieces(store: Readable, key: str) -> Iterator[bytearray]:
    """An object from its first byte to its last, some pieces of it read ahead."""
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
            f"({found.bytes:,} bytes), listed is {expected.sha256} ({expected.bytes:,} bytes). It "
            f"was damaged or replaced after it was written. Run its stage again with --force; for "
            f"grades and summaries `svdjobs grade` is enough, which draws nothing."
        )


def require_room(store: Readable, folder: Path, needed: int) -> None:
    """Make sure that a temporary folder can take so many bytes of a store.

    Raises:
        StorageError: it cannot.
    """
    free = shutil.disk_usage(folder).free
    if needed + _MARGIN_BYTES > free:
        raise StorageError(
            f"{store.url}: {size(needed)} are needed as files on this disk, {folder.parent} has "
            f"{size(free)} free. Set TMPDIR (now {os.environ.get('TMPDIR', 'unset')}) to a larger "
            f"disk, or give the pod a larger scratch volume."
        )
