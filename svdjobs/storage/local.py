"""A store in a folder. Objects are written to a hidden temporary file, synced and renamed."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from svdjobs.errors import BusyError, DamagedError, MissingKeyError, StorageError, from_os_error
from svdjobs.records import FileRecord
from svdjobs.storage.paths import joined, writable
from svdjobs.storage.store import Hashing, Listing, Written

PARTIAL = ".partial"
# huggingface_hub, "Understand caching": snapshots/<commit>/<name> links to blobs/<etag>. The etag
# is a sha256 or the sha1 of a git object.
_BLOBS = "blobs"
BLOB_VERSION = "blob:"
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class LocalStore:
    """A folder as a store. Temporary files are named `.<name>.<pid>.partial`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()

    @property
    def url(self) -> str:
        """The path of the folder."""
        return str(self.root)

    def path(self, key: str) -> Path:
        """The path of a key.

        Raises:
            DamagedError: the key is not a valid one.
        """
        return joined(self.root, key)

    def size(self, key: str) -> int:
        """The size of an object in bytes."""
        return _status(self.path(key)).st_size

    def version(self, key: str) -> str:
        """A string that changes with the file: its size, modification time, change time and inode.
        For a file in a hub cache: `blob:`, the name of its blob and its size.

        The change time is needed: `cp -p`, `rsync -t` and reproducible images can give other
        content the same size and modification time.

        A hub cache names a blob by its content. So equal files have the same version wherever they
        were downloaded, and different files have different versions.
        """
        path, status = self.path(key), _status(self.path(key))
        real = path.resolve()
        if path.is_symlink() and real.parent.name == _BLOBS and _BLOB.fullmatch(real.name):
            return f"{BLOB_VERSION}{real.name}:{status.st_size}"
        return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytearray:
        """The bytes [start, end) of an object, in a buffer that the caller may change."""
        try:
            with self.path(key).open("rb", buffering=0) as file:
                return _read_exactly(file, start, end, self.path(key))
        except DamagedError:
            raise
        except (FileNotFoundError, NotADirectoryError):
            raise _missing(self.path(key)) from None
        except OSError as error:
            raise from_os_error(error, doing=f"reading {self.path(key)}") from None

    def exists(self, key: str) -> bool:
        """Whether an object exists."""
        try:
            return stat.S_ISREG(_status(self.path(key)).st_mode)
        except MissingKeyError:
            return False

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix, sorted."""
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str) -> dict[str, int]:
        """The size in bytes of every file below a prefix, by key.

        Half-written files are left out, and files that vanish during the listing.
        """
        found: dict[str, int] = {}
        for folder, _, names in os.walk(self.path(prefix), onerror=_unlisted):
            for path in (Path(folder, name) for name in names if not name.endswith(PARTIAL)):
                with suppress(MissingKeyError):
                    key = path.relative_to(self.root).as_posix()
                    status = _status(path)
                    if stat.S_ISREG(status.st_mode):
                        found[key] = status.st_size
        return found

    @contextmanager
    def sink(self, key: str) -> Iterator[LocalSink]:
        """Write an object piece by piece."""
        path = writable(self.root, key)
        partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_orphans(path)
            with partial.open("wb", buffering=0) as file:
                yield LocalSink(file)
                os.fsync(file.fileno())
            partial.replace(path)
            _sync_folder(path.parent)
        except BaseException as error:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            if isinstance(error, OSError) and not isinstance(error, StorageError):
                raise from_os_error(error, doing=f"writing {path}") from None
            raise

    def put_new(self, key: str, data: bytes) -> bool:
        """Write a file unless it exists. Return whether it was written.

        The finished temporary file is hard-linked to its name, which fails if the name is taken.
        """
        path = writable(self.root, key)
        unique = f"{uuid.uuid4().hex}.{os.getpid()}"
        partial = path.with_name(f".{path.name}.{unique}{PARTIAL}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_orphans(path)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _appear(partial, path)
            _sync_folder(path.parent)
        except FileExistsError:
            return False
        except OSError as error:
            raise from_os_error(error, doing=f"writing {path}") from None
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        return True

    @contextmanager
    def journal(self, key: str) -> Iterator[LocalJournal]:
        """Open a file to append lines to. An incomplete last line, left by a kill, is cut off.

        Raises:
            BusyError: another process has it open.
        """
        path = writable(self.root, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a+b", buffering=0) as file:
                _lock(file, path)
                file.seek(0)
                whole = file.read().rpartition(b"\n")
                file.truncate(len(whole[0]) + len(whole[1]))
                yield LocalJournal(file, whole[0].decode().split("\n") if whole[1] else [])
                os.fsync(file.fileno())
        except OSError as error:
            if isinstance(error, StorageError):
                raise
            raise from_os_error(error, doing=f"writing {path}") from None

    def delete(self, key: str) -> None:
        """Remove an object if it exists."""
        path = writable(self.root, key)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise from_os_error(error, doing=f"deleting {path}") from None

    def listing(self, prefix: str) -> Listing:
        """The folders and files directly below a prefix; half-written files are left out."""
        found = Listing([], {})
        folder, folders, names = next(
            os.walk(self.path(prefix), onerror=_unlisted), ("", list[str](), list[str]())
        )
        found.folders.extend(sorted(folders))
        for name in sorted(names):
            if name.endswith(PARTIAL):
                continue
            with suppress(MissingKeyError):
                status = _status(Path(folder, name))
                if stat.S_ISREG(status.st_mode):
                    at = datetime.fromtimestamp(status.st_mtime, UTC)
                    found.files[name] = Written(status.st_size, at)
        return found

    def free_bytes(self) -> int | None:
        """Free space on the folder's disk, in bytes."""
        existing = next(
            p for p in (self.root.absolute(), *self.root.absolute().parents) if p.exists()
        )
        return shutil.disk_usage(existing).free


