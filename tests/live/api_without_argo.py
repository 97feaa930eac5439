"""A Kubernetes API without Argo: a second API server with its own prefix in the same etcd.

The cluster is not changed, and the prefix is deleted at the end.
"""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from tests.live.cluster_access import silent
from tests.live.processes import Process
from tests.waiting import until


@contextmanager
def bare_api_server(kubeconfig: Path, folder: Path) -> Iterator[Path]:
    """The kubeconfig of an API server that has only Kubernetes' own kinds."""
    original = Process(kubeconfig.parent, "kube-apiserver")
    words, prefix, port = original.words, f"/svdjobs-bare-{uuid.uuid4().hex[:8]}", free_port()
    own = {"--etcd-prefix": prefix, "--secure-port": str(port), "--cert-dir": str(folder / "certs")}
    kept = [word for word in words if word.partition("=")[0] not in own]
    with (folder / "kube-apiserver.log").open("wb") as log:
        server = subprocess.Popen(
            [*kept, *(f"{name}={value}" for name, value in own.items())],
            executable=original.program, env=original.environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        document = yaml.safe_load(kubeconfig.read_text())
        settings = document["clusters"][0]["cluster"]
        settings["server"] = f"https://{urlsplit(settings['server']).hostname}:{port}"
        made = folder / "kubeconfig"
        made.write_text(yaml.safe_dump(document))
        until(lambda: not silent(made), 60, "a second API server answers")
        yield made
    finally:
        server.terminate()
        server.wait(60)
        forget(words, prefix)


def free_port() -> int:
    with socket.create_server(("0.0.0.0", 0)) as one:
        return int(one.getsockname()[1])


def forget(words: list[str], prefix: str) -> None:
    """Delete all keys below a prefix in etcd, through its JSON interface."""
    (servers,) = (word for word in words if word.startswith("--etcd-servers="))
    # The range ends before its end, and "0" is the character after "/".
    first, behind = prefix.encode() + b"/", prefix.encode() + b"0"
    body = {"key": base64.b64encode(first), "range_end": base64.b64encode(behind)}
    request = urllib.request.Request(
        f"{servers.partition('=')[2]}/v3/kv/deleterange",
        json.dumps({name: value.decode() for name, value in body.items()}).encode(),
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert int(json.load(answer)["deleted"]) > 0
