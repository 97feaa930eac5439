"""Makes the outputs of stages: resumable, and either complete or absent.

An output is a prefix of the run's store. While a stage makes it, `in-progress.json` holds its
fingerprint: the same work resumes it, other work clears it first. The output exists once
`manifest.json` is written, which is last.
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
    OvertakenError,
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
    """Cache key of an output: equal keys give equal bytes."""

    stage: str
    version: str
    """The stage's VERSION, raised when its code writes other bytes."""
    config: Mapping[str, Any]
    inputs: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the whole key."""
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
    """An output that is finished or being made."""

    store: Store
    prefix: str
    made_of: OutputKey
    finished: Manifest | None = None
    files: list[FileRecord] = field(default_factory=list)

    def key(self, name: str) -> str:
        """Full key of a file of this output."""
        return f"{self.prefix}/{name}"

    def add(self, record: FileRecord) -> None:
        """List a written file in the manifest. Its record has the full key."""
        relative = record.key.removeprefix(f"{self.prefix}/")
        self.files.append(record.model_copy(update={"key": relative}))

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, and list it in the manifest."""
        self.write(name, json_bytes(value))

    def put_json(self, name: str, value: Any) -> None:
        """Write a JSON file; `adopt` lists it in the manifest later."""
        write_json(self.store, self.key(name), value)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, and list it in the manifest."""
        self.add(write_bytes(self.store, self.key(name), data))

    def adopt(self, name: str) -> bytes:
        """List a stored file in the manifest, whoever wrote it, and return its bytes.

        An interrupted run may have written the file.

        Raises:
            OvertakenError: the file is gone, since another process has restarted the output.
        """
        try:
            data = bytes(self.store.read(self.key(name)))
        except MissingKeyError as error:
            raise OvertakenError(
                f"{error} Another process has restarted or deleted this output. Run the same "
                f"command again."
            ) from None
        self.add(record_of(self.key(name), data))
        return data

    def part_is_done(self, name: str, sizes: Mapping[str, int]) -> bool:
        """Whether a part's record exists, and every file that it lists, with the recorded size.

        `sizes` are those of the keys in the store.
        """
        if self.key(name) not in sizes:
            return False
        try:
            files = list(_files_in(read_json(self.store, self.key(name))))
        except (MissingKeyError, DamagedError):
            return False
        return all(sizes.get(file.key) == file.bytes for file in files)

    def commit(self) -> Manifest:
        """Write the manifest, which makes the output exist.

        If another process has just finished the same work with other bytes, the manifest that
        matches the stored files wins.

        Raises:
            OvertakenError: a file is gone, or has another size, or matches neither manifest,
                since another process has restarted the output.
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
                    raise OvertakenError(
                        f"{self.store.url}/{self.prefix}: two processes are making this output at "
                        f"once. Run the same command again when one has ended."
                    )
                else:
                    manifest = other
        self.store.delete(self.key(IN_PROGRESS))
        self.finished = manifest
        return manifest

    def _files_are_stored(self, manifest: Manifest) -> bool:
        """Whether the stored files have exactly the bytes that a manifest lists."""
        try:
            for record in manifest.files:
                read_checked(self.store, self.key(record.key), record)
        except (DamagedError, MissingKeyError):
            return False
        return True

    def _check_files(self) -> None:
        """Check that every listed file is in the store, with its size."""
        sizes = self.store.sizes(self.prefix)
        lost = sorted(f.key for f in self.files if sizes.get(self.key(f.key)) != f.bytes)
        if lost:
            raise OvertakenError(
                f"{self.store.url}/{self.prefix}: {', '.join(lost[:5])} changed or vanished while "
                f"the output was being made, so another process has restarted it. Run the same "
                f"command again; what is there is kept."
            )


def _files_in(document: Any) -> Iterator[FileRecord]:
    """The file records in a part's record: its file, if one was written, and its logs."""
    for record in (document["file"], *document.get("logs", ())):
        if record is not None:
            yield record_in(FileRecord, record, "a part's record")


def begin(store: Store, prefix: str, made_of: OutputKey, *, force: bool = False) -> Output:
    """Open an output: finished, to be resumed, or cleared to start again.

    It is finished if its manifest has this key, and is resumed if an interrupted run has begun it
    with this key. `force` always clears it.
    """
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
    """Whether an output is finished with this key. Unlike `begin`, changes nothing."""
    manifest = find_manifest(store, prefix)
    return manifest is not None and manifest.fingerprint == made_of.fingerprint


