"""Fingerprint a checkpoint: sha256 of every file that decides its weights or its tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from svdjobs.checkpoint.hub_files import HubFiles
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.fingerprint import fingerprint
from svdjobs.parallel import in_order
from svdjobs.progress import size, track
from svdjobs.provenance import cores
from svdjobs.storage.as_files import pieces
from svdjobs.storage.local import BLOB_VERSION, LocalStore
from svdjobs.storage.objects import try_read_json, write_json
from svdjobs.storage.store import Readable, Store

_PIECE = 1 << 22
_PROBES, _PROBE_BYTES = 16, 4096


def identity(checkpoint: Checkpoint, cache: Store, key: str) -> str:
    """Return the fingerprint of config and weights. Checkpoints with other bytes have another one.

    Every byte is hashed once. The digests are cached under `key`, by the file's path, its version
    and a probe of its content. They are used while those stay the same, until `forget`.
    """
    files = ["config.json", *checkpoint.weight_files()]
    found = _digests(checkpoint.label, checkpoint.store, files, cache, key)
    for number, (store, names) in enumerate(checkpoint.also):
        more = _digests(checkpoint.label, store, names, cache, key)
        found |= {f"{number}/{name}": digest for name, digest in more.items()}
    return fingerprint(found)


def must_be_downloaded(checkpoint: Checkpoint) -> bool:
    """Whether `identity` would read all weights from the hub, which does not know their sha256."""
    files = checkpoint.store
    return isinstance(files, HubFiles) and any(
        files.sha256(name) is None for name in checkpoint.weight_files()
    )


def _digests(
    label: str, store: Readable, files: Sequence[str], cache: Store, key: str
) -> dict[str, str]:
    """Return the sha256 of files, by name. Files without a cached digest are hashed and cached."""
    cached = try_read_json(cache, key) or {}
    cache_keys = {name: _cache_key(store, name) for name in files}
    stale = [name for name in files if cached.get(cache_keys[name], "") == ""]
    if stale:
        total = sum(store.size(name) for name in stale)
        workers = min(cores(), len(stale))
        with track(f"hash {label}", total) as advance, ThreadPoolExecutor(workers) as pool:
            digests = in_order(pool, partial(sha256_of, store), stale, ahead=workers)
            for name, digest in zip(stale, digests, strict=True):
                cached[cache_keys[name]] = digest
                advance(store.size(name), size(total))
        write_json(cache, key, dict(sorted(cached.items())))
    return {name: cached[cache_keys[name]] for name in files}


def remember(digests: Mapping[str, str], files: Store, cache: Store, key: str) -> None:
    """Cache the sha256 of files in a store, by name, so that `identity` does not read them."""
    cached = try_read_json(cache, key) or {}
    cached |= {_cache_key(files, name): digest for name, digest in digests.items()}
    write_json(cache, key, dict(sorted(cached.items())))


def sha256_of(store: Readable, name: str) -> str:
    """Return the sha256 of one file: as the hub says, for one that is not downloaded."""
    if isinstance(store, HubFiles) and (known := store.sha256(name)):
        return known
    digest = hashlib.sha256()
    read = _local_pieces if isinstance(store, LocalStore) else pieces
    for piece in read(store, name):
        digest.update(piece)
    return digest.hexdigest()


def _local_pieces(store: Readable, name: str) -> Iterator[bytearray]:
    """Yield small pieces of a file without reading ahead, which a disk does not need."""
    length = store.size(name)
    for start in range(0, length, _PIECE):
        yield store.read(name, start, min(start + _PIECE, length))


def _cache_key(store: Readable, name: str) -> str:
    """Return a string that changes with the file and that no other file has."""
    version = store.version(name)
    if version.startswith(BLOB_VERSION):
        return version
    if "://" in store.url:
        return f"{store.url}/{name}:{version}"
    return f"{Path(store.url).resolve()}/{name}:{version}:{_probe(store, name)}"


def _probe(store: Readable, name: str) -> str:
    """Return a digest of some blocks, spread over the file.

    It tells files with other weights apart even if they have the same path, times and inode, as on
    a disk image or a clone of a disk.
    """
    length = store.size(name)
    digest = hashlib.sha256()
    for place in range(_PROBES):
        start = place * max(length - _PROBE_BYTES, 0) // (_PROBES - 1)
        digest.update(store.read(name, start, min(start + _PROBE_BYTES, length)))
    return digest.hexdigest()[:16]


def forget(cache: Store, key: str) -> None:
    """Delete the cached digests: the next `identity` hashes every byte again."""
    cache.delete(key)


def companions_digest(checkpoint: Checkpoint) -> str:
    """Return the fingerprint of the tokenizer files and other companions."""
    return fingerprint(
        {
            name: hashlib.sha256(checkpoint.store.read(name)).hexdigest()
            for name in checkpoint.companions()
        }
    )
