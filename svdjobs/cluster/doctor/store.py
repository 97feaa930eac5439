"""Check a store by using it: write, read, list and delete objects, all of them removed again."""

from __future__ import annotations

import hashlib
import random
import statistics
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from svdjobs.cluster.doctor.checks import Check, guarded
from svdjobs.errors import MissingKeyError, StorageError
from svdjobs.progress import duration, size
from svdjobs.storage.local import LocalStore
from svdjobs.storage.objects import write_bytes
from svdjobs.storage.open import open_store
from svdjobs.storage.s3.store import S3Store
from svdjobs.storage.store import Store

FOLDER = ".svdjobs-doctor"
# The smallest part that S3 accepts: two parts are enough to test a multipart upload.
PART_BYTES = 5 * 2**20
SMALL_BYTES = 64 * 1024
READS = 10
SLOW_SECONDS = 0.5
# S3 refuses a request whose clock is more than 15 minutes off.
SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 60, 900


def check_store(url: str) -> list[Check]:
    """Run all checks of a store; only the first one if nothing can be written.

    Raises:
        ConfigError: no backend handles the URL.
    """
    store = open_store(url)
    folder = f"{FOLDER}/{uuid.uuid4().hex}"
    try:
        checks = guarded("store: put", lambda: _put(store, f"{folder}/small"))
        if checks[0].status == "fail":
            return checks  # every other check would fail for the same reason
        looks: list[tuple[str, Callable[[], Check]]] = [
            ("store: get", lambda: _get(store, f"{folder}/small")),
            ("store: range", lambda: _range(store, f"{folder}/small")),
            ("store: list", lambda: _list(store, folder)),
            ("store: missing object", lambda: _missing(store, f"{folder}/none")),
            ("store: conditional put", lambda: _conditional(store, f"{folder}/once")),
            ("store: multipart", lambda: _multipart(store, f"{folder}/large")),
            ("store: clock", lambda: _clock(store)),
            ("store: delete", lambda: _delete(store, folder)),
        ]
        for name, look in looks:
            checks += guarded(name, look)
        return checks
    finally:
        _tidy(store, folder)


def _put(store: Store, key: str) -> Check:
    started = time.perf_counter()
    write_bytes(store, key, _bytes(SMALL_BYTES))
    took = time.perf_counter() - started
    return Check("store: put", "ok", f"{size(SMALL_BYTES)} into {store.url} in {_ms(took)}")


def _get(store: Store, key: str) -> Check:
    took = []
    for _ in range(READS):
        started = time.perf_counter()
        found = store.read(key)
        took.append(time.perf_counter() - started)
        if found != _bytes(SMALL_BYTES):
            return Check(
                "store: get",
                "fail",
                f"{key}: the bytes read differ from the bytes written",
                "Do not use this store: a proxy or gateway changes the objects.",
            )
    median = statistics.median(took)
    words = f"the same bytes {READS} times, {_ms(median)} each (slowest {_ms(max(took))})"
    if median > SLOW_SECONDS:
        return Check("store: get", "warn", words, "Use a store nearer to this machine.")
    return Check("store: get", "ok", words)


def _range(store: Store, key: str) -> Check:
    start, end = 12_345, 54_321
    if store.read(key, start, end) != _bytes(SMALL_BYTES)[start:end]:
        return Check(
            "store: range",
            "fail",
            f"a read of bytes [{start}, {end}) returned other bytes",
            "Use another store: svdjobs reads single tensors by byte range.",
        )
    return Check("store: range", "ok", f"a read of bytes [{start}, {end}) returned those bytes")


def _list(store: Store, folder: str) -> Check:
    keys = store.keys(folder)
    if keys != [f"{folder}/small"]:
        return Check(
            "store: list",
            "fail",
            f"{len(keys)} keys listed; expected the 1 that was written a moment ago",
            "Use a store with consistent listing: every written object must be listed at once.",
        )
    return Check("store: list", "ok", "a written object is listed at once")


def _missing(store: Store, key: str) -> Check:
    """Check that a missing object is reported as missing.

    Without the permission to list, S3 answers 403 for a missing object, which stops every stage.
    """
    with suppress(MissingKeyError):
        store.read(key)
        return Check("store: missing object", "fail", f"{key} was read but never written")
    return Check("store: missing object", "ok", "reported as missing, not as forbidden")