def content_print(manifest: Manifest) -> str:
    """Fingerprint of an output's key and bytes, since the same work may give other bytes."""
    return fingerprint([manifest.fingerprint, {f.key: f.sha256 for f in manifest.files}])


def find_manifest(store: Store, prefix: str) -> Manifest | None:
    """The manifest of an output; None if the output is not finished.

    Raises:
        DamagedError: the file is not a manifest.
    """
    document = try_read_json(store, f"{prefix}/{MANIFEST}")
    if document is None:
        return None
    return record_in(Manifest, document, f"{store.url}/{prefix}/{MANIFEST}")


def readable_manifest(store: Store, prefix: str) -> Manifest | None:
    """Like `find_manifest`, but say that a manifest is damaged and return None."""
    try:
        return find_manifest(store, prefix)
    except DamagedError as error:
        say(str(error))
        return None


def require(store: Store, prefixes: Iterable[str], *, stage: str) -> list[Manifest]:
    """Manifests of the inputs of a stage.

    Raises:
        IncompleteError: outputs are missing; the error names all of them.
    """
    wanted = list(prefixes)
    manifests = [find_manifest(store, prefix) for prefix in wanted]
    missing = sorted(p for p, manifest in zip(wanted, manifests, strict=True) if manifest is None)
    if missing:
        raise IncompleteError(
            f"{stage} needs outputs that are not there yet in {store.url}: {', '.join(missing)}. "
            f"Run `svdjobs sweep CONFIG`, or the stages before {stage}, first."
        )
    return [manifest for manifest in manifests if manifest is not None]


def read_finished(store: Store, prefix: str, name: str, manifest: Manifest | None = None) -> bytes:
    """Read a file of a finished output, and check its sha256.

    Raises:
        IncompleteError: the output is not finished.
        DamagedError: the manifest does not list the file.
        StorageError: the sha256 differs; the error names both.
    """
    (manifest,) = [manifest] if manifest else require(store, [prefix], stage=f"reading {name}")
    if record := manifest.file(name):
        return bytes(read_checked(store, f"{prefix}/{name}", record))
    raise DamagedError(
        f"{store.url}/{prefix}/{MANIFEST} lists no {name}. Delete it and run {manifest.stage} "
        f"again."
    )


def copy(store: Store, prefix: str, folder: Path) -> None:
    """Copy a finished output to a folder on this disk, and check every file.

    Raises:
        IncompleteError: the output is not finished.
    """
    (manifest,) = require(store, [prefix], stage=f"copying the {prefix}")
    target = LocalStore(folder)
    for file in manifest.files:
        write_bytes(target, file.key, read_finished(store, prefix, file.key, manifest))


def made_by(manifest: Manifest, version: str) -> bool:
    """Whether a version of its stage's code made an output."""
    made_of = OutputKey(manifest.stage, version, manifest.config, manifest.inputs)
    return manifest.fingerprint == made_of.fingerprint


def check_run(store: Store, config: SweepConfig) -> None:
    """Check that the store is empty or holds this run.

    Raises:
        OutputError: the store holds another run, or files of no run.
    """
    stored = try_read_json(store, RUN_CONFIG)
    if stored is None:
        # Logs and markers may be there before the run's config, and after a run was deleted.
        foreign_keys = [
            key
            for key in store.keys("")
            if not key.endswith(IN_PROGRESS) and not key.startswith(f"{LOGS}/")
        ]
        if foreign_keys:
            raise OutputError(
                f"{store.url} is not empty and holds no svdjobs run (it has {foreign_keys[0]}). "
                f"Give another `store`, or empty it."
            )
        return
    for field_name in ("name", "before", "after"):
        expected, found = getattr(config, field_name), stored.get(field_name)
        if expected != found:
            raise OutputError(
                f"{store.url} holds another run: its {field_name} is {found!r}, this config "
                f"says {expected!r}. Give this one another `name` or `store`."
            )


def note_run(store: Store, config: SweepConfig) -> None:
    """Store the run's config beside its outputs."""
    document = config.model_dump(mode="json")
    if try_read_json(store, RUN_CONFIG) != document:
        write_json(store, RUN_CONFIG, document)
