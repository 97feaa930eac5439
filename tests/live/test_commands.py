"""`svdjobs workflow` on a real cluster, with Workflows that only echo and sleep."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from svdjobs.cluster.watching import stuck, updates
from svdjobs.cluster.watching.screen import watch
from svdjobs.cluster.watching.status import RUN_LABEL
from svdjobs.cluster.watching.stuck import StuckError
from tests.images.build import make_base
from tests.live.cluster_access import Site
from tests.live.namespaces import Namespace
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

HERE = Path(__file__).parents[1] / "cluster"


@pytest.fixture(scope="module")
def kubeconfig(cluster: Site) -> Path:
    return cluster.kubeconfig


@pytest.fixture(scope="module")
def space(cluster: Site, make_namespace: Callable[..., Namespace]) -> Namespace:
    """A namespace with the account and the image of the sample Workflows."""
    if cluster.local:
        make_base()
    made = make_namespace("svdjobs-test", account=False, restricted=False)
    made.kubectl("apply", "-f", str(HERE / "rbac.yaml"))
    return made


class Cli:
    """Runs `svdjobs` in a namespace."""

    def __init__(self, kubeconfig: Path, namespace: str, folder: Path) -> None:
        self.environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        self.namespace = namespace
        self.config = folder / "sweep.yaml"
        self.config.write_text("name: sample\nbefore: a/b\nafter: a/c\n")

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "svdjobs.cli.main", *words, "--namespace", self.namespace],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment,
        )  # fmt: skip

    def __call__(self, *words: str, code: int = 0) -> str:
        process = self.start(*words)
        out, _ = process.communicate(timeout=200)
        assert process.returncode == code, out
        return out

    def submit(self, name: str, *words: str, code: int = 0) -> str:
        file = str(HERE / "workflows" / "sweep.yaml")
        return self(
            "workflow", "submit", str(self.config), "--store", "s3://bucket/sample", "--file", file,
            "--name", name, *words, code=code,
        )  # fmt: skip


@pytest.fixture
def svdjobs(kubeconfig: Path, space: Namespace, tmp_path: Path) -> Cli:
    return Cli(kubeconfig, space.name, tmp_path)


def test_a_sweep_from_submission_to_its_logs(svdjobs: Cli) -> None:
    shown = svdjobs.submit("bad", "-p", "broken=alpha-0.5000", "--watch", code=2)
    assert "✓ decompose     3/3" in shown
    assert "✗ alpha-0.5000  blend ✗  evaluate –" in shown
    assert "Workflow bad ended as Failed" in shown
    assert "Report: s3://bucket/sample/report/report.html" in shown
    failed = svdjobs("workflow", "logs", "sample", "--failed")
    assert "alpha-0.5000/blend | a tensor is NaN" in failed
    assert "report | missing: alpha-0.5000" in failed
    assert "argo=true" not in failed
    retried = svdjobs("workflow", "logs", "bad", "--step", "after-001")
    assert "decompose/after-001 | the store does not answer" in retried
    assert "decompose/after-001 (attempt 2) | decomposing after-001" in retried
    assert "has already ended as Failed" in svdjobs("workflow", "stop", "bad")
    assert "there is a Workflow 'bad'" in svdjobs.submit("bad", code=2)


class Door:
    """A proxy to the API server. While it is shut, connections are cut and refused."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self.open()

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        assert self._listener
        for one in (self._listener, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._open.clear()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def door(kubeconfig: Path, tmp_path: Path) -> Iterator[tuple[Door, Path]]:
    document = yaml.safe_load(kubeconfig.read_text())
    settings = document["clusters"][0]["cluster"]
    address = urlsplit(settings["server"])
    assert address.hostname
    door = Door(address.hostname, address.port or 443)
    settings["server"] = f"https://127.0.0.1:{door.port}"
    settings["tls-server-name"] = address.hostname
    own = tmp_path / "kubeconfig"
    own.write_text(yaml.safe_dump(document))
    yield door, own
    door.shut()


def test_ten_seconds_without_the_api_server(
    door: tuple[Door, Path], space: Namespace, tmp_path: Path
) -> None:
    way, own = door
    svdjobs = Cli(own, space.name, tmp_path)
    svdjobs.submit("outage", "-p", "seconds=3")
    watching = svdjobs.start("workflow", "watch", "outage")
    logging = svdjobs.start("workflow", "logs", "outage", "--follow")
    time.sleep(12)
    way.shut()
    file = str(HERE / "workflows" / "sweep.yaml")
    submitting = svdjobs.start(
        "workflow", "submit", str(svdjobs.config), "--store", "s3://bucket/x", "--file", file,
        "--name", "meanwhile",
    )  # fmt: skip
    time.sleep(10)
    way.open()
    assert "Workflow meanwhile submitted" in submitting.communicate(timeout=60)[0]
    shown = watching.communicate(timeout=200)[0]
    assert watching.returncode == 0, shown
    assert "does not answer" in shown
    assert "Workflow outage ended as Succeeded" in shown
    written = [line for line in logging.communicate(timeout=60)[0].splitlines() if " | " in line]
    for item in ("alpha-0.0000", "alpha-0.5000", "alpha-1.0000"):
        assert written.count(f"{item}/blend | blending {item}") == 1
        for unit in ("sums-000", "sums-001"):
            own_lines = [line for line in written if line.startswith(f"{item}/evaluate/{unit} |")]
            assert own_lines == [f"{item}/evaluate/{unit} | {unit} {i}" for i in (1, 2, 3)]


def test_stop_outlasts_ten_seconds_without_the_api_server(
    door: tuple[Door, Path], space: Namespace, tmp_path: Path
) -> None:
    """The exit handler runs, too."""
    way, own = door
    svdjobs = Cli(own, space.name, tmp_path)
    svdjobs.submit("stopped", "-p", "seconds=60")
    until(lambda: "decompos" in svdjobs("workflow", "logs", "stopped"), 60, "a pod writes")
    way.shut()
    stopping = svdjobs.start("workflow", "stop", "stopped")
    time.sleep(10)
    way.open()
    said = stopping.communicate(timeout=60)[0]
    assert "does not answer" in said
    assert "is being stopped" in said
    shown = svdjobs("workflow", "watch", "stopped", code=4)
    assert "✓ exit handler" in shown


def test_a_cancelled_ci_job_stops_its_workflow(svdjobs: Cli, space: Namespace) -> None:
    file = str(HERE / "workflows" / "sweep.yaml")
    job = svdjobs.start(
        "ci", "run", str(svdjobs.config), "--store", "s3://bucket/x", "--file", file,
        "-p", "seconds=60", "--set", "name=cancelled",
    )  # fmt: skip
    ours = f"{RUN_LABEL}=cancelled"
    (workflow,) = until(lambda: space.objects("workflows", ours), 60, "it is there")
    name = workflow["metadata"]["name"]
    pods = f"workflows.argoproj.io/workflow={name}"
    until(lambda: space.objects("pods", pods), 60, "it has pods")
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=60)[0]
    assert job.returncode == 143, said
    assert "is being stopped" in said
    space.wait(name, "Failed", 90)