def _status(path: Path) -> os.stat_result:
    """The status of a file; for a link, that of its target."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path) from None
    except OSError as error:
        raise from_os_error(error, doing=f"looking for {path}") from None


def _missing(path: Path) -> MissingKeyError:
    return MissingKeyError(f"{path} does not exist.")


def _unlisted(error: OSError) -> None:
    """Raise if a folder cannot be listed, unless it does not exist: it may not be empty."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise from_os_error(error, doing=f"listing {error.filename}") from None


class LocalSink:
    """An open temporary file that hashes the bytes written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._hashing = Hashing()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        rest = memoryview(data).cast("B")
        self._hashing.update(rest)
        while rest:
            rest = rest[self._file.write(rest) :]

    def record(self, key: str) -> FileRecord:
        """Size and sha256 of the bytes written so far."""
        return self._hashing.record(key)


class LocalJournal:
    """A file open for appending. It is unbuffered, so written lines survive the process."""

    def __init__(self, file: BinaryIO, lines: list[str]) -> None:
        self._file = file
        self.lines = lines

    def append(self, line: str) -> None:
        """Add a line."""
        rest = memoryview(line.encode() + b"\n")
        while rest:
            rest = rest[self._file.write(rest) :]


def _appear(partial: Path, path: Path) -> None:
    """Give a finished file its name; raise FileExistsError if the name is taken.

    A hard link does both in one step. A file system without links gets a look and then a rename.
    """
    try:
        path.hardlink_to(partial)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        if path.exists():
            raise FileExistsError from None
        partial.replace(path)


def _lock(file: BinaryIO, path: Path) -> None:
    """Lock a file for one writer. The kernel unlocks it when the process ends, however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(
            f"{path} is being written by another process: the same work is already running. Wait "
            f"for it to end, or stop it, and run the same command again."
        ) from None


def _read_exactly(file: BinaryIO, start: int, end: int | None, path: Path) -> bytearray:
    stop = os.fstat(file.fileno()).st_size if end is None else end
    buffer = bytearray(max(0, stop - start))
    view = memoryview(buffer)
    file.seek(start)
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise DamagedError(
                f"{path} is too short: it ends {len(view):,} bytes before byte {stop:,}, the end "
                f"of the requested range."
            )
        view = view[count:]
    return buffer


def _remove_orphans(path: Path) -> None:
    """Remove the half-written files that killed processes left for this name."""
    for orphan in path.parent.glob(f".{path.name}.*{PARTIAL}"):
        pid = orphan.name.removesuffix(PARTIAL).rpartition(".")[2]
        if not Path(f"/proc/{pid}").exists():
            orphan.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
