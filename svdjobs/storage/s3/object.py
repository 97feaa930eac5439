"""One object of S3, the requests about it, and the threads that all transfers share."""

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
# Operations whose answer holds the object's ETag, and the words for them in messages.
_TAGGED = {
    "head_object": "looking for", "get_object": "reading",
    "put_object": "writing", "upload_part": "writing",
}  # fmt: skip


def threads(purpose: Literal["up", "down"]) -> ThreadPoolExecutor:
    """This process's threads for one direction. No upload waits for downloads, or vice versa."""
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
        """Make a request about this object, repeat it if that may help, and translate its error."""
        try:
            return self.attempt(operation, **arguments)
        except failures() as error:
            raise as_ours(error, doing=doing, url=self.url) from None

    def attempt(self, operation: str, **arguments: Any) -> Any:
        """Do the same, but raise the library's own error, for callers that handle it."""
        return persistently(lambda: self.once(operation, **arguments))

    def head(self, doing: str) -> Any:
        """Request the metadata of the object (HEAD)."""
        try:
            return persistently(self._head)
        except failures() as error:
            raise self.failure(error, doing) from None

    def _head(self) -> Any:
        """Send one HEAD. If it fails without an error code, a GET of one byte raises the code."""
        try:
            return self.once("head_object")
        except failures() as error:
            if code_of(error) in UNNAMED:
                with suppress(StorageError):  # not an S3 store: raise the first error
                    self.once("get_object", Range="bytes=0-0")["Body"].close()
            raise

    def failure(self, error: Exception, doing: str) -> StorageError:
        """Translate the error of a request for the object.

        If the object is missing, the bucket may be missing too. The answer to a HEAD does not say
        so, and some stores never do, so this sends a request for the bucket.
        """
        if is_gone(error):
            try:
                persistently(lambda: self.client.head_bucket(Bucket=self.bucket))
            except failures() as reason:
                if is_gone(reason):  # not on 403: it forbids this request, not reads
                    return no_bucket(self.url, doing)
        return as_ours(error, doing=doing, url=self.url)

    def once(self, operation: str, **arguments: Any) -> Any:
        """Send one request.

        Raises:
            StorageError: the answer lacks the ETag that every S3 store gives.
        """
        answer = getattr(self.client, operation)(Bucket=self.bucket, Key=self.name, **arguments)
        if operation in _TAGGED and "ETag" not in answer:
            raise no_store(self.url, _TAGGED[operation])
        return answer
