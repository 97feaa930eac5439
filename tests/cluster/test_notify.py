from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from svdjobs.cluster import notify
from svdjobs.errors import ConfigError, UnavailableError


class Webhook(HTTPServer):
    """Records the messages, and answers with a chosen status."""

    status = 200

    def __init__(self) -> None:
        self.received: list[Any] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/secret-path"


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Webhook)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(json.loads(body))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    with Webhook() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(notify.URL_VARIABLE, server.url)
        yield server
        server.shutdown()


def test_a_webhook_gets_one_message(webhook: Webhook) -> None:
    notify.run("sweep-1", "Failed", "s3://b/run")
    report = "s3://b/run/report/report.html"
    assert webhook.received == [
        {
            "text": f"sweep-1: Failed. Report: {report}",
            "workflow": "sweep-1",
            "status": "Failed",
            "report": report,
        }
    ]


def test_without_a_webhook_it_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(notify.URL_VARIABLE, raising=False)
    notify.run("sweep-1", "Succeeded", "s3://b/run")
    assert "sweep-1: Succeeded. Report: s3://b/run/report/report.html" in capsys.readouterr().err


@pytest.mark.parametrize(("status", "kind"), [(404, ConfigError), (503, UnavailableError)])
def test_refusals_do_not_show_the_address(
    webhook: Webhook, status: int, kind: type[Exception]
) -> None:
    webhook.status = status
    with pytest.raises(kind, match=str(status)) as caught:
        notify.run("sweep-1", "Failed", "s3://b/run")
    assert "secret-path" not in str(caught.value)


def test_a_webhook_that_is_away_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with HTTPServer(("127.0.0.1", 0), _Handler) as server:
        port = server.server_port
    monkeypatch.setenv(notify.URL_VARIABLE, f"http://127.0.0.1:{port}/")
    with pytest.raises(UnavailableError, match="cannot be reached"):
        notify.run("sweep-1", "Failed", "s3://b/run")
    monkeypatch.setenv(notify.URL_VARIABLE, "file:///etc/passwd")
    with pytest.raises(ConfigError, match="must be an address"):
        notify.run("sweep-1", "Failed", "s3://b/run")