def _conditional(store: Store, key: str) -> Check:
    name = "store: conditional put"
    first, second = store.put_new(key, b"first"), store.put_new(key, b"second")
    if (first, second, bytes(store.read(key))) != (True, False, b"first"):
        return Check(
            name,
            "fail",
            "a second writer replaced the first one's object",
            "Use another store: two pods could both finish the same output.",
        )
    if isinstance(store, S3Store) and not _honours_if_none_match(store, key):
        return Check(
            name,
            "warn",
            "the store ignores If-None-Match, so svdjobs looks for an object before it writes",
            "This works, but two pods that finish at the same moment may both write. Newer "
            "versions of most stores support If-None-Match.",
        )
    return Check(name, "ok", "only the first of two writers wins")


def _honours_if_none_match(store: S3Store, key: str) -> bool:
    """Whether the store refuses to overwrite the existing object `key` with If-None-Match."""
    from svdjobs.storage.s3.client import client, failures, is_taken

    name = f"{store.prefix}/{key}".lstrip("/")
    try:
        client().put_object(Bucket=store.bucket, Key=name, Body=b"first", IfNoneMatch="*")
    except failures() as error:
        return is_taken(error)
    return False


def _multipart(store: Store, key: str) -> Check:
    """Write an object of two parts, a little more than one, and read it back."""
    if isinstance(store, S3Store):
        store = S3Store(store.bucket, store.prefix, part_bytes=PART_BYTES)
    data = _bytes(PART_BYTES + 1000)
    started = time.perf_counter()
    record = write_bytes(store, key, data)
    up = time.perf_counter() - started
    started = time.perf_counter()
    found = hashlib.sha256(store.read(key)).hexdigest()
    down = time.perf_counter() - started
    if found != record.sha256:
        return Check(
            "store: multipart",
            "fail",
            f"sha256 {record.sha256[:12]}… was written, {found[:12]}… was read",
            "Do not use this store: it changes large objects.",
        )
    speed = f"{size(len(data) / up)}/s up, {size(len(data) / down)}/s down"
    return Check("store: multipart", "ok", f"{size(len(data))} in two parts, {speed}")


def _clock(store: Store) -> Check:
    if not isinstance(store, S3Store):
        return Check("store: clock", "ok", "a folder uses this machine's clock")
    from svdjobs.storage.s3.client import as_ours, client, failures

    try:
        answer = client().list_objects_v2(Bucket=store.bucket, MaxKeys=1)
    except failures() as error:
        raise as_ours(error, doing="listing", url=store.url) from None
    theirs = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if theirs is None:
        return Check("store: clock", "not checked", "the store's answers have no date")
    skew = abs((parsedate_to_datetime(theirs) - datetime.now(UTC)).total_seconds())
    words = f"{duration(skew)} between this clock and the store's"
    if skew < SKEW_WARN_SECONDS:
        return Check("store: clock", "ok", words)
    worse = skew >= SKEW_FAIL_SECONDS
    return Check(
        "store: clock",
        "fail" if worse else "warn",
        words,
        "Set this machine's clock (NTP): stores refuse requests that are 15 minutes off.",
    )


def _delete(store: Store, folder: str) -> Check:
    for key in store.keys(folder):
        store.delete(key)
    if left := store.keys(folder):
        return Check(
            "store: delete",
            "fail",
            f"{len(left)} deleted objects are still there",
            f"Delete {store.url}/{FOLDER} by hand; allow DeleteObject (or end an object lock).",
        )
    return Check("store: delete", "ok", "all objects of this check are deleted")


def _tidy(store: Store, folder: str) -> None:
    """Delete what the checks wrote, and its folders if the store is local; errors are ignored."""
    with suppress(StorageError):
        for key in store.keys(folder):
            store.delete(key)
    if isinstance(store, LocalStore):
        with suppress(OSError):
            store.path(folder).rmdir()
            store.path(FOLDER).rmdir()


def _bytes(count: int) -> bytes:
    """Bytes that are the same in every call and that no compression shortens."""
    return random.Random(0).randbytes(count)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else duration(seconds)
