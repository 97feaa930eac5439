"""Upload objects to S3 in parts, with one bound on the memory of all uploads.

A sink collects a part, hands it to a thread and collects the next. An object that fits one part
takes one request. The bound is for the whole process, because a blend writes up to 64 objects at
once. The parts being collected take at most BUFFER_BYTES together. A sink's part size is fixed with
its first part: some stores require equal sizes for all parts but the last. The parts being sent
take at most BUFFER_BYTES more. With more sinks than BUFFER_BYTES / SMALLEST_PART_BYTES, the first
bound grows by one smallest part for each further sink.

A killed process leaves its uploads unfinished in the bucket. A lifecycle rule of the bucket
(AbortIncompleteMultipartUpload) removes them.
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
# S3 takes at most 10,000 parts of at least 5 MiB each; only the last may be smaller.
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
SMALLEST_PART_BYTES = 8 * MIB
PARTS_PER_SIZE = 2_000
# A sixteenth of the memory of this machine or container, to leave the rest for computing.
BUFFER_BYTES = max(PART_BYTES, min(512 * MIB, memory_limit_bytes() // 16))
# How long a failed upload waits for parts that are being sent; a pod has 30 s from SIGTERM.
ABORT_SECONDS = 8


class Budget:
    """Divides memory among the parts being collected, and bounds that of the parts being sent."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._changed = threading.Condition()
        self._undecided = 0
        self._reserved = 0
        self._travelling = 0

    def join(self) -> None:
        """Add a sink whose part size is not fixed yet."""
        with self._changed:
            self._undecided += 1

    def share(self, smallest: int, largest: int) -> int:
        """How many bytes a sink without a fixed part size may collect now."""
        with self._changed:
            fair = (self.total - self._reserved) // max(1, self._undecided)
        return max(smallest, min(fair, largest))

    def decide(self, size: int) -> None:
        """Fix the part size of a sink."""
        with self._changed:
            self._undecided -= 1
            self._reserved += size

    def leave(self, size: int) -> None:
        """Remove a sink. `size` is its part size, or 0 if that was never fixed."""
        with self._changed:
            self._undecided -= not size
            self._reserved -= size

    def send(self, size: int) -> None:
        """Wait until a part may be sent. A part larger than the whole bound is sent alone."""
        with self._changed:
            while self._travelling and self._travelling + size > self.total:
                self._changed.wait()
            self._travelling += size

    def arrived(self, size: int) -> None:
        """Release the memory of a part that was sent or given up."""
        with self._changed:
            self._travelling -= size
            self._changed.notify_all()


BUDGET = Budget(BUFFER_BYTES)


class S3Sink:
    """An object being uploaded. Threads may take turns to write; one of them ends it."""

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
        """Append bytes. Wait while too many parts are being sent."""
        rest = memoryview(data).cast("B")
        with self._lock:
            if not self._open:
                raise StorageError(f"{self._place.url}: cannot be written to after it was ended.")
            self._hashing.update(rest)
            while rest:
                room = max(0, self._room() - len(self._buffer))
                self._buffer += rest[:room]
                rest = rest[room:]
                if len(self._buffer) >= self._room():
                    self._send()

    def record(self, key: str) -> FileRecord:
        """Size and sha256 of the bytes written so far."""
        return self._hashing.record(key)

    def finish(self) -> None:
        """Send the remaining bytes; the object then exists."""
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
        """End the upload without an object. The store would charge for an unfinished upload."""
        with self._lock:
            self._open = False
            self._buffer = bytearray()
            begun = [part for part in self._parts if not part.cancel()]
            begun += [self._upload] if self._upload else []
            # A part that arrives after the abort keeps the upload open, so abort once more.
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
        """The size of the part being collected. It doubles every PARTS_PER_SIZE parts, because an
        upload may have only 10,000 parts."""
        if not self._part_bytes:
            return BUDGET.share(self._smallest, self._largest)
        return self._part_bytes << (len(self._parts) // PARTS_PER_SIZE)

    def _send(self) -> None:
        """Have a thread send the collected part, and first create the upload.

        A thread creates the upload, because a signal may interrupt this one: `abort` then still
        finds the upload by its future.
        """
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
        """Send one part. Return its ETag."""
        assert self._upload is not None
        upload = self._upload.result()
        sent = self._place.call(
            "upload_part", "writing", UploadId=upload, PartNumber=number, Body=body
        )
        return str(sent["ETag"])

    def _complete(self, upload: str, parts: list[dict[str, Any]]) -> None:
        """Join the parts.

        If the answer to the request was lost, its repetition finds no upload, because the first
        request has joined the parts. Then the object must have the expected size and part count.
        """
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
