"""A hub on the loopback address that serves checkpoints from folders like the real hub."""

from __future__ import annotations

import hashlib
import json
import math
import os
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NO_REPOSITORY = {"X-Error-Code": "RepoNotFound"}
REFUSED = "Invalid credentials in Authorization header"


class Hub(ThreadingHTTPServer):
    """A hub with folders as checkpoints, by id, and as data sets, by `datasets/ID`. It counts the
    bytes of weights that it served, and the files of data sets."""

    def __init__(self, models: dict[str, Path], address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), _Handler)
        self.models = models
        self.weight_bytes = 0
        self.data_files = 0
        self.token = ""
        """The only token that it accepts; empty: it does not look at tokens."""
        self.revoke_after: float = math.inf
        """Bytes of weights after which it accepts no token."""

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        scheme = "https" if isinstance(self.socket, ssl.SSLSocket) else "http"
        return f"{scheme}://{host!s}:{port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        parts = self.path.partition("?")[0].strip("/").split("/")
        api = parts[0] == "api"
        if api:
            parts = parts[1:] if parts[1:2] == ["datasets"] else parts[2:]
        if parts[:1] == ["datasets"]:
            parts = ["/".join(parts[:2]), *parts[2:]]
        folder = self.server.models.get("/".join(parts[:2]))
        if self.server.weight_bytes > self.server.revoke_after:
            self.server.token, self.server.revoke_after = "none", math.inf
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.server.token not in ("", token):
            self._send(401, b"", {"X-Error-Message": REFUSED}, body)
        elif folder is None:
            # 401 to who has no token: that may be the reason why nothing is to be seen.
            self._send(401 if api and not token else 404, b"", NO_REPOSITORY, body)
        elif len(parts) > 3 and parts[3] not in ("main", COMMIT):
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
        elif api and parts[2:3] == ["tree"]:
            tree = [
                {"type": "file", "path": path.name, "size": path.stat().st_size, "oid": COMMIT}
                for path in sorted(folder.iterdir())
            ]
            self._send(200, json.dumps(tree).encode(), {"Content-Type": "application/json"}, body)
        elif api:
            files = [_about(path) for path in sorted(folder.iterdir())]
            about = {"id": "/".join(parts[:2]), "sha": COMMIT, "siblings": files, "tags": []}
            self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"}, body)
        else:
            self._file(folder / parts[-1], body)

    def _file(self, path: Path, body: bool) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, body)
            return
        data = path.read_bytes()
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        asked = self.headers.get("Range")
        status = 200
        if asked:
            first, _, last = asked.partition("=")[2].partition("-")
            end = min(int(last or len(data)) + 1, len(data))
            headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(data)}"
            data, status = data[int(first) : end], 206
        if body and path.suffix == ".safetensors":
            self.server.weight_bytes += len(data)
        self.server.data_files += body and path.suffix == ".jsonl"
        self._send(status, data, headers, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)


def _about(path: Path) -> dict[str, object]:
    """What the hub says of a file: large ones, with their sha256, are in LFS."""
    data = path.read_bytes()
    found = {"rfilename": path.name, "size": len(data)}
    if path.suffix == ".safetensors":
        sha256 = hashlib.sha256(data).hexdigest()
        return {**found, "lfs": {"sha256": sha256, "size": len(data), "pointerSize": 134}}
    return {**found, "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """The variables of a process that uses the hub, with its cache in a folder."""
    return {
        **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip


def use(hub: Hub, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Let this process use the hub, with its cache in a folder."""
    constants = "huggingface_hub.constants"
    addresses = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(f"{constants}.ENDPOINT", hub.url)
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", addresses)
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))


@contextmanager
def serving(
    models: dict[str, Path], address: str = "127.0.0.1", certificate: Path | None = None
) -> Iterator[Hub]:
    """Run the hub while the block runs; with TLS if it is given a key and its certificate."""
    with Hub(models, address) as hub:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            hub.socket = context.wrap_socket(hub.socket, server_side=True)
        thread = threading.Thread(target=hub.serve_forever, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
