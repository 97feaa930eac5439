"""Bytes at a URL: the one interface all stages read and write through."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from svdjobs.errors import ConfigError, MissingKeyError, StorageError
from svdjobs.records import FileRecord


class Sink(Protocol):
    """Where the bytes of one object go while it is being written."""

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""

    def record(self, key: str) -> FileRecord:
        """Size and sha256 of what has been written so far, under the name `key`."""


class Journal(Protocol):
    """Lines appended one by one, each kept from the moment `append` returns."""

    @property
    def lines(self) -> list[str]:
        """What was there when the journal was opened."""

    def append(self, line: str) -> None:
        """Add a line (without its newline)."""


class Store(Protocol):
    """Objects under keys such as `factors/after/part-00000.safetensors`.

    A reader sees an object whole or not at all: writes are atomic.
    """

    @property
    def url(self) -> str:
        """Where the store is, for people."""

    def size(self, key: str) -> int:
        """Bytes of an object. Raises MissingKeyError."""

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytearray:
        """The bytes [start, end) of an object. Raises MissingKeyError; StorageError if short."""

    def exists(self, key: str) -> bool:
        """Whether an object is there."""

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix, sorted."""

    def sink(self, key: str) -> AbstractContextManager[Sink]:
        """Write an object piece by piece; it appears when the block ends without an exception."""

    def journal(self, key: str) -> AbstractContextManager[Journal]:
        """Open an object to append lines to; a killed writer leaves all it appended."""

    def delete(self, key: str) -> None:
        """Remove an object; fine if there is none."""

    def free_bytes(self) -> int | None:
        """Space left, None where that means nothing."""


class Hashing:
    """Counts and hashes what passes through a sink."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._bytes = 0

    def update(self, data: bytes | memoryview) -> None:
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


def open_store(url: str) -> Store:
    """The store at a URL: a folder. (`s3://bucket/prefix` is the next backend.)

    Raises:
        ConfigError: a scheme no backend answers for.
    """
    from svdjobs.storage.local import LocalStore

    scheme, separator, _ = url.partition("://")
    if separator and scheme != "file":
        raise ConfigError(f"store {url!r}: no backend for {scheme}://; use a folder.")
    return LocalStore(url.removeprefix("file://"))


def write_bytes(store: Store, key: str, data: bytes) -> FileRecord:
    """Write one object in one go."""
    with store.sink(key) as sink:
        sink.write(data)
        return sink.record(key)


def write_json(store: Store, key: str, value: Any) -> FileRecord:
    """Write a value as JSON that a person can read."""
    return write_bytes(store, key, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Readable JSON, ending in a newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def write_lines(store: Store, key: str, rows: Iterable[str]) -> FileRecord:
    """Write text lines (JSONL, CSV)."""
    return write_bytes(store, key, "".join(f"{row}\n" for row in rows).encode())


def read_json(store: Store, key: str) -> Any:
    """Read a JSON object.

    Raises:
        MissingKeyError: nothing under that key.
        StorageError: it is not JSON.
    """
    try:
        return json.loads(store.read(key))
    except ValueError as error:
        raise StorageError(
            f"{store.url}/{key} is not valid JSON ({error}). Delete it and run again."
        ) from None


def try_read_json(store: Store, key: str) -> Any | None:
    """Read a JSON object, None where there is none."""
    try:
        return read_json(store, key)
    except MissingKeyError:
        return None


def clear(store: Store, prefix: str) -> None:
    """Delete everything below a prefix, its manifest first, so that it stops existing at once."""
    keys = store.keys(prefix)
    for key in sorted(keys, key=lambda key: not key.endswith("/manifest.json")):
        store.delete(key)
