"""A store in a bucket of S3, or of another server with the same protocol."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC
from functools import cached_property, partial
from typing import Any

from svdjobs.errors import MissingKeyError, StorageError
from svdjobs.storage.journal import SUFFIX, GatheringJournal, appending, parts
from svdjobs.storage.s3 import download
from svdjobs.storage.s3.client import (
    as_ours,
    client,
    code_of,
    failures,
    is_taken,
    no_store,
    persistently,
)
from svdjobs.storage.s3.object import Place
from svdjobs.storage.s3.upload import PART_BYTES, S3Sink
from svdjobs.storage.store import Listing, Written

# `_probe` writes and deletes objects with this prefix; they are never listed as keys.
PROBE = ".svdjobs-probe-"
_WRITER = "svdjobs-writer"
_conditional: dict[tuple[str, str], bool] = {}
_probing = threading.Lock()


class S3Store:
    """The objects of a bucket below a prefix.

    Every method raises StorageError if the store refuses (credentials, permissions, no bucket). It
    raises UnavailableError if the store, after retries, does not answer or cannot answer for now.
    """

    def __init__(self, bucket: str, prefix: str = "", *, part_bytes: int = PART_BYTES) -> None:
        self.bucket = bucket
        self.prefix = prefix.strip("/")
        self._part_bytes = part_bytes

    @property
    def url(self) -> str:
        """`s3://bucket/prefix`."""
        return f"s3://{self.bucket}/{self.prefix}".rstrip("/")

    @cached_property
    def _client(self) -> Any:
        return client()

    def _place(self, key: str) -> Place:
        name = f"{self.prefix}/{key}" if self.prefix else key
        return Place(self._client, self.bucket, name, f"{self.url}/{key}")

    def size(self, key: str) -> int:
        """The size of an object in bytes."""
        return int(self._head(key)["ContentLength"])

    def version(self, key: str) -> str:
        """The ETag and size of an object."""
        head = self._head(key)
        return f"{head['ETag'].strip(chr(34))}:{head['ContentLength']}"

    def read(self, key: str, start: int = 0, end: int | None = None) -> bytearray:
        """The bytes [start, end) of an object; several threads read a long range."""
        return download.read(self._place(key), start, end)

    def exists(self, key: str) -> bool:
        """Whether an object exists."""
        try:
            self._head(key)
        except MissingKeyError:
            return False
        return True

    def keys(self, prefix: str) -> list[str]:
        """All keys below a prefix, sorted."""
        return sorted(self.sizes(prefix))

    def sizes(self, prefix: str) -> dict[str, int]:
        """The size in bytes of every object below a prefix, by key."""
        skip = len(self.prefix) + 1 if self.prefix else 0
        return {
            item["Key"][skip:]: int(item["Size"])
            for page in self._pages(prefix)
            for item in page.get("Contents", [])
            if _is_object(item["Key"])
        }

    def listing(self, prefix: str) -> Listing:
        """The folders and objects directly below a prefix; a request for each 1,000 of them."""
        found = Listing([], {})
        for page in self._pages(prefix, Delimiter="/"):
            for item in page.get("CommonPrefixes", []):
                found.folders.append(item["Prefix"].rstrip("/").rpartition("/")[2])
            for item in page.get("Contents", []):
                if _is_object(item["Key"]):
                    written = Written(int(item["Size"]), item["LastModified"].astimezone(UTC))
                    found.files[item["Key"].rpartition("/")[2]] = written
        return found

    def _pages(self, prefix: str, **more: str) -> list[Any]:
        """All pages of the listing of a prefix."""
        place = self._place(f"{prefix.rstrip('/')}/" if prefix else "")
        try:
            return persistently(partial(_listed, place, **more))
        except failures() as error:
            raise as_ours(error, doing="listing", url=place.url) from None

    @contextmanager
    def sink(self, key: str) -> Iterator[S3Sink]:
        """Write an object piece by piece. A full part is sent while the next is collected."""
        sink = S3Sink(self._place(key), self._part_bytes)
        try:
            yield sink
            sink.finish()
        except BaseException:
            sink.abort()
            raise

    def put_new(self, key: str, data: bytes) -> bool:
        """Write an object unless it exists. Return whether it was written.

        This is one step if the store supports conditional writes; each process tests that once.
        """
        if self._knows_conditions():
            return self._put_if_none(self._place(key), data)
        if self.exists(key):
            return False
        self._place(key).call("put_object", "writing", Body=data)
        return bytes(self.read(key)) == data

    @contextmanager
    def journal(self, key: str) -> Iterator[GatheringJournal]:
        """Open a journal. Each object below its key holds the lines of several seconds."""
        with appending(self, key) as journal:
            yield journal

    def delete(self, key: str) -> None:
        """Remove an object; for a journal's key, also the objects that hold its lines."""
        if key.endswith(SUFFIX):
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(self._remove, parts(self, key)))
        self._remove(key)

    def _remove(self, key: str) -> None:
        self._place(key).call("delete_object", "deleting")

    def free_bytes(self) -> int | None:
        """None: a bucket has no limit."""
        return None

    def _head(self, key: str) -> Any:
        return self._place(key).head("looking for")

    def _put_if_none(self, place: Place, data: bytes) -> bool:
        """Write an object with a conditional request.

        If the answer to the request was lost, its repetition finds the object already written. The
        writer's name in the metadata then tells that this call wrote it.
        """
        writer = uuid.uuid4().hex
        try:
            place.attempt("put_object", Body=data, IfNoneMatch="*", Metadata={_WRITER: writer})
        except failures() as error:
            if not is_taken(error):
                raise as_ours(error, doing="writing", url=place.url) from None
            head = place.head("writing")
            return bool(head.get("Metadata", {}).get(_WRITER) == writer)
        return True

    def _knows_conditions(self) -> bool:
        """Whether the store honours If-None-Match; the test is to write one object twice."""
        where = (self._client.meta.endpoint_url, self.bucket)
        with _probing:
            if where not in _conditional:
                _conditional[where] = self._probe()
            return _conditional[where]

    def _probe(self) -> bool:
        place = self._place(f"{PROBE}{uuid.uuid4().hex}")
        try:
            for _ in range(2):
                place.attempt("put_object", Body=b"", IfNoneMatch="*")
            return False
        except failures() as error:
            if is_taken(error):
                return True
            if code_of(error) in ("NotImplemented", "InvalidArgument", "InvalidRequest"):
                return False
            raise as_ours(error, doing="writing", url=place.url) from None
        finally:
            with suppress(StorageError):
                place.call("delete_object", "deleting")


def _is_object(name: str) -> bool:
    """Whether a listed name is an object of svdjobs or of a user."""
    # Web consoles make empty objects whose names end in a slash, to show folders.
    return not name.endswith("/") and not name.rpartition("/")[2].startswith(PROBE)


def _listed(place: Place, **more: str) -> list[Any]:
    """All pages of the listing below a place."""
    pages = place.client.get_paginator("list_objects_v2").paginate(
        Bucket=place.bucket, Prefix=place.name, **more
    )
    found = []
    for page in pages:
        if page.get("Name") is None:  # every S3 listing names its bucket; a web page does not
            raise no_store(place.url, "listing")
        found.append(page)
    return found
