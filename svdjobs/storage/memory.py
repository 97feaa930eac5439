"""A store in memory, for tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count

from svdjobs.errors import DamagedError, MissingKeyError
from svdjobs.records import FileRecord
from svdjobs.storage.store import Hashing, Listing, Written


class MemoryStore:
    """Objects in a dictionary; threads may share it."""

    def __init__(self, name: str = "store") -> None:
        self._name = name
        self._objects: dict[str, tuple[bytes, int, datetime]] = {}
        self._numbers = count(1)
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """A name for messages; `open_store` cannot open it."""
        return f"memory://{self._name}"

    def size(self, key: str) -> int:
        """The size of an object in bytes."""
        return len(self._object(key)[0])

    def version(self, key: str) -> str:
        """The number of the write that made the object."""
        return str(self._object(key)[1])

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytearray:
        """The bytes [start, end) of an object."""
        data = self._object(key)[0]
        stop = len(data) if end is None else end
        if stop > len(data):
            missing = stop - len(data)
            raise DamagedError(
                f"{self.url}/{key} is too short: it ends {missing:,} bytes before byte {stop:,}, "
                f"the end of the requested range."
            )
        return bytearray(data[start:stop])

    def exists(self, key: str) -> bool:
        """Whether an object exists."""
        return key in self._objects

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix, sorted."""
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str) -> dict[str, int]:
        """The size in bytes of every object below a prefix, by key."""
        below = f"{prefix.rstrip('/')}/" if prefix else ""
        with self._lock:
            found = {key: len(data) for key, (data, *_) in self._objects.items()}
        return {key: size for key, size in found.items() if key.startswith(below)}

    def listing(self, prefix: str) -> Listing:
        """The folders and objects directly below a prefix."""
        skip = len(prefix.rstrip("/")) + 1 if prefix else 0
        names = {key: key[skip:].partition("/") for key in self.keys(prefix)}
        return Listing(
            sorted({first for first, slash, _ in names.values() if slash}),
            {
                first: Written(self.size(key), self._object(key)[2])
                for key, (first, slash, _) in names.items()
                if not slash
            },
        )

    @contextmanager
    def sink(self, key: str) -> Iterator[MemorySink]:
        """Write an object piece by piece."""
        sink = MemorySink()
        yield sink
        self._put(key, bytes(sink.data))

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object unless it exists. Return whether it was written."""
        with self._lock:
            if key in self._objects:
                return False
            self._objects[key] = self._new(bytes(data))
            return True

    @contextmanager
    def journal(self, key: str) -> Iterator[MemoryJournal]:
        """Open an object to append lines to."""
        self.put_new(key, b"")
        yield MemoryJournal(self, key, self.read(key).decode().split("\n")[:-1])

    def append(self, key: str, data: bytes) -> None:
        """Add to the end of an object."""
        with self._lock:
            old = self._objects[key][0] if key in self._objects else b""
            self._objects[key] = self._new(old + data)

    def delete(self, key: str) -> None:
        """Remove an object if it exists."""
        with self._lock:
            self._objects.pop(key, None)

    def free_bytes(self) -> int | None:
        """None: a store in memory has no limit of its own."""
        return None

    def _put(self, key: str, data: bytes) -> None:
        with self._lock:
            self._objects[key] = self._new(data)

    def _new(self, data: bytes) -> tuple[bytes, int, datetime]:
        """The bytes, the number of this write, and its time."""
        return data, next(self._numbers), datetime.now(UTC)

    def _object(self, key: str) -> tuple[bytes, int, datetime]:
        try:
            return self._objects[key]
        except KeyError:
            raise MissingKeyError(f"{self.url}/{key} does not exist.") from None


class MemorySink:
    """Collects and hashes the bytes written to it."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._hashing = Hashing()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        view = memoryview(data).cast("B")
        self._hashing.update(view)
        self.data += view

    def record(self, key: str) -> FileRecord:
        """Size and sha256 of the bytes written so far."""
        return self._hashing.record(key)


class MemoryJournal:
    """Appends to an object of the store."""

    def __init__(self, store: MemoryStore, key: str, lines: list[str]) -> None:
        self._store, self._key = store, key
        self.lines = lines

    def append(self, line: str) -> None:
        """Add a line."""
        self._store.append(self._key, line.encode() + b"\n")
