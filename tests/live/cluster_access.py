"""Find a cluster to test on: KUBECONFIG's, or the script SVDJOBS_CLUSTER's, started if need be."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
import yaml
from filelock import FileLock

from svdjobs.cluster.api import connect
from svdjobs.errors import SvdjobsError
from tests.cluster_script import MISSING, SCRIPT, exported

BUILD_SECONDS = 2400  # twelve minutes on two quiet cores


class Site(NamedTuple):
    """A cluster that answers, and the environment in which a command reaches it."""

    kubeconfig: Path
    environment: dict[str, str]
    address: str
    """The address at which pods reach this machine."""
    local: bool
    """Whether the script runs the cluster; then its node can load image archives from here."""
    started: bool
    """Whether these tests started the cluster."""

    def run(self, *command: str, code: int | None = 0, timeout: float = 120, text: str = "") -> str:
        """Run a command, assert its exit code `code`, and return its output with its errors."""
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, input=text,
            timeout=timeout, env=self.environment,
        )  # fmt: skip
        assert code in (None, done.returncode), f"{shlex.join(command)}:\n{done.stdout[-6000:]}"
        return done.stdout


def find() -> Site:
    """KUBECONFIG's cluster, otherwise the script's; skip the test only if there is neither."""
    shared = exported()
    given = os.environ.get("KUBECONFIG")
    if not given and not shared:
        pytest.skip(f"NO CLUSTER: KUBECONFIG is not set, and {MISSING}")
    kubeconfig = Path(given or shared["KUBECONFIG"])
    local = str(kubeconfig) == shared.get("KUBECONFIG")
    started = False
    with FileLock(Path(tempfile.gettempdir()) / "svdjobs-cluster.lock"):
        if refused := silent(kubeconfig):
            assert local, f"the cluster of KUBECONFIG={kubeconfig} cannot be used: {refused}"
            print(f"\n{SCRIPT} up, since {refused}")
            subprocess.run([SCRIPT, "up"], check=True, timeout=BUILD_SECONDS)
            started = True
    environment = {**os.environ, **(shared if local else {}), "KUBECONFIG": str(kubeconfig)}
    return Site(kubeconfig, environment, own_address(kubeconfig), local, started)


def silent(kubeconfig: Path) -> str:
    """Why a cluster cannot be used; empty if it answers."""
    if not kubeconfig.is_file():
        return f"there is no {kubeconfig}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(kubeconfig))
        try:
            connect(patience_seconds=2).get("/version")
        except SvdjobsError as error:
            return str(error)
    return ""


def own_address(kubeconfig: Path) -> str:
    """This machine's address on the way to the API server, or SVDJOBS_TEST_ADDRESS."""
    if given := os.environ.get("SVDJOBS_TEST_ADDRESS"):
        return given
    document = yaml.safe_load(kubeconfig.read_text())
    server = urlsplit(document["clusters"][0]["cluster"]["server"])
    assert server.hostname
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect((server.hostname, server.port or 443))
        return str(one.getsockname()[0])
