"""Serves the reports of runs on loopback. Of a run that goes on, it makes the report anew, in
memory, when an output is finished."""

from __future__ import annotations

import mimetypes
import threading
import time
from collections.abc import Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from svdjobs import escape
from svdjobs.errors import SvdjobsError
from svdjobs.runs.outputs import readable_manifest
from svdjobs.runs.stored_config import stored_config
from svdjobs.stages import report
from svdjobs.standalone import status
from svdjobs.storage.open import open_store
from svdjobs.storage.overlay import Overlay

LOOPBACK = "127.0.0.1"
LOOK_SECONDS = 5.0
"""Time after which a run is looked at again."""


class Row(NamedTuple):
    """A run on the page that lists them."""

    number: int
    url: str
    words: str


class ViewedRun:
    """A run whose report is kept current, without a write to its store."""

    def __init__(self, url: str) -> None:
        self._store = open_store(url)
        stored_config(self._store)  # refuse what is no run before the server starts
        self._shown = Overlay(self._store)
        self._looked = -LOOK_SECONDS
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        """The run's store."""
        return self._store.url

    def words(self) -> str:
        """How much of the run is finished."""
        try:
            found = status.run(self._store)
        except SvdjobsError as error:
            return escape.line(str(error))
        units = [unit for stage in found.stages for unit in stage.units]
        finished = sum(unit.state == "finished" for unit in units)
        return f"{finished} of {len(units)} outputs finished"

    def file(self, name: str) -> bytes | None:
        """A file of the current report; None if it has none of that name.

        Raises:
            SvdjobsError: no report can be made yet.
        """
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_SECONDS and name == "report.html":
                report.run(stored_config(self._store), self._shown)
                self._looked = time.monotonic()
            manifest = readable_manifest(self._shown, report.PREFIX)
            if manifest is None or not manifest.file(name):
                return None
            return bytes(self._shown.read(f"{report.PREFIX}/{name}"))


class Viewer(ThreadingHTTPServer):
    """A server for the reports of several runs."""

    daemon_threads = True

    def __init__(self, runs: Sequence[ViewedRun], port: int) -> None:
        self.runs = runs
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{LOOPBACK}:{self.server_port}/"


class _Handler(BaseHTTPRequestHandler):
    server: Viewer

    def do_GET(self) -> None:
        """Answer with the list of runs, or with a file of a report."""
        # Another site's page must not read a report by a name that points to this machine.
        if self.headers.get("Host", "").partition(":")[0] not in (LOOPBACK, "localhost"):
            self._send(HTTPStatus.FORBIDDEN, b"Open this by its address.", "text/plain")
            return
        first, _, name = unquote(urlsplit(self.path).path).lstrip("/").partition("/")
        if not first:
            self._send(HTTPStatus.OK, _list(self.server.runs), "text/html; charset=utf-8")
        elif first.isdecimal() and int(first) < len(self.server.runs):
            self._report(self.server.runs[int(first)], name or "report.html")
        else:
            self._send(HTTPStatus.NOT_FOUND, b"There is no such run.", "text/plain")

    def _report(self, run: ViewedRun, name: str) -> None:
        try:
            found = run.file(name)
        except SvdjobsError as error:
            text = f"No report yet: {escape.message(str(error))}\n"
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, text.encode(), "text/plain; charset=utf-8")
            return
        if found is None:
            self._send(HTTPStatus.NOT_FOUND, b"The report has no such file.", "text/plain")
            return
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        self._send(HTTPStatus.OK, found, kind)

    def _send(self, code: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests."""


def _list(runs: Sequence[ViewedRun]) -> bytes:
    from svdjobs.reporting.page import list_of_runs

    rows = [Row(number, run.url, run.words()) for number, run in enumerate(runs)]
    return list_of_runs(rows, LOOK_SECONDS).encode()
