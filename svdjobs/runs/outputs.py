"""How a stage's output comes to exist: resumable, and whole or not at all.

An output is a prefix of the run. While it is being made, `in-progress.json` holds its fingerprint,
so a rerun of the same work continues and a rerun of different work starts clean. `manifest.json`
comes last and makes it exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svdjobs.config import SweepConfig
from svdjobs.errors import (
    DamagedError,
    IncompleteError,
    MissingKeyError,
    OutputError,
    UnavailableError,
)
from svdjobs.fingerprint import fingerprint
from svdjobs.progress import say
from svdjobs.provenance import versions
from svdjobs.records import FileRecord, Manifest
from svdjobs.runs.logs import LOGS
from svdjobs.storage.as_files import read_checked
from svdjobs.storage.local import LocalStore
from svdjobs.storage.objects import (
    clear,
    json_bytes,
    read_json,
    record_in,
    try_read_json,
    write_bytes,
    write_json,
)
from svdjobs.storage.store import Store, record_of

MANIFEST = "manifest.json"
IN_PROGRESS = "in-progress.json"
RUN_CONFIG = "config.json"


@dataclass(frozen=True)
class OutputKey:
    """What an output is made of and by: where this is the same, so are its bytes."""

    stage: str
    version: str
    """Changes when a stage's code changes what it writes."""
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Of all of it."""
        return fingerprint(
            {
                "stage": self.stage,
                "version": self.version,
                "config": dict(self.config),
                "inputs": dict(self.inputs),
            }
        )


@dataclass
class Output:
    """One output being made, or found finished."""

    store: Store
    prefix: str
    made_of: OutputKey
    finished: Manifest | None = None
    files: list[FileRecord] = field(default_factory=list)

    def key(self, name: str) -> str:
        """Full key of a file of this output."""
        return f"{self.prefix}/{name}"

    def add(self, record: FileRecord) -> None:
        """Count a file, recorded under its full key, as part of this output."""
        relative = record.key.removeprefix(f"{self.prefix}/")
        self.files.append(record.model_copy(update={"key": relative}))

    def write_json(self, name: str, value: Any) -> None:
        """Write and count a JSON file."""
        self.write(name, json_bytes(value))

    def put_json(self, name: str, value: Any) -> None:
        """Write a JSON file that is counted later, by `adopt`."""
        write_json(self.store, self.key(name), value)

    def write(self, name: str, data: bytes) -> None:
        """Write and count a file."""
        self.add(write_bytes(self.store, self.key(name), data))

    def adopt(self, name: str) -> bytes:
        """Count a file that an earlier, interrupted run may have written; returns its bytes.

        Raises:
            UnavailableError: it is gone: another process has begun the output anew.
        """
        try:
            data = bytes(self.store.read(self.key(name)))
        except MissingKeyError as error:
            raise UnavailableError(
                f"{error} Another process has begun this output anew, or cleared it. Run the same "
                f"command again."
            ) from None
        self.add(record_of(self.key(name), data))
        return data

    def part_is_done(self, name: str, sizes: Mapping[str, int]) -> bool:
        """Whether a part is done: its record is there, and every file that it lists, by the sizes
        of what lies in the store."""
        if self.key(name) not in sizes:
            return False
        try:
            files = list(_files_in(read_json(self.store, self.key(name))))
        except (MissingKeyError, DamagedError):
            return False
        return all(sizes.get(file.key) == file.bytes for file in files)

    def commit(self) -> Manifest:
        """Write the manifest; from now on the output exists.

        Where another process has just finished the same work, its manifest stays if it lists the
        same bytes; else the files that lie there decide, which one of us wrote last.

        Raises:
            UnavailableError: a file is gone, or not as long as it was, or lies there as neither of
                us has written it: another process has begun the output anew meanwhile.
        """
        self._check_files()
        manifest = Manifest(
            stage=self.made_of.stage,
            fingerprint=self.made_of.fingerprint,
            inputs=dict(self.made_of.inputs),
            config=dict(self.made_of.config),
            files=sorted(self.files, key=lambda record: record.key),
            provenance=versions(),
        )
        key, document = self.key(MANIFEST), json_bytes(manifest.model_dump(mode="json"))
        if not self.store.put_new(key, document):
            other = find_manifest(self.store, self.prefix)
            if other is None or other.fingerprint != manifest.fingerprint:
                write_bytes(self.store, key, document)
            elif other.files != manifest.files:
                if self._files_are_stored(manifest):
                    write_bytes(self.store, key, document)
                elif not self._files_are_stored(other):
                    raise UnavailableError(
                        f"{self.store.url}/{self.prefix}: two processes are making this output at "
                        f"once. Run the same command again when one has ended."
                    )
                else:
                    manifest = other
        self.store.delete(self.key(IN_PROGRESS))
        self.finished = manifest
        return manifest

    def _files_are_stored(self, manifest: Manifest) -> bool:
        """Whether the files that a manifest lists are those in the store, by all their bytes."""
        try:
            for record in manifest.files:
                read_checked(self.store, self.key(record.key), record)
        except (DamagedError, MissingKeyError):
            return False
        return True

    def _check_files(self) -> None:
        """Make sure that everything counted is there in its length."""
        found = self.store.sizes(self.prefix)
        lost = sorted(f.key for f in self.files if found.get(self.key(f.key)) != f.bytes)
        if lost:
            raise UnavailableError(
                f"{self.store.url}/{self.prefix}: {', '.join(lost[:5])} changed or vanished while "
                f"the output was being made, so another process began it anew. Run the same "
                f"command again; what is there is kept."
            )


def _files_in(document: Any) -> Iterator[FileRecord]:
    """The file records of a part's record, which may be those of a file or of several."""
    for found in (document["file"], *document.get("logs", ())):
        if found is not None:
            yield record_in(FileRecord, found, "a part's record")


