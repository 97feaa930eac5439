"""What a store shows of an output from outside: whether it is finished, and when it was written."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import NamedTuple

from svdjobs.runs.outputs import MANIFEST
from svdjobs.storage.journal import SUFFIX
from svdjobs.storage.store import Store

_REQUESTS = 16
"""Listings to request at the same time."""


class Presence(NamedTuple):
    """An output, or what an interrupted or running stage has written of it."""

    finished: bool
    """Whether it has a manifest."""
    files: int
    """Files directly below its prefix, and of its journals."""
    written: datetime | None
    """When the last of them was written, in UTC; None if there are none."""


def presence(store: Store, prefix: str) -> Presence:
    """Look at an output: one listing, and one more for each journal in an object store."""
    found = store.listing(prefix)
    files = dict(found.files)
    for folder in found.folders:
        if folder.endswith(SUFFIX):
            parts = store.listing(f"{prefix}/{folder}").files
            files |= {f"{folder}/{name}": part for name, part in parts.items()}
    written = max((file.at for file in files.values()), default=None)
    return Presence(MANIFEST in files, len(files), written)


def presences(store: Store, prefixes: Iterable[str]) -> dict[str, Presence]:
    """Look at several outputs at the same time."""
    wanted = list(prefixes)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        found = pool.map(lambda prefix: presence(store, prefix), wanted)
        return dict(zip(wanted, found, strict=True))
