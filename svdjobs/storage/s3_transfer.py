"""Objects of S3 on the way up and down: parts, ranges, and a bound on the memory they take.

Up: a sink gathers a part, hands it to a thread and gathers the next; what fits one part goes up in
one request. Down: a long range is split over threads into one buffer; a body that breaks off is
asked for again from where it broke.

Memory is bounded over the process, since a blend writes up to 64 objects side by side: parts being
gathered share BUFFER_BYTES (a sink's share is fixed with its first part, as all parts but the last
should be of one size), and parts on the way take at most as much again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from svdjobs.errors import StorageError, UnavailableError
from svdjobs.provenance import memory_limit_bytes
from svdjobs.records import FileRecord
from svdjobs.storage.s3_client import (
    as_ours,
    code_of,
    failures,
    is_gone,
    no_bucket,
    pause,
    persistently,
)
from svdjobs.storage.store import Hashing

MIB = 1 << 20
PART_BYTES = 64 * MIB
# S3 takes parts of 5 MiB or more, the last excepted, and 10,000 of them.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
SMALLEST_PART_BYTES = 8 * MIB
PARTS_PER_SIZE = 2_000
RANGE_BYTES = 16 * MIB
THREADS = 8
BODY_ATTEMPTS = 6
# A sixteenth of what this machine or container has, so that uploads never crowd out the work.
BUFFER_BYTES = max(64 * MIB, min(512 * MIB, memory_limit_bytes() // 16))
# How long a failed upload waits for parts still on the way; a pod has 30 s from SIGTERM.
ABORT_SECONDS = 8


@lru_cache(maxsize=4)
def _threads(_purpose: str, _pid: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, thread_name_prefix="svdjobs-s3")


class Budget:
    """Shares memory among the parts being gathered, and bounds the parts on the way."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._changed = threading.Condition()
        self._undecided = 0
        self._reserved = 0
        self._travelling = 0

    def join(self) -> None:
        """One more sink, whose part size is open yet."""
        with self._changed:
            self._undecided += 1

    def share(self, smallest: int, largest: int) -> int:
        """What an undecided sink may gather now."""
        with self._changed:
            fair = (self.total - self._reserved) // max(1, self._undecided)
        return max(smallest, min(fair, largest))

    def decide(self, size: int) -> None:
        """A sink's part size is fixed."""
        with self._changed:
            self._undecided -= 1
            self._reserved += size

    def leave(self, size: int) -> None:
        """A sink is done; `size` is its part size, 0 if that was never fixed."""
        with self._changed:
            self._undecided -= not size
            self._reserved -= size

    def send(self, size: int) -> None:
        """Wait until a part may go on its way; one larger than everything goes alone."""
        with self._changed:
            while self._travelling and self._travelling + size > self.total:
                self._changed.wait()
            self._travelling += size

    def arrived(self, size: int) -> None:
        """A part is up, or given up."""
        with self._changed:
            self._travelling -= size
            self._changed.notify_all()


BUDGET = Budget(BUFFER_BYTES)


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
            return self.attempt("head_object")
        except failures() as error:
            raise self.failure(error, doing) from None

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
        """One request, as it comes."""
        return getattr(self.client, operation)(Bucket=self.bucket, Key=self.name, **arguments)


