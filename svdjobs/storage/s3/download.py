"""An object of S3 on its way down, whole or a range of it.

A long range is split over threads into one buffer; a body that breaks off is asked for again from
where it broke. Every request after the first one insists on the same version of the object.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from svdjobs.errors import DamagedError, StorageError, UnavailableError
from svdjobs.storage.s3.client import code_of, failures, pause
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


def _short(place: Place, missing: int, stop: int) -> DamagedError:
    return DamagedError(f"{place.url}: ends {missing} bytes before byte {stop} that was asked for.")
