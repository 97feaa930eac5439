"""A store that is read through, and written to in memory only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from svdjobs.storage.memory import MemoryStore
from svdjobs.storage.store import Journal, Listing, Sink, Store


class Overlay:
    """Another store as it would be after writes and deletions that it does not get."""

    def __init__(self, below: Store) -> None:
        self._below = below
        self._own = MemoryStore(below.url)
        self._deleted: set[str] = set()

    @property
    def url(self) -> str:
        """That of the store below."""
        return self._below.url

    def _holder(self, key: str) -> Store:
        return self._own if key in self._deleted or self._own.exists(key) else self._below

    def size(self, key: str) -> int:
        """The size of an object in bytes."""
        return self._holder(key).size(key)

    def version(self, key: str) -> str:
        """Changes whenever the object does."""
        holder = self._holder(key)
        return f"{'own' if holder is self._own else 'below'}-{holder.version(key)}"

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytearray:
        """The bytes [start, end) of an object."""
        return self._holder(key).read(key, start, end)

    def exists(self, key: str) -> bool:
        """Whether an object exists."""
        return self._holder(key).exists(key)

    def sizes(self, prefix: str) -> dict[str, int]:
        """The size in bytes of every object below a prefix, by key."""
        below = self._below.sizes(prefix).items()
        kept = {key: size for key, size in below if key not in self._deleted}
        return {**kept, **self._own.sizes(prefix)}

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix, sorted."""
        return sorted(self.sizes(prefix))

    def listing(self, prefix: str) -> Listing:
        """The folders and objects directly below a prefix."""
        below, own = self._below.listing(prefix), self._own.listing(prefix)
        under = f"{prefix.rstrip('/')}/" if prefix else ""
        kept = {name: one for name, one in below.files.items() if under + name not in self._deleted}
        folders = [one for one in below.folders if self._has_any(f"{under}{one}/")]
        return Listing(sorted({*folders, *own.folders}), {**kept, **own.files})

    def _has_any(self, folder: str) -> bool:
        """Whether a folder below has an object that was not deleted."""
        if not any(key.startswith(folder) for key in self._deleted):
            return True
        return any(key not in self._deleted for key in self._below.keys(folder))

    def sink(self, key: str) -> AbstractContextManager[Sink]:
        """Write an object piece by piece, in memory."""
        return self._own.sink(key)

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object unless it exists. Return whether it was written."""
        return not self.exists(key) and self._own.put_new(key, data)

    @contextmanager
    def journal(self, key: str) -> Iterator[Journal]:
        """Open an object to append lines to, in memory."""
        if self._holder(key) is self._below and self._below.exists(key):
            self._own.append(key, bytes(self._below.read(key)))
        with self._own.journal(key) as journal:
            yield journal

    def delete(self, key: str) -> None:
        """Let an object seem to be gone."""
        self._own.delete(key)
        self._deleted.add(key)

    def free_bytes(self) -> int | None:
        """That of the store below."""
        return self._below.free_bytes()
