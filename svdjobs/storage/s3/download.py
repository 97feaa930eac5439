"""Read an object of S3, or a range of it.

Threads read the pieces of a long range into one buffer. If the body of an answer breaks off, the
rest is requested again. Every request after the first requires the same version of the object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from svdjobs.attempts import Attempts
from svdjobs.errors import DamagedError, StorageError, UnavailableError
from svdjobs.storage.s3.client import PATIENCE_SECONDS, code_of, failures
from svdjobs.storage.s3.object import Place, threads

RANGE_BYTES = 16 << 20
BODY_ATTEMPTS = 6


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
    pool = threads("down")

    def fetch(offset: int) -> None:
        piece = view[offset : offset + RANGE_BYTES]
        fill(place, piece, start + offset, response["ETag"], None)

    pieces = [pool.submit(fetch, offset) for offset in range(RANGE_BYTES, len(buffer), RANGE_BYTES)]
    try:
        fill(place, view[:RANGE_BYTES], start, response["ETag"], response)
        for piece in pieces:
            piece.result()
    finally:
        for piece in pieces:
            piece.cancel()
    return buffer


def fill(place: Place, view: memoryview, start: int, etag: str, response: Any) -> None:
    """Read a range into `view`. When a body breaks off, request the rest."""
    filled, reason = 0, ""
    attempts = Attempts(most=BODY_ATTEMPTS, patience_seconds=PATIENCE_SECONDS)
    while True:
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
        if not attempts.pause():
            break
    raise UnavailableError(
        f"reading {place.url}: the answer broke off {attempts.failed} times{reason}; {filled:,} of "
        f"{len(view):,} bytes from byte {start:,} arrived. Run the same command again: finished "
        f"outputs are kept and skipped."
    )


def _total(place: Place, response: Any, start: int) -> int:
    """The size of the object, from the answer to a request for a range of it."""
    stated = response.get("ContentRange", "")
    if stated.startswith(f"bytes {start}-"):
        return int(stated.rpartition("/")[2])
    if not stated and start == 0:
        return int(response["ContentLength"])
    response["Body"].close()
    raise StorageError(
        f"reading {place.url}: bytes from {start:,} were requested, but the store answered with "
        f"{stated or 'the whole object'}. The store must support range requests."
    )


def _nothing(place: Place, start: int, end: int | None) -> bytearray:
    """Answer a range that begins at or after the end: empty at the end, an error after it."""
    size = int(place.head("reading")["ContentLength"])
    if end is None and start == size:
        return bytearray()
    stop = start if end is None else end
    raise _short(place, stop - size, stop)


def _short(place: Place, missing: int, stop: int) -> DamagedError:
    return DamagedError(
        f"{place.url} is too short: it ends {missing:,} bytes before byte {stop:,}, the end of the "
        f"requested range."
    )
