"""A proxy in front of an S3 server that does harm, on purpose and a bounded number of times.

It passes requests on unchanged and counts them. Their signature covers the proxy's host name, so
the server gets that name, too.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal
from urllib.parse import urlsplit

Kind = Literal[
    "500", "503", "501", "403", "400", "307", "expired", "skewed", "no key", "no bucket", "page",
    "slow", "cut up", "cut down", "lost answer",
]  # fmt: skip
FOREVER = 10**9
SLOW_SECONDS = 0.3
_ANSWERS = {
    "500": (500, "InternalError"), "503": (503, "SlowDown"), "501": (501, "NotImplemented"),
    "403": (403, "AccessDenied"), "400": (400, "BadRequest"), "307": (307, "TemporaryRedirect"),
    "expired": (400, "ExpiredToken"), "skewed": (403, "RequestTimeTooSkewed"),
    "no key": (404, "NoSuchKey"), "no bucket": (404, "NoSuchBucket"), "page": (200, ""),
}  # fmt: skip


@dataclass
class Fault:
    """Harm to the next `times` requests of a method whose line or headers hold `needle`.

    `500` to `page` are answers; `page` is a login page with status 200. `slow` passes the request
    on late. `cut up` hangs up in the middle of the request, `cut down` in the middle of the answer.
    `lost answer` passes the request on, the server does it, and nobody answers.
    """

    kind: Kind
    method: str = ""
    needle: str = ""
    times: int = 1


@dataclass
class Traffic:
    """The requests that passed."""

    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    bytes_down: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def fault(self, method: str, text: str) -> str:
        """Return the harm to do to a request, if any."""
        with self.lock:
            for fault in self.faults:
                if fault.times and fault.method in ("", method) and fault.needle in text:
                    fault.times -= 1
                    return fault.kind
        return ""


class Proxy(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.traffic = Traffic()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that were cut off or gave up: they are the purpose."""


class _Handler(BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def _pass_on(self) -> None:
        traffic = self.server.traffic
        length = int(self.headers.get("Content-Length") or 0)
        with traffic.lock:
            traffic.requests.append(f"{self.command} {self.path}")
        kind = traffic.fault(self.command, f"{self.path}\n{self.headers}")
        if kind == "cut up":
            self.rfile.read(length // 2)
            self._hang_up()
            return
        body = self.rfile.read(length)
        if kind in _ANSWERS:
            self._refuse(*_ANSWERS[kind])
            return
        if kind == "slow":
            time.sleep(SLOW_SECONDS)
        upstream = http.client.HTTPConnection(self.server.upstream, timeout=30)
        headers = {
            k: v for k, v in self.headers.items() if k.lower() not in ("expect", "connection")
        }
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        data = answer.read()
        upstream.close()
        if kind == "lost answer":
            self._hang_up()
            return
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        size = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", size or "0")
        self.end_headers()
        if kind == "cut down":
            data = data[: len(data) // 2]
        with traffic.lock:
            traffic.bytes_down += len(data)
        self.wfile.write(data)
        if kind == "cut down":
            self._hang_up()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def _refuse(self, status: int, code: str) -> None:
        text = f"<Error><Code>{code}</Code><Message>on purpose</Message></Error>".encode()
        if status == 200:
            text = b"<html><body>Log in.</body></html>"
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(2)


@contextmanager
def harming(upstream: str) -> Iterator[Proxy]:
    """Run the proxy while the block runs."""
    with Proxy(upstream) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