# Argo's container `wait` is killed at once: it needs more memory than this.
SMALL_WAIT = """
apiVersion: argoproj.io/v1alpha1
kind: Workflow
metadata: {name: small-wait}
spec:
  entrypoint: sweep
  serviceAccountName: sample
  podSpecPatch: |
    containers:
    - {name: wait, resources: {limits: {memory: 14Mi}, requests: {memory: 14Mi}}}
  templates:
    - name: sweep
      dag: {tasks: [{name: stage, template: stage}]}
    - name: stage
      container:
        image: localhost/python:3.11
        imagePullPolicy: Never
        command: [sleep, "90"]
"""


def test_a_pod_that_lost_argo_s_container_is_not_waited_for(
    space: Namespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Argo calls the Workflow Running as long as the stage's container runs."""
    monkeypatch.setattr(stuck, "PATIENCE_SECONDS", 4.0)
    monkeypatch.setattr(stuck, "LOOK_SECONDS", 1.0)
    monkeypatch.setattr(updates, "WATCH_SECONDS", 3)
    space.apply(yaml.safe_load(SMALL_WAIT))
    with pytest.raises(
        StuckError, match=r"container wait more than .* OOMKilled \(exit code 137\)"
    ):
        watch(space.api, "small-wait")
    assert space.object("workflows", "small-wait")["status"]["phase"] == "Running"
    space.api.delete(space.path("workflows", "small-wait"))


def test_doctor(svdjobs: Cli) -> None:
    found = svdjobs("doctor", "--service-account", "sample")
    assert "service account sample may create and patch workflowtaskresults" in found
    assert "0 fail" not in found
    refused = svdjobs("doctor", "--service-account", "default", code=4)
    assert "may not create workflowtaskresults or patch workflowtaskresults" in refused
    assert "create role svdjobs-pods --verb=create,patch" in refused
