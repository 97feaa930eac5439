"""fetch: copy the hub's checkpoints into the run's store, once for all pods of a sweep.

With an adapter it also copies the base that the adapter names.
Without it each pod that reads a checkpoint downloads it. Only clusters need the stage: on one
machine the hub's own cache does the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from svdjobs.checkpoint.hub_files import HubFiles
from svdjobs.checkpoint.identity import remember, sha256_of
from svdjobs.checkpoint.lora import is_adapter
from svdjobs.checkpoint.sources import base_of, hub_files, is_hub_id, wanted_files
from svdjobs.config import SweepConfig
from svdjobs.errors import ConfigError, DamagedError
from svdjobs.parallel import in_order
from svdjobs.progress import Advance, size, track
from svdjobs.records import FileRecord
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import checkpoint_sources, fetched_store, hub_sources
from svdjobs.runs.outputs import OutputKey, begin
from svdjobs.storage.store import Store

STAGE = "fetch"
VERSION = "1"
PIECE_BYTES = 32 << 20
WORKERS = 4


def run(
    config: SweepConfig, store: Store, *, slugs: Sequence[str] | None = None, force: bool = False
) -> None:
    """Copy every hub checkpoint of the config, or those with these ids or slugs.

    A run that was cut goes on with the next file, and every large file is compared with the sha256
    that the hub names.

    Raises:
        ConfigError: no hub checkpoint has such a slug.
        DamagedError: a file has another sha256 than the hub says.
    """
    by_slug = {layout.slug(source): source for source in hub_sources(config)}
    for slug in by_slug if slugs is None else map(layout.slug, slugs):
        if slug not in by_slug:
            names = ", ".join(by_slug) or "none"
            raise ConfigError(f"--source {slug}: the hub checkpoints of this config are: {names}.")
        source = by_slug[slug]
        _fetch(config, store, source, force=force)
        base = _base(config, source)
        if base is not None and base not in by_slug.values():
            _fetch(config, store, base, force=force)


def _base(config: SweepConfig, source: str) -> str | None:
    """The base on the hub that an adapter names, if the config names no other for it."""
    copy = fetched_store(config, source)
    if source not in checkpoint_sources(config) or not is_adapter(copy):
        return None
    base = base_of(copy, source)
    return base if is_hub_id(base) else None


def _fetch(config: SweepConfig, store: Store, source: str, *, force: bool) -> None:
    files = hub_files(source)
    names = wanted_files(files, allow_pickle=config.allow_pickle)
    key = OutputKey(STAGE, VERSION, {}, {"source": source, "files": files.url})
    output = begin(store, layout.fetched_prefix(source), key, force=force)
    if output.finished:
        return
    total = sum(files.size(name) for name in names)
    with (
        track(f"fetch {source}, {size(total)}", total) as advance,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        records = in_order(
            pool, lambda name: _copied(files, store, name, output.key(name), advance), names,
            ahead=WORKERS,
        )  # fmt: skip
        for record in records:
            output.add(record)
    output.commit()
    digests = {record.key: record.sha256 for record in output.files}
    remember(digests, fetched_store(config, source), store, layout.IDENTITIES)


def _copied(files: HubFiles, store: Store, name: str, key: str, advance: Advance) -> FileRecord:
    """Copy a file unless a run that was cut has done so; return its record."""
    known, length = files.sha256(name), files.size(name)
    if known and store.exists(key) and store.size(key) == length and sha256_of(store, key) == known:
        advance(length)
        return FileRecord(key=key, bytes=length, sha256=known)
    with store.sink(key) as sink:
        for start in range(0, length, PIECE_BYTES):
            piece = files.read(name, start, min(start + PIECE_BYTES, length))
            sink.write(memoryview(piece))
            advance(len(piece))
        record = sink.record(key)
        if known and record.sha256 != known:
            raise DamagedError(
                f"{files.url}/{name} has the sha256 {record.sha256}, but the hub says {known}. Run "
                f"again; if it stays so, the hub's file is damaged."
            )
    return record
