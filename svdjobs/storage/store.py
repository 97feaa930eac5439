"""Bytes at a URL: the one interface all stages read and write through."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from pydantic import ValidationError

from svdjobs.errors import ConfigError, DamagedError, MissingKeyError
from svdjobs.records import FileRecord, Record

S3 = "s3://"
Kept = TypeVar("Kept", bound=Record)


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


def open_store(url: str) -> Store:
    """The store at a URL: `s3://bucket/prefix`, or a folder. Nothing is asked of it yet.

    Raises:
        ConfigError: a scheme no backend answers for, or no bucket.
    """
    if url.startswith(S3):
        from svdjobs.storage.s3 import S3Store

        bucket, _, prefix = url.removeprefix(S3).partition("/")
        if not bucket:
            raise ConfigError(f"store {url!r}: no bucket; expected s3://bucket/prefix.")
        if "@" in bucket or ":" in bucket:  # not quoted: it may hold a secret
            raise ConfigError(
                "a store's URL holds no credentials or port; expected s3://bucket/prefix. Keys "
                "come from AWS_ACCESS_KEY_ID, a profile or a role, the endpoint from "
                "AWS_ENDPOINT_URL."
            )
        return S3Store(bucket, prefix)
    scheme, separator, _ = url.partition("://")
    if separator and scheme != "file":
        raise ConfigError(
            f"store {url!r}: no backend for {scheme}://; use a folder or s3://bucket/prefix."
        )
    from svdjobs.storage.local import LocalStore

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


def read_json(store: Readable, key: str) -> Any:
    """Read a JSON object.

    Raises:
        MissingKeyError: nothing under that key.
        DamagedError: it is not JSON.
    """
    return parsed_json(store.read(key), f"{store.url}/{key}")


def parsed_json(
    data: bytes | bytearray,
    where: str,
    *,
    unique: bool = False,
    advice: str = "Delete it and run again.",
) -> Any:
    """The value in a JSON text; where it is to be `unique`, no object in it gives a key twice.

    Raises:
        DamagedError: it is not JSON.
    """
    if data.lstrip()[:1] == b"<":
        raise DamagedError(
            f"{where} is a web page, not JSON: a proxy, a login page or a wrong endpoint answered "
            f"in place of the store. Look at the endpoint and at the proxy settings."
        )
    try:
        return json.loads(data, object_pairs_hook=_each_once if unique else None)
    except (ValueError, RecursionError) as error:
        words = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise DamagedError(f"{where} is not valid JSON ({words}). {advice}") from None


def record_in(kind: type[Kept], value: Any, where: str) -> Kept:
    """A record from JSON: text of it, or the value in it.

    Raises:
        DamagedError: it is none.
    """
    try:
        if isinstance(value, (str, bytes, bytearray)):
            return kind.model_validate_json(value)
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DamagedError(
            f"{where} is not what svdjobs writes there ({kind.__name__}"
            f"{f', {place}' if place else ''}: {first['msg']}). Delete it and run again."
        ) from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON whose keys differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it gives the key {twice!r:.80} twice")
    return found


def try_read_json(store: Readable, key: str) -> Any | None:
    """Read a JSON object, None where there is none."""
    try:
        return read_json(store, key)
    except MissingKeyError:
        return None


def clear(store: Store, prefix: str) -> None:
    """Delete everything below a prefix, its manifests first, so that it stops existing at once."""
    keys = store.keys(prefix)
    manifests = [key for key in keys if key.endswith("/manifest.json")]
    for key in manifests:
        store.delete(key)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store.delete, [key for key in keys if key not in set(manifests)]))
