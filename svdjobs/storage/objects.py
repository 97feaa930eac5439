"""Read and write whole objects of a store: bytes, JSON, lines, records. Clear a prefix."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pydantic import ValidationError

from svdjobs.errors import DamagedError, MissingKeyError
from svdjobs.records import FileRecord, Record
from svdjobs.storage.store import Readable, Store

Kept = TypeVar("Kept", bound=Record)


def write_bytes(store: Store, key: str, data: bytes) -> FileRecord:
    """Write one whole object."""
    with store.sink(key) as sink:
        sink.write(data)
        return sink.record(key)


def write_json(store: Store, key: str, value: Any) -> FileRecord:
    """Write a value as indented JSON."""
    return write_bytes(store, key, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """The bytes of a value as indented JSON, with a newline at the end."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def write_lines(store: Store, key: str, rows: Iterable[str]) -> FileRecord:
    """Write text lines (JSONL, CSV)."""
    return write_bytes(store, key, "".join(f"{row}\n" for row in rows).encode())


def read_json(store: Readable, key: str) -> Any:
    """Read an object that holds JSON.

    Raises:
        MissingKeyError: the object does not exist.
        DamagedError: it is not JSON.
    """
    return parsed_json(store.read(key), f"{store.url}/{key}")


def parsed_json(
    data: bytes | bytearray,
    where: str,
    *,
    unique: bool = False,
    advice: str = "Delete it and run again.",
) -> Any:
    """Parse a JSON text. With `unique`, refuse a JSON object that gives a key twice.

    Raises:
        DamagedError: the text is not JSON, or a key is given twice.
    """
    if data.lstrip()[:1] == b"<":
        raise DamagedError(
            f"{where} is a web page, not JSON: a proxy, a login page or a wrong endpoint answered "
            f"in place of the store. Check the endpoint and the proxy settings."
        )
    try:
        return json.loads(data, object_pairs_hook=_each_once if unique else None)
    except (ValueError, RecursionError) as error:
        words = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise DamagedError(f"{where} is not valid JSON ({words}). {advice}") from None


def record_in(kind: type[Kept], value: Any, where: str) -> Kept:
    """The record in a JSON document, whichever version of svdjobs wrote it.

    Raises:
        DamagedError: the document is not such a record.
        FormatError: a newer svdjobs wrote it.
    """
    try:
        return kind.read(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DamagedError(
            f"{where} is not what svdjobs writes there ({kind.__name__}"
            f"{f', {place}' if place else ''}: {first['msg']}). Delete it and run again."
        ) from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dict from the pairs of a JSON object; raise ValueError if a key appears twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it gives the key {twice!r:.80} twice")
    return found


def try_read_json(store: Readable, key: str) -> Any | None:
    """Read an object that holds JSON; None if it does not exist."""
    try:
        return read_json(store, key)
    except MissingKeyError:
        return None


def clear(store: Store, prefix: str) -> None:
    """Delete everything below a prefix, manifests first: an output without one does not count."""
    keys = store.keys(prefix)
    manifests = [key for key in keys if key.endswith("/manifest.json")]
    for key in manifests:
        store.delete(key)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store.delete, [key for key in keys if key not in set(manifests)]))
