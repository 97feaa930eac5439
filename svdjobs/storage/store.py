"""The interface of a store: all stages read and write their objects through it."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from datetime import datetime
from typing import NamedTuple, Protocol

from svdjobs.records import FileRecord

S3 = "s3://"


class Sink(Protocol):
    """Takes the bytes of one object while it is being written."""

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""

    def record(self, key: str) -> FileRecord:
        """A record for `key` with the size and sha256 of the bytes written so far."""


class Journal(Protocol):
    """Lines that are appended one by one.

    In a folder, a line is kept once `append` returns. In an object store, lines are sent together
    every few seconds and when the block ends; a kill may lose the lines of the last seconds.
    """

    @property
    def lines(self) -> list[str]:
        """The lines that the journal held when it was opened."""

    def append(self, line: str) -> None:
        """Add a line (without its newline)."""


class Readable(Protocol):
    """Objects that can be read."""

    @property
    def url(self) -> str:
        """The place of the store, for messages."""

    def size(self, key: str) -> int:
        """The size of an object in bytes. Raises MissingKeyError."""

    def version(self, key: str) -> str:
        """A string that changes with the object, equal for all readers. Raises MissingKeyError."""

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytearray:
        """The bytes [start, end) of an object. Raises MissingKeyError; DamagedError if short."""

    def exists(self, key: str) -> bool:
        """Whether an object exists."""

    def sizes(self, prefix: str) -> dict[str, int]:
        """The size in bytes of every object below a prefix, by key."""

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix, sorted."""


class Written(NamedTuple):
    """A stored object: its size, and when it was written, in UTC."""

    bytes: int
    at: datetime


class Listing(NamedTuple):
    """What lies directly below a prefix, by its name there."""

    folders: list[str]
    """Names with objects below them, sorted."""
    files: dict[str, Written]


class Store(Readable, Protocol):
    """Objects under keys such as `factors/after/part-00000.safetensors`.

    A reader sees an object whole or not at all: writes are atomic.
    """

    def sink(self, key: str) -> AbstractContextManager[Sink]:
        """Write an object piece by piece; it appears when the block ends without an exception."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object in one step unless it exists. Return whether it was written.

        If several writers try at once, exactly one gets True. An object store without conditional
        writes cannot promise that: there, the object is looked up, written and read back.
        """

    def journal(self, key: str) -> AbstractContextManager[Journal]:
        """Open a journal to append lines to. The lines of a killed writer that were kept stay.

        A folder admits one writer at a time. An object store admits many; each sees the lines that
        were kept when it opened the journal. `keys` lists the objects that hold the lines, and
        `delete` of the journal's key removes them; only `journal` reads them. The key must end in
        `.journal`.
        """

    def delete(self, key: str) -> None:
        """Remove an object or a journal if it exists."""

    def listing(self, prefix: str) -> Listing:
        """The folders and objects directly below a prefix; empty if nothing is there.

        What lies in the folders is not looked at: an object store gets a request for each 1,000 of
        them, however much they hold.
        """

    def free_bytes(self) -> int | None:
        """Free space in bytes; None if the store has no limit."""


class Hashing:
    """Counts and hashes the bytes that pass through a sink."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Add bytes."""
        self._sha256.update(data)
        self._bytes += len(data)

    def record(self, key: str) -> FileRecord:
        """A record with the size and sha256 of the bytes so far."""
        return FileRecord(key=key, bytes=self._bytes, sha256=self._sha256.hexdigest())


def record_of(key: str, data: bytes) -> FileRecord:
    """The record of bytes already stored under `key`."""
    hashing = Hashing()
    hashing.update(data)
    return hashing.record(key)
