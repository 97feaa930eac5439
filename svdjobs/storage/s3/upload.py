"""An object of S3 on its way up: parts, and a bound on the memory that all of them take.

A sink gathers a part, hands it to a thread and gathers the next; what fits one part goes up in one
request. Memory is bounded over the process, since a blend writes up to 64 objects side by side:
parts being gathered share BUFFER_BYTES (a sink's share is fixed with its first part, as some stores
want all parts but the last of one size), and parts on the way take at most as much again. Only with
more sinks than BUFFER_BYTES / SMALLEST_PART_BYTES does the first bound grow, by one smallest part
each.

A process that is killed outright leaves its uploads open; a lifecycle rule of the bucket
(AbortIncompleteMultipartUpload) is the way to be rid of those.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from contextlib import suppress
from typing import Any

from svdjobs.errors import StorageError
from svdjobs.provenance import memory_limit_bytes
from svdjobs.records import FileRecord
from svdjobs.storage.s3.client import as_ours, code_of, failures
from svdjobs.storage.s3.object import Place, threads
from svdjobs.storage.store import Hashing

MIB = 1 << 20
PART_BYTES = 64 * MIB
# S3 takes parts of 5 MiB or more, the last excepted, and 10,000 of them.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
SMALLEST_PART_BYTES = 8 * MIB
PARTS_PER_SIZE = 2_000
# A sixteenth of what this machine or container has, so that uploads never crowd out the work.
BUFFER_BYTES = max(PART_BYTES, min(512 * MIB, memory_limit_bytes() // 16))
# How long a failed upload waits for parts still on the way; a pod has 30 s from SIGTERM.
ABORT_SECONDS = 8


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
        pool = threads("up")
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