def begin(store: Store, prefix: str, made_of: OutputKey, *, force: bool = False) -> Output:
    """Find an output finished, continue it, or start it clean."""
    output = Output(store, prefix, made_of)
    manifest = None if force else find_manifest(store, prefix)
    if manifest is not None and manifest.fingerprint == made_of.fingerprint:
        if store.exists(f"{prefix}/{IN_PROGRESS}"):
            store.delete(f"{prefix}/{IN_PROGRESS}")
        output.finished = manifest
        return output
    marker = None if force else try_read_json(store, f"{prefix}/{IN_PROGRESS}")
    begun = {"fingerprint": made_of.fingerprint}
    if manifest is not None or marker != begun:
        clear(store, prefix)
        write_json(store, f"{prefix}/{IN_PROGRESS}", begun)
    return output


def is_current(store: Store, prefix: str, made_of: OutputKey) -> bool:
    """Whether `begin` would find the output finished; nothing is touched."""
    manifest = find_manifest(store, prefix)
    return manifest is not None and manifest.fingerprint == made_of.fingerprint


def content_print(manifest: Manifest) -> str:
    """Fingerprint of what an output holds, where the same work may have been done anew."""
    return fingerprint([manifest.fingerprint, {f.key: f.sha256 for f in manifest.files}])


def find_manifest(store: Store, prefix: str) -> Manifest | None:
    """The manifest of a finished output, None if it is not finished.

    Raises:
        DamagedError: something else lies in its place.
    """
    document = try_read_json(store, f"{prefix}/{MANIFEST}")
    if document is None:
        return None
    return record_in(Manifest, document, f"{store.url}/{prefix}/{MANIFEST}")


def readable_manifest(store: Store, prefix: str) -> Manifest | None:
    """`find_manifest` for a stage that does without what is damaged, and says so."""
    try:
        return find_manifest(store, prefix)
    except DamagedError as error:
        say(str(error))
        return None


def require(store: Store, prefixes: Iterable[str], *, stage: str) -> list[Manifest]:
    """Manifests of the inputs of a stage.

    Raises:
        IncompleteError: some are missing; all of them are named.
    """
    wanted = list(prefixes)
    found = [find_manifest(store, prefix) for prefix in wanted]
    missing = sorted(p for p, manifest in zip(wanted, found, strict=True) if manifest is None)
    if missing:
        raise IncompleteError(
            f"{stage} needs outputs that are not there yet in {store.url}: {', '.join(missing)}. "
            f"Run `svdjobs sweep CONFIG`, or the stages before {stage}, first."
        )
    return [manifest for manifest in found if manifest is not None]


def read_finished(store: Store, prefix: str, name: str, manifest: Manifest | None = None) -> bytes:
    """A file of a finished output, with the sha256 that its manifest lists.

    Raises:
        IncompleteError: the output is not finished.
        StorageError: the file is not listed, or not what is listed; both digests are named.
    """
    (manifest,) = [manifest] if manifest else require(store, [prefix], stage=f"reading {name}")
    if record := manifest.file(name):
        return bytes(read_checked(store, f"{prefix}/{name}", record))
    raise DamagedError(
        f"{store.url}/{prefix}/{MANIFEST} lists no {name}. Delete it and run {manifest.stage} "
        f"again."
    )


def copy(store: Store, prefix: str, folder: Path) -> None:
    """Copy a finished output to a folder on this disk, every file checked.

    Raises:
        IncompleteError: it is not finished.
    """
    (manifest,) = require(store, [prefix], stage=f"copying the {prefix}")
    here = LocalStore(folder)
    for file in manifest.files:
        write_bytes(here, file.key, read_finished(store, prefix, file.key, manifest))


def made_by(manifest: Manifest, version: str) -> bool:
    """Whether that version of its stage's code made an output."""
    made_of = OutputKey(manifest.stage, version, manifest.config, manifest.inputs)
    return manifest.fingerprint == made_of.fingerprint


def check_run(store: Store, config: SweepConfig) -> None:
    """Make sure the store is empty or holds this very run.

    Raises:
        OutputError: it holds another run, or files that are no run.
    """
    known = try_read_json(store, RUN_CONFIG)
    if known is None:
        # Logs may begin before the run does, and outlast one that was deleted.
        strangers = [
            key
            for key in store.keys("")
            if not key.endswith(IN_PROGRESS) and not key.startswith(f"{LOGS}/")
        ]
        if strangers:
            raise OutputError(
                f"{store.url} is not empty and holds no svdjobs run (it has {strangers[0]}). Give "
                f"another `store`, or empty it."
            )
        return
    for field_name in ("name", "before", "after"):
        expected, found = getattr(config, field_name), known.get(field_name)
        if expected != found:
            raise OutputError(
                f"{store.url} holds another run: its {field_name} is {found!r}, this config "
                f"says {expected!r}. Give this one another `name` or `store`."
            )


def note_run(store: Store, config: SweepConfig) -> None:
    """Keep the config beside what it made."""
    document = config.model_dump(mode="json")
    if try_read_json(store, RUN_CONFIG) != document:
        write_json(store, RUN_CONFIG, document)
