"""Whole objects of a store: bytes, JSON, lines, records; and clearing a prefix."""

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
    """Write one object in one go."""
    with store.sink(key) as sink:
        sink.write(data)
        return sink.record(key)


def write_json(store: Store, key: str, value: Any) -> FileRecord:
    """Write a value as JSON that a person can read."""
    return write_bytes(store, key, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Readable JSON, ending in a newline."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def write_lines(store: Store, key: str, rows: Iterable[str]) -> FileRecord:
    """Write text lines (JSONL, CSV)."""
    return write_bytes(store, key, "".join(f"{row}\n" for row in rows).encode())


def read_json(store: Readable, key: str) -> Any:
    """Read a JSON object.

    Raises:
        MissingKeyError: nothing under that key.
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
    """The value in a JSON text; where it is to be `unique`, no object in it gives a key twice.

    Raises:
        DamagedError: it is not JSON.
    """
    if data.lstrip()[:1] == b"<":
        raise DamagedError(
            f"{where} is a web page, not JSON: a proxy, a login page or a wrong endpoint answered "
            f"in place of the store. Look at the endpoint and at the proxy settings."
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
    """An object of JSON whose keys differ."""
    found = dict(pairs)
    if len(found) < len(pairs):
        (twice, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"it gives the key {twice!r:.80} twice")
    return found


def try_read_json(store: Readable, key: str) -> Any | None:
    """Read a JSON object, None where there is none."""
    try:
        return read_json(store, key)
    except MissingKeyError:
        return None


def clear(store: Store, prefix: str) -> None:
    """Delete everything below a prefix, its manifests first, so that it stops existing at once."""
    keys = store.keys(prefix)
    manifests = [key for key in keys if key.endswith("/manifest.json")]
    for key in manifests:
        store.delete(key)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store.delete, [key for key in keys if key not in set(manifests)]))
