"""A store in a folder: write to a hidden temporary file, sync, rename."""

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
from pathlib import Path
from typing import BinaryIO

from svdjobs.errors import BusyError, DamagedError, MissingKeyError, StorageError, from_os_error
from svdjobs.records import FileRecord
from svdjobs.storage.paths import joined, writable
from svdjobs.storage.store import Hashing

PARTIAL = ".partial"
# huggingface_hub, "Understand caching": snapshots/<commit>/<name> links to blobs/<etag>, which is a
# sha256 or a git object's sha1.
_BLOBS = "blobs"
BLOB_VERSION = "blob:"
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class LocalStore:
    """A folder as a store. Temporary files are named `.<name>.<pid>.partial`."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser()

    @property
    def url(self) -> str:
        """The folder."""
        return str(self.root)

    def path(self, key: str) -> Path:
        """Path of a key.

        Raises:
            DamagedError: it is none.
        """
        return joined(self.root, key)

    def size(self, key: str) -> int:
        """Bytes of an object."""
        return _status(self.path(key)).st_size

    def version(self, key: str) -> str:
        """What the file system knows of a file: size, times of its content and of its inode, inode;
        of one in a hub cache, `blob:` and its blob's name.

        `cp -p`, `rsync -t` and reproducible images give other bytes the same size and modification
        time, but not the same change time.

        A hub cache names what it downloads by content and links to it, so equal files have one
        version wherever they were downloaded, and other files never have it.
        """
        path, status = self.path(key), _status(self.path(key))
        real = path.resolve()
        if path.is_symlink() and real.parent.name == _BLOBS and _BLOB.fullmatch(real.name):
            return f"{BLOB_VERSION}{real.name}:{status.st_size}"
        return f"{status.st_size}:{status.st_mtime_ns}:{status.st_ctime_ns}:{status.st_ino}"

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytearray:
        """The bytes [start, end) of an object, in memory that may be written to."""
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
        """Whether an object is there."""
        try:
            return stat.S_ISREG(_status(self.path(key)).st_mode)
        except MissingKeyError:
            return False

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix, sorted."""
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of every file below a prefix, by key; half-written files do not count, nor what
        vanishes meanwhile."""
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
        """Write a file unless there is one: a link to a whole file, which fails if the name is
        taken."""
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
        """Open an object to append lines to; a line torn by a kill is cut off.

        Raises:
            StorageError: another process has it open.
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
        """Remove an object; fine if there is none."""
        path = writable(self.root, key)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise from_os_error(error, doing=f"deleting {path}") from None

    def free_bytes(self) -> int | None:
        """Space left on the folder's disk."""
        existing = next(
            p for p in (self.root.absolute(), *self.root.absolute().parents) if p.exists()
        )
        return shutil.disk_usage(existing).free


def _status(path: Path) -> os.stat_result:
    """What the file system knows of a file, or of the one that it links to."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(path) from None
    except OSError as error:
        raise from_os_error(error, doing=f"looking for {path}") from None


def _missing(path: Path) -> MissingKeyError:
    return MissingKeyError(f"{path} does not exist.")


def _unlisted(error: OSError) -> None:
    """A folder that cannot be listed is not an empty one, unless it is gone."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise from_os_error(error, doing=f"listing {error.filename}") from None


class LocalSink:
    """An open temporary file that hashes what it is given."""

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
        """Size and sha256 so far."""
        return self._hashing.record(key)


class LocalJournal:
    """A file open for appending. Unbuffered: what is written survives the process."""

    def __init__(self, file: BinaryIO, lines: list[str]) -> None:
        self._file = file
        self.lines = lines

    def append(self, line: str) -> None:
        """Add a line."""
        rest = memoryview(line.encode() + b"\n")
        while rest:
            rest = rest[self._file.write(rest) :]


def _appear(partial: Path, path: Path) -> None:
    """Give a whole file its name, unless that is taken: by a link, or where the file system knows
    no links by looking first."""
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
    """Be the only writer; the kernel lets go when the process ends, however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError(
            f"{path} is being written by another process: this work is already going on. Wait for "
            f"it, or stop it and run again."
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
                f"{path}: ends {len(view)} bytes before byte {stop} that was asked for."
            )
        view = view[count:]
    return buffer


def _remove_orphans(path: Path) -> None:
    """Remove what a killed process left half-written under this name."""
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
