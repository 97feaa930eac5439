"""Reports on loopback: current while a run goes on, and never written to its store."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from svdjobs.config_file import parse_config
from svdjobs.errors import ConfigError
from svdjobs.runs.stored_config import stored_config
from svdjobs.stages import blend, decompose, plan
from svdjobs.standalone import view
from svdjobs.storage.local import LocalStore


@pytest.fixture
def server(
    tmp_path: Path, chain: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[view.Viewer]:
    """A server for a run that has its plan and nothing else."""
    monkeypatch.setattr(view, "LOOK_SECONDS", 0.0)
    document = {
        "name": "mini", "before": str(chain["base"]), "after": str(chain["rl2"]),
        "store": str(tmp_path / "run"), "alphas": [0],
    }  # fmt: skip
    plan.run(parse_config(document, where="test"), LocalStore(tmp_path / "run"))
    with view.Viewer([view.ViewedRun(str(tmp_path / "run"))], 0) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def get(server: view.Viewer, path: str, host: str = "127.0.0.1") -> tuple[int, str, str]:
    """Status, type and body."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("GET", path, headers={"Host": f"{host}:{server.server_port}"})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, answer.headers["Content-Type"], body.decode(errors="replace")


def test_a_reload_shows_what_was_finished_since(server: view.Viewer, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "run")
    status, kind, first = get(server, "/0/report.html")
    assert (status, kind) == (200, "text/html")
    assert "checkpoints/alpha-0.0000" in first
    assert "What rounding leaves of the blend" not in first
    assert "1 of 5 outputs finished" in get(server, "/")[2]
    config = stored_config(store)
    decompose.run(config, store)
    blend.run(config, store)
    assert "4 of 5 outputs finished" in get(server, "/")[2]
    assert "What rounding leaves of the blend" in get(server, "/0/report.html")[2]
    assert get(server, "/0/tables/realised.csv")[:2] == (200, "text/csv")
    assert store.keys("report") == [], "the run's store is not written to"


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/", "127.0.0.1", 200),
        ("/", "localhost", 200),
        ("/", "evil.example", 403),
        ("/0/report.html", "evil.example", 403),
        ("/1/report.html", "127.0.0.1", 404),
        ("/x", "127.0.0.1", 404),
        ("/0/none.csv", "127.0.0.1", 404),
        ("/0/../config.json", "127.0.0.1", 404),
        ("/0/%2e%2e/config.json", "127.0.0.1", 404),
        ("/0//etc/passwd", "127.0.0.1", 404),
    ],
)
def test_only_reports_are_served_and_only_to_this_machine(
    server: view.Viewer, path: str, host: str, status: int
) -> None:
    get(server, "/0/report.html")
    assert get(server, path, host)[0] == status


def test_a_report_that_cannot_be_made_says_why(server: view.Viewer, tmp_path: Path) -> None:
    for path in (tmp_path / "run" / "plan").iterdir():
        path.unlink()
    status, kind, words = get(server, "/0/report.html")
    assert (status, kind) == (503, "text/plain; charset=utf-8")
    assert words.startswith("No report yet: ")
    assert "Traceback" not in words


def test_what_is_no_run_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        view.ViewedRun(str(tmp_path))
