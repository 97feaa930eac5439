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
    written: datetime | None
    """When the last file directly below its prefix, or of its journals, was written, in UTC; None
    if there is none."""


def presence(store: Store, prefix: str) -> Presence:
    """Look at an output: one listing, and one more for each journal in an object store."""
    found = store.listing(prefix)
    journals = [folder for folder in found.folders if folder.endswith(SUFFIX)]
    parts = [store.listing(f"{prefix}/{journal}") for journal in journals]
    times = [file.at for listing in (found, *parts) for file in listing.files.values()]
    return Presence(MANIFEST in found.files, max(times, default=None))


def presences(store: Store, prefixes: Iterable[str]) -> dict[str, Presence]:
    """Look at several outputs at the same time."""
    wanted = list(prefixes)
    with ThreadPoolExecutor(_REQUESTS) as pool:
        found = pool.map(lambda prefix: presence(store, prefix), wanted)
        return dict(zip(wanted, found, strict=True))
