"""The log files of a run: what engines print, and what an evaluation without a sweep says."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from svdjobs.errors import SvdjobsError, from_os_error
from svdjobs.progress import say
from svdjobs.storage.local import LocalStore
from svdjobs.storage.objects import write_bytes
from svdjobs.storage.paths import writable
from svdjobs.storage.store import Store

LOGS = "logs"


class RunLogs:
    """A folder of log files on this disk, and where the run keeps them."""

    def __init__(self, folder: Path, kept_in: str | None = None) -> None:
        self.folder = folder
        self._kept_in = kept_in

    def path(self, name: str) -> Path:
        """The path of a log file. No other process has the same one."""
        return self.folder / f"{name}-{socket.gethostname()}-{os.getpid()}.log"

    def place(self, path: Path) -> str:
        """Where a person finds a log file, now and later."""
        return f"{path}, later {self._kept_in}/{path.name}" if self._kept_in else str(path)


@contextmanager
def run_logs(store: Store) -> Iterator[RunLogs]:
    """The log files of a run, while a process writes them.

    In a local store they are written where they stay. For another store they are written to a
    temporary folder, and uploaded to the run when the block ends. Logs are no output: a log that
    cannot be uploaded is named, and nothing fails.
    """
    if isinstance(store, LocalStore):
        folder = writable(store.root, f"{LOGS}/any").parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise from_os_error(error, doing=f"making {folder}") from None
        yield RunLogs(folder)
        return
    with TemporaryDirectory(prefix="svdjobs-logs-", ignore_cleanup_errors=True) as name:
        try:
            yield RunLogs(Path(name), f"{store.url}/{LOGS}")
        finally:
            for path in sorted(Path(name).glob("*.log")):
                try:
                    write_bytes(store, f"{LOGS}/{path.name}", path.read_bytes())
                except (SvdjobsError, OSError) as error:
                    say(f"the log {path.name} could not be kept in {store.url}: {error}")
