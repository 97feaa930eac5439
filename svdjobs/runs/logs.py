"""The log files of a run: output of the engines, and messages of a standalone evaluation."""

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
    """A folder of log files on this disk, and the URL that they are uploaded to, if any."""

    def __init__(self, folder: Path, uploaded_to: str | None = None) -> None:
        self.folder = folder
        self._uploaded_to = uploaded_to

    def path(self, name: str) -> Path:
        """The path of a log file of this process; no other process has the same path."""
        return self.folder / f"{name}-{socket.gethostname()}-{os.getpid()}.log"

    def place(self, path: Path) -> str:
        """Where a person finds a log file: its path, and its URL after the upload."""
        return f"{path}, later {self._uploaded_to}/{path.name}" if self._uploaded_to else str(path)


@contextmanager
def run_logs(store: Store) -> Iterator[RunLogs]:
    """Give a folder for log files of the run while the block runs.

    For a local store the folder is in the run. For another store it is temporary, and its files are
    uploaded to the run when the block ends. If an upload fails, a message names the log and the run
    goes on: logs are no output.
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
                    say(f"the log {path.name} could not be uploaded to {store.url}: {error}")
