"""One object of S3 and the requests about it; the threads that transfers share."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from svdjobs.errors import StorageError
from svdjobs.storage.s3.client import (
    UNNAMED,
    as_ours,
    code_of,
    failures,
    is_gone,
    no_bucket,
    no_store,
    persistently,
)

THREADS = 8
# Operations whose answer has the object's tag, and what they do.
_TAGGED = {
    "head_object": "looking for", "get_object": "reading",
    "put_object": "writing", "upload_part": "writing",
}  # fmt: skip


def threads(purpose: Literal["up", "down"]) -> ThreadPoolExecutor:
    """This process's threads for one direction, so that neither waits for the other."""
    return _threads(purpose, os.getpid())


@lru_cache(maxsize=4)
def _threads(_purpose: str, _pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="svdjobs-s3")


@dataclass(frozen=True)
class Place:
    """One object, and the client that reaches it."""

    client: Any
    bucket: str
    name: str
    """The full key in the bucket."""
    url: str

    def call(self, operation: str, doing: str, **arguments: Any) -> Any:
        """A request about this object, repeated where that may help; its failure as ours."""
        try:
            return self.attempt(operation, **arguments)
        except failures() as error:
            raise as_ours(error, doing=doing, url=self.url) from None

    def attempt(self, operation: str, **arguments: Any) -> Any:
        """The same with the library's own failure, for those who know what to make of it."""
        return persistently(lambda: self.once(operation, **arguments))

    def head(self, doing: str) -> Any:
        """What is known of the object."""
        try:
            return persistently(self._looked_at)
        except failures() as error:
            raise self.failure(error, doing) from None

    def _looked_at(self) -> Any:
        """One HEAD; where it fails without a name, with what a GET of the first byte says."""
        try:
            return self.once("head_object")
        except failures() as error:
            if code_of(error) in UNNAMED:
                with suppress(StorageError):  # what answers is no store: then the first error
                    self.once("get_object", Range="bytes=0-0")["Body"].close()
            raise

    def failure(self, error: Exception, doing: str) -> StorageError:
        """A failed look at the object as ours. That it is missing may mean that the bucket is: the
        answer to a HEAD does not say, and some stores never do, so that is asked by itself."""
        if is_gone(error):
            try:
                persistently(lambda: self.client.head_bucket(Bucket=self.bucket))
            except failures() as reason:
                if is_gone(reason):  # who may not look at the bucket may still read from it
                    return no_bucket(self.url, doing)
        return as_ours(error, doing=doing, url=self.url)

    def once(self, operation: str, **arguments: Any) -> Any:
        """One request, as it comes.

        Raises:
            StorageError: what answers is no S3 store, which gives every object a tag.
        """
        answer = getattr(self.client, operation)(Bucket=self.bucket, Key=self.name, **arguments)
        if operation in _TAGGED and "ETag" not in answer:
            raise no_store(self.url, _TAGGED[operation])
        return answer