class S3Sink:
    """An object on its way up. Threads may take turns writing; one ends it."""

    def __init__(self, place: Place, part_bytes: int) -> None:
        self._place = place
        self._largest = part_bytes
        self._smallest = min(part_bytes, SMALLEST_PART_BYTES)
        self._part_bytes = 0
        self._buffer = bytearray()
        self._hashing = Hashing()
        self._upload: Future[str] | None = None
        self._parts: list[Future[str]] = []
        self._lock = threading.Lock()
        self._open = True
        BUDGET.join()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; waits while too many parts are on the way."""
        rest = memoryview(data).cast("B")
        with self._lock:
            if not self._open:
                raise StorageError(f"{self._place.url}: written to after its end.")
            self._hashing.update(rest)
            while rest:
                room = max(0, self._room() - len(self._buffer))
                self._buffer += rest[:room]
                rest = rest[room:]
                if len(self._buffer) >= self._room():
                    self._send()

    def record(self, key: str) -> FileRecord:
        """Size and sha256 so far."""
        return self._hashing.record(key)

    def finish(self) -> None:
        """Send what is left; the object appears."""
        with self._lock:
            self._open = False
            if self._upload is None:
                self._place.call("put_object", "writing", Body=self._buffer)
            else:
                if self._buffer:
                    self._send()
                parts = [
                    {"PartNumber": number, "ETag": part.result()}
                    for number, part in enumerate(self._parts, start=1)
                ]
                self._complete(self._upload.result(), parts)
            self._buffer = bytearray()
        BUDGET.leave(self._part_bytes)

    def abort(self) -> None:
        """Leave nothing behind: no object, and no open upload that the store would charge for."""
        with self._lock:
            self._open = False
            self._buffer = bytearray()
            begun = [part for part in self._parts if not part.cancel()]
            begun += [self._upload] if self._upload else []
            # A part that arrives after the abortion would keep the upload open: once more then.
            late = wait(begun, timeout=ABORT_SECONDS).not_done
            self._forget()
            if late:
                wait(late, timeout=ABORT_SECONDS)
                self._forget()
        BUDGET.leave(self._part_bytes)

    def _forget(self) -> None:
        if self._upload and self._upload.done() and not self._upload.exception():
            with suppress(*failures()):
                self._place.once("abort_multipart_upload", UploadId=self._upload.result())

    def _room(self) -> int:
        """Size of the part being gathered; doubled now and then, for 10,000 parts must do."""
        if not self._part_bytes:
            return BUDGET.share(self._smallest, self._largest)
        return self._part_bytes << (len(self._parts) // PARTS_PER_SIZE)

    def _send(self) -> None:
        """Put the gathered part on its way. In a thread, as all that must be undone when a signal
        interrupts this one: an upload that was created is known by its future."""
        pool = _threads("up", os.getpid())
        if self._upload is None:
            self._part_bytes = len(self._buffer)
            BUDGET.decide(self._part_bytes)
            self._upload = pool.submit(self._create)
        for part in self._parts:
            if part.done():
                part.result()
        body, self._buffer = self._buffer, bytearray()
        size = len(body)
        BUDGET.send(size)
        try:
            part = pool.submit(self._put, len(self._parts) + 1, body)
        except BaseException:
            BUDGET.arrived(size)
            raise
        self._parts.append(part)
        part.add_done_callback(lambda _: BUDGET.arrived(size))

    def _create(self) -> str:
        return str(self._place.call("create_multipart_upload", "writing")["UploadId"])

    def _put(self, number: int, body: bytearray) -> str:
        """Send one part; its entity tag."""
        assert self._upload is not None
        upload = self._upload.result()
        sent = self._place.call(
            "upload_part", "writing", UploadId=upload, PartNumber=number, Body=body
        )
        return str(sent["ETag"])

    def _complete(self, upload: str, parts: list[dict[str, Any]]) -> None:
        """Join the parts. A repeated request may find the upload gone because the first one, whose
        answer was lost, has joined them."""
        try:
            self._place.attempt(
                "complete_multipart_upload", UploadId=upload, MultipartUpload={"Parts": parts}
            )
        except failures() as error:
            if code_of(error) == "NoSuchUpload":
                found = self._place.head("writing")
                if found["ContentLength"] == self.record("").bytes and found["ETag"].endswith(
                    f'-{len(parts)}"'
                ):
                    return
            raise as_ours(error, doing="writing", url=self._place.url) from None


def read(place: Place, start: int, end: int | None) -> bytearray:
    """The bytes [start, end) of an object, all of one version of it."""
    if end is not None and end <= start:
        place.head("reading")
        return bytearray()
    first = start + RANGE_BYTES if end is None else min(end, start + RANGE_BYTES)
    try:
        response = place.attempt("get_object", Range=f"bytes={start}-{first - 1}")
    except failures() as error:
        if code_of(error) not in ("InvalidRange", "416"):
            raise place.failure(error, "reading") from None
        return _nothing(place, start, end)
    total = _total(place, response, start)
    stop = total if end is None else end
    if stop > total:
        response["Body"].close()
        raise _short(place, stop - total, stop)
    buffer = bytearray(stop - start)
    view = memoryview(buffer)
    pool = _threads("down", os.getpid())

    def fetch(offset: int) -> None:
        piece = view[offset : offset + RANGE_BYTES]
        _fill(place, piece, start + offset, response["ETag"], None)

    pieces = [pool.submit(fetch, offset) for offset in range(RANGE_BYTES, len(buffer), RANGE_BYTES)]
    try:
        _fill(place, view[:RANGE_BYTES], start, response["ETag"], response)
        for piece in pieces:
            piece.result()
    finally:
        for piece in pieces:
            piece.cancel()
    return buffer


def _fill(place: Place, view: memoryview, start: int, etag: str, response: Any) -> None:
    """Read a range into `view`, going on where a body breaks off."""
    filled, reason = 0, ""
    for number in range(1, BODY_ATTEMPTS + 1):
        if response is None:
            span = f"bytes={start + filled}-{start + len(view) - 1}"
            response = place.call("get_object", "reading", Range=span, IfMatch=etag)
            _total(place, response, start + filled)
        body: Callable[[memoryview], int] = response["Body"].readinto
        try:
            while filled < len(view) and (count := body(view[filled:])):
                filled += count
            if filled == len(view):
                return
        except failures() as error:
            reason = f" ({type(error).__name__})"
        finally:
            response["Body"].close()
        response = None
        pause(number)
    raise UnavailableError(
        f"reading {place.url}: its body broke off {BODY_ATTEMPTS} times{reason}, {filled:,} of "
        f"{len(view):,} bytes from byte {start:,} came. Run the same command again: finished "
        f"outputs are kept and skipped."
    )


def _total(place: Place, response: Any, start: int) -> int:
    """Size of the object, from the answer to a range of it."""
    stated = response.get("ContentRange", "")
    if stated.startswith(f"bytes {start}-"):
        return int(stated.rpartition("/")[2])
    if not stated and start == 0:
        return int(response["ContentLength"])
    response["Body"].close()
    raise StorageError(
        f"reading {place.url}: asked for bytes from {start:,}, the store answered with "
        f"{stated or 'the whole object'}. It must support range requests."
    )


def _nothing(place: Place, start: int, end: int | None) -> bytearray:
    """What a range beyond the end means: fine at the very end, short elsewhere."""
    size = int(place.head("reading")["ContentLength"])
    if end is None and start == size:
        return bytearray()
    stop = start if end is None else end
    raise _short(place, stop - size, stop)


def _short(place: Place, missing: int, stop: int) -> StorageError:
    return StorageError(f"{place.url}: ends {missing} bytes before byte {stop} that was asked for.")
