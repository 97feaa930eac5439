"""A fake Kubernetes API server, for what a real one does not do on request: stop, refuse, forget a
version, cut a watch."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from svdjobs.cluster.api import Cluster

Body = dict[str, Any]
# The HTTP status and the body: a document, lines of a stream, or None to cut the connection.
Answer = tuple[int, Body | str | list[str] | None]
Respond = Callable[[str, str, dict[str, str], Body], Answer]


class ApiServer:
    """Answers with `respond(method, path, query, body)`; a test may stop and start it."""

    def __init__(self, respond: Respond) -> None:
        self.respond = respond
        self.asked: list[tuple[str, str]] = []
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self.start()

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                parts = urlsplit(self.path)
                query = {key: values[0] for key, values in parse_qs(parts.query).items()}
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.asked.append((self.command, parts.path))
                body = json.loads(sent) if sent else {}
                status, answer = outer.respond(self.command, parts.path, query, body)
                self._send(status, answer)

            do_GET = do_POST = do_PATCH = do_DELETE = handle_any

            def _send(self, status: int, answer: Any) -> None:
                self.close_connection = True
                if answer is None:
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Connection", "close")
                if isinstance(answer, list):
                    self.send_header("Transfer-Encoding", "chunked")
                    self.end_headers()
                    for line in answer:
                        data = line.encode()
                        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
                    return  # without the last chunk: cut in the middle
                data = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def cluster(self, **options: Any) -> Cluster:
        from kubernetes import client

        settings = client.Configuration()
        settings.host = f"http://127.0.0.1:{self._port}"
        settings.retries = False
        return Cluster(client.ApiClient(settings), "here", **options)


@contextmanager
def answering(respond: Respond) -> Iterator[ApiServer]:
    server = ApiServer(respond)
    try:
        yield server
    finally:
        server.stop()


def status(code: int, reason: str, message: str) -> Answer:
    """A refusal in Kubernetes' own form."""
    return code, {"kind": "Status", "code": code, "reason": reason, "message": message}


def workflow(phase: str, version: int = 1, *, uid: str = "u", name: str = "w") -> Body:
    return {
        "metadata": {
            "name": name, "namespace": "here", "uid": uid, "resourceVersion": str(version),
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": {},
        "status": {"phase": phase},
    }  # fmt: skip


def event(kind: str, thing: Body) -> str:
    return json.dumps({"type": kind, "object": thing}) + "\n"
