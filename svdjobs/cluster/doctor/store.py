"""What a store must be able to do, tried out in it: every object made is deleted again."""

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
# The smallest part S3 takes, so that two parts are few bytes.
PART_BYTES = 5 * 2**20
SMALL_BYTES = 64 * 1024
READS = 10
SLOW_SECONDS = 0.5
# S3 refuses requests whose time is a quarter of an hour off.
SKEW_WARN_SECONDS, SKEW_FAIL_SECONDS = 60, 900


def check_store(url: str) -> list[Check]:
    """Try a store out.

    Raises:
        ConfigError: the URL is none that a backend answers for.
    """
    store = open_store(url)
    folder = f"{FOLDER}/{uuid.uuid4().hex}"
    try:
        first = guarded("store: put", lambda: _put(store, f"{folder}/small"))
        if first[0].status == "fail":
            return first  # the others would say the same
        checks = [*first]
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
                "store: get", "fail", f"{key} came back with other bytes than were written",
                "Do not use this store: some proxy or gateway changes what it passes on.",
            )  # fmt: skip
    median = statistics.median(took)
    words = f"the same bytes {READS} times, {_ms(median)} each (slowest {_ms(max(took))})"
    if median > SLOW_SECONDS:
        return Check("store: get", "warn", words, "Use a store nearer to where this runs.")
    return Check("store: get", "ok", words)


def _range(store: Store, key: str) -> Check:
    start, end = 12_345, 54_321
    if store.read(key, start, end) != _bytes(SMALL_BYTES)[start:end]:
        return Check(
            "store: range", "fail", f"bytes [{start}, {end}) came back wrong",
            "This store does not serve ranges, which single tensors are read by; use another.",
        )  # fmt: skip
    return Check("store: range", "ok", f"bytes [{start}, {end}) as asked")


def _list(store: Store, folder: str) -> Check:
    keys = store.keys(folder)
    if keys != [f"{folder}/small"]:
        return Check(
            "store: list", "fail", f"{len(keys)} keys where 1 was written a moment ago",
            "Listing must show what was written before it; use a store that is consistent.",
        )  # fmt: skip
    return Check("store: list", "ok", "what was written is listed at once")


def _missing(store: Store, key: str) -> Check:
    """Without permission to list, S3 says 403 of a missing object, which stops every stage."""
    with suppress(MissingKeyError):
        store.read(key)
        return Check("store: missing object", "fail", f"{key} was read, though never written")
    return Check("store: missing object", "ok", "is told from a forbidden one")


def _conditional(store: Store, key: str) -> Check:
    name = "store: conditional put"
    first, second = store.put_new(key, b"first"), store.put_new(key, b"second")
    if (first, second, bytes(store.read(key))) != (True, False, b"first"):
        return Check(
            name, "fail", "a second writer replaced the first one's object",
            "Two pods doing the same work could both think theirs counts; use another store.",
        )  # fmt: skip
    if isinstance(store, S3Store) and not _honours_if_none_match(store, key):
        return Check(
            name, "warn", "If-None-Match is not honoured; objects are looked for before writing",
            "Works, but two pods finishing at the same moment may both write. Newer versions of "
            "most stores honour it.",
        )  # fmt: skip
    return Check(name, "ok", "only the first of two writers wins")


def _honours_if_none_match(store: S3Store, key: str) -> bool:
    from svdjobs.storage.s3.client import client, failures, is_taken

    name = f"{store.prefix}/{key}".lstrip("/")
    try:
        client().put_object(Bucket=store.bucket, Key=name, Body=b"first", IfNoneMatch="*")
    except failures() as error:
        return is_taken(error)
    return False


def _multipart(store: Store, key: str) -> Check:
    """A little more than one part, written and read back."""
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
            "store: multipart", "fail",
            f"sha256 {found[:12]}… came back, {record.sha256[:12]}… was written",
            "Do not use this store for checkpoints.",
        )  # fmt: skip
    speed = f"{size(len(data) / up)}/s up, {size(len(data) / down)}/s down"
    return Check("store: multipart", "ok", f"{size(len(data))} in two parts, {speed}")


def _clock(store: Store) -> Check:
    if not isinstance(store, S3Store):
        return Check("store: clock", "ok", "a folder's clock is this machine's")
    from svdjobs.storage.s3.client import as_ours, client, failures

    try:
        answer = client().list_objects_v2(Bucket=store.bucket, MaxKeys=1)
    except failures() as error:
        raise as_ours(error, doing="listing", url=store.url) from None
    theirs = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if theirs is None:
        return Check("store: clock", "not checked", "the store does not tell its time")
    skew = abs((parsedate_to_datetime(theirs) - datetime.now(UTC)).total_seconds())
    words = f"{duration(skew)} between this clock and the store's"
    if skew < SKEW_WARN_SECONDS:
        return Check("store: clock", "ok", words)
    worse = skew >= SKEW_FAIL_SECONDS
    return Check(
        "store: clock", "fail" if worse else "warn", words,
        "Set this machine's clock (NTP): stores refuse requests that are 15 minutes off.",
    )  # fmt: skip


def _delete(store: Store, folder: str) -> Check:
    for key in store.keys(folder):
        store.delete(key)
    if left := store.keys(folder):
        return Check(
            "store: delete", "fail", f"{len(left)} objects are still there after being deleted",
            f"Delete {store.url}/{FOLDER} by hand; allow DeleteObject (or end an object lock).",
        )  # fmt: skip
    return Check("store: delete", "ok", "nothing of this test is left")


def _tidy(store: Store, folder: str) -> None:
    with suppress(StorageError):
        for key in store.keys(folder):
            store.delete(key)
    if isinstance(store, LocalStore):
        with suppress(OSError):
            store.path(folder).rmdir()
            store.path(FOLDER).rmdir()


def _bytes(count: int) -> bytes:
    """The same bytes every time, that no compression shortens."""
    return random.Random(0).randbytes(count)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else duration(seconds)
