"""Which bytes a checkpoint is made of: sha256 of every file that decides its weights or tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

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
    """Fingerprint of config and weights; two checkpoints share it only if their bytes agree.

    Every byte is hashed once. The digests are kept under `key` with each file's place, version and
    a probe of its content, and taken from there while those stay the same. Without what is kept
    (`forget`) every byte is hashed again.
    """
    files = ["config.json", *checkpoint.weight_files()]
    found = _digests(checkpoint.label, checkpoint.store, files, cache, key)
    for number, (store, names) in enumerate(checkpoint.also):
        more = _digests(checkpoint.label, store, names, cache, key)
        found |= {f"{number}/{name}": digest for name, digest in more.items()}
    return fingerprint(found)


def _digests(
    label: str, store: Readable, files: Sequence[str], cache: Store, key: str
) -> dict[str, str]:
    """sha256 of files, by name; those that are not known are hashed and kept."""
    known = try_read_json(cache, key) or {}
    known_as = {name: _known_as(store, name) for name in files}
    stale = [name for name in files if known.get(known_as[name], "") == ""]
    if stale:
        total = sum(store.size(name) for name in stale)
        workers = min(cores(), len(stale))
        with track(f"hash {label}", total) as advance, ThreadPoolExecutor(workers) as pool:
            digests = in_order(pool, partial(_digest, store), stale, ahead=workers)
            for name, digest in zip(stale, digests, strict=True):
                known[known_as[name]] = digest
                advance(store.size(name), size(total))
        write_json(cache, key, dict(sorted(known.items())))
    return {name: known[known_as[name]] for name in files}


def _digest(store: Readable, name: str) -> str:
    """sha256 of one file."""
    digest = hashlib.sha256()
    read = _local_pieces if isinstance(store, LocalStore) else pieces
    for piece in read(store, name):
        digest.update(piece)
    return digest.hexdigest()


def _local_pieces(store: Readable, name: str) -> Iterator[bytearray]:
    """Small ones, one after the other: a disk needs no reading ahead."""
    length = store.size(name)
    for start in range(0, length, _PIECE):
        yield store.read(name, start, min(start + _PIECE, length))


def _known_as(store: Readable, name: str) -> str:
    """What changes when a file does, and belongs to no other."""
    version = store.version(name)
    if version.startswith(BLOB_VERSION):
        return version
    if "://" in store.url:
        return f"{store.url}/{name}:{version}"
    return f"{Path(store.url).resolve()}/{name}:{version}:{_probe(store, name)}"


def _probe(store: Readable, name: str) -> str:
    """A digest of some pages of a file, spread over it: file systems that copy every time and inode
    (an image, a clone of a disk) do not copy other weights."""
    length = store.size(name)
    digest = hashlib.sha256()
    for place in range(_PROBES):
        start = place * max(length - _PROBE_BYTES, 0) // (_PROBES - 1)
        digest.update(store.read(name, start, min(start + _PROBE_BYTES, length)))
    return digest.hexdigest()[:16]


def forget(cache: Store, key: str) -> None:
    """Forget which digests were found, so that every byte is hashed again."""
    cache.delete(key)


def companions_digest(checkpoint: Checkpoint) -> str:
    """Fingerprint of the tokenizer files and other companions."""
    return fingerprint(
        {
            name: hashlib.sha256(checkpoint.store.read(name)).hexdigest()
            for name in checkpoint.companions()
        }
    )
