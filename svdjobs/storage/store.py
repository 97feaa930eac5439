"""Bytes at a URL: the one interface all stages read and write through."""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from typing import Protocol

from svdjobs.records import FileRecord

S3 = "s3://"


class Sink(Protocol):
    """Where the bytes of one object go while it is being written."""

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""

    def record(self, key: str) -> FileRecord:
        """Size and sha256 of what has been written so far, under the name `key`."""


class Journal(Protocol):
    """Lines appended one by one.

    In a folder each is kept from the moment `append` returns; in an object store they are sent
    together every few seconds and at the end of the block, so a kill may lose the last seconds'.
    """

    @property
    def lines(self) -> list[str]:
        """What was there when the journal was opened."""

    def append(self, line: str) -> None:
        """Add a line (without its newline)."""


class Readable(Protocol):
    """Objects that can be read."""

    @property
    def url(self) -> str:
        """Where the store is, for people."""

    def size(self, key: str) -> int:
        """Bytes of an object. Raises MissingKeyError."""

    def version(self, key: str) -> str:
        """Changes when the object does; the same for all who look. Raises MissingKeyError."""

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytearray:
        """The bytes [start, end) of an object. Raises MissingKeyError; DamagedError if short."""

    def exists(self, key: str) -> bool:
        """Whether an object is there."""

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of every object below a prefix, by key."""

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix, sorted."""


class Store(Readable, Protocol):
    """Objects under keys such as `factors/after/part-00000.safetensors`.

    A reader sees an object whole or not at all: writes are atomic.
    """

    def sink(self, key: str) -> AbstractContextManager[Sink]:
        """Write an object piece by piece; it appears when the block ends without an exception."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object unless there is one, in one step; False, and nothing done, if there is.

        Of several writers at once exactly one is told True. An object store without conditional
        writes cannot promise that; there the object is looked for, written and read back.
        """

    def journal(self, key: str) -> AbstractContextManager[Journal]:
        """Open a journal to append lines to; a killed writer leaves what was kept.

        A folder admits one writer at a time, and an object store many, each of whom sees what was
        kept when it opened. Whatever objects hold the lines are listed by `keys`, and `delete` of
        the journal's key removes them all; only `journal` reads them. Its key ends in `.journal`.
        """

    def delete(self, key: str) -> None:
        """Remove an object, or a journal; fine if there is none."""

    def free_bytes(self) -> int | None:
        """Space left, None where that means nothing."""


class Hashing:
    """Counts and hashes what passes through a sink."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take in more bytes."""
        self._sha256.update(data)
        self._bytes += len(data)

    def record(self, key: str) -> FileRecord:
        """Size and sha256 so far."""
        return FileRecord(key=key, bytes=self._bytes, sha256=self._sha256.hexdigest())


def record_of(key: str, data: bytes) -> FileRecord:
    """The record of bytes already stored under `key`."""
    hashing = Hashing()
    hashing.update(data)
    return hashing.record(key)
