"""Faults of a cluster, for tests that cause them while a sweep runs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from svdjobs.cluster.manifests import argo
from svdjobs.cluster.manifests.settings import ClusterSettings, load_settings
from svdjobs.errors import RefusedError
from svdjobs.storage.dev_server import BUCKET, S3Server, serving
from svdjobs.storage.s3.store import S3Store
from svdjobs.storage.store import Store
from tests.live.namespaces import Document, Namespace, ended
from tests.live.node_image import parts
from tests.live.processes import Process
from tests.storage.s3_server import client_of, open_uploads

ROOT = Path(__file__).parents[2]
STAGE = "svdjobs.io/stage"
SWEEP = """
name: faults
before: demo:base
after: demo:rl2
alphas: [0, 0.5]
decompose: {parts: 1, shards: 1}
evaluate:
  benchmarks: [{name: demo, limit: 8}]
  engine: transformers
  n_samples: 1
  max_tokens: 32
  batch_size: 4
"""


def sweep(space: Namespace, name: str, config: str, *, image: str, **settings: Any) -> Document:
    """The Workflow that `svdjobs workflow render` writes with demo-settings.yaml, changed by
    `settings`."""
    small = load_settings(ROOT / "workflows" / "demo-settings.yaml").model_dump()
    both = ClusterSettings.model_validate(
        {**small, "images": parts(image), "store": space.url(), **settings}
    )
    document: Document = argo.sweep(both, config)
    document["metadata"] = {"name": name, "labels": document["metadata"]["labels"]}
    return document


class Server:
    """An S3 server that a test can stop and start again."""

    def __init__(self, folder: Path, address: str) -> None:
        self._folder = folder
        self._address = address
        self._stack = ExitStack()
        self._given: dict[str, Any] = {}
        self.server = self.start()

    def start(self) -> S3Server:
        """Start the server with the data, the address and the keys that it had before."""
        found = self._stack.enter_context(
            serving(self._folder, address=self._address, **self._given)
        )
        self._given = {
            "port": urlsplit(found.endpoint).port,
            "access_key": found.access_key,
            "secret_key": found.secret_key,
        }
        return found

    def stop(self) -> None:
        self._stack.close()


def running(space: Namespace, stage: str = "") -> list[Document]:
    """The pods, of one stage if given, whose main container runs and that are not being deleted."""
    return [
        pod
        for pod in space.objects("pods", f"{STAGE}={stage}" if stage else STAGE)
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            status["name"] == "main" and "running" in status["state"]
            for status in pod["status"].get("containerStatuses", [])
        )
    ]


class Deletions:
    """Deletes running pods of each stage, each in one of the ways `wanted` lists for the stage."""

    def __init__(self, space: Namespace, wanted: Mapping[str, list[str]]) -> None:
        self._space = space
        self.left = {stage: list(ways) for stage, ways in wanted.items() if ways}
        self._done: dict[str, str] = {}
        self.again: set[str] = set()
        """Names of pods that Argo made again under the same name. It does so if a pod is gone
        within its first seconds, and does not count that as an attempt."""

    def __call__(self) -> None:
        for pod in running(self._space):
            stage, name = pod["metadata"]["labels"][STAGE], pod["metadata"]["name"]
            if self._done.get(name, pod["metadata"]["uid"]) != pod["metadata"]["uid"]:
                self.again.add(name)
            if stage in self.left and name not in self._done:
                self._done[name] = pod["metadata"]["uid"]
                way = self.left[stage].pop(0)
                if not self.left[stage]:
                    del self.left[stage]
                now = "?gracePeriodSeconds=0" * (way == "forced")
                with suppress(RefusedError):  # the pod has just ended by itself
                    self._space.api.delete(self._space.path("pods", name) + now)


def follow(
    space: Namespace, name: str, fault: Any, server: S3Server, seconds: float = 900
) -> tuple[Document, dict[str, set[str]]]:
    """Call `fault` again and again until the Workflow has ended.

    Return the Workflow, and the times at which each manifest was written. If a manifest has more
    than one, finished work was done again.
    """
    written: dict[str, set[str]] = {}
    deadline = time.monotonic() + seconds
    while not (found := ended(space.object("workflows", name))):
        assert time.monotonic() < deadline, space.argo("get", name)
        fault()
        note(space, server, written)
        time.sleep(0.2)
    note(space, server, written)
    return found, written


def note(space: Namespace, server: S3Server, written: dict[str, set[str]]) -> None:
    """Add the time at which each manifest was last written."""
    for key, when in times(space, server).items():
        written.setdefault(key, set()).add(when)


def times(space: Namespace, server: S3Server) -> dict[str, str]:
    """The time of each manifest of a run, by key; empty while the server is stopped."""
    from botocore.exceptions import BotoCoreError

    store = space.store()
    assert isinstance(store, S3Store)
    pages = client_of(server).get_paginator("list_objects_v2")
    try:
        return {
            item["Key"].removeprefix(f"{store.prefix}/"): item["LastModified"].isoformat()
            for page in pages.paginate(Bucket=BUCKET, Prefix=store.prefix)
            for item in page.get("Contents", [])
            if item["Key"].endswith("manifest.json")
        }
    except BotoCoreError:
        return {}


def attempts(workflow_: Document) -> dict[str, list[tuple[str, str, str]]]:
    """How the attempts of each task with pods ended: phase, exit code, message."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    nodes = workflow_["status"]["nodes"].values()
    for node in sorted(nodes, key=lambda node: node["startedAt"]):
        if node["type"] == "Pod":
            task = node["name"].removeprefix(workflow_["metadata"]["name"] + ".")
            code = (node.get("outputs") or {}).get("exitCode", "")
            words = node.get("message", "")
            found.setdefault(task.rpartition("(")[0], []).append((node["phase"], code, words))
    return found


def controller(kubeconfig: Path) -> Process:
    """The workflow controller of the cluster that SVDJOBS_CLUSTER runs."""
    return Process(kubeconfig.parent, "workflow-controller")


def drain(space: Namespace, workflow_name: str, node: str) -> str:
    """Cordon the node and evict the Workflow's pods through the eviction API; then uncordon it."""
    only = f"workflows.argoproj.io/workflow={workflow_name}"
    try:
        return space.kubectl(
            "drain", node, f"--pod-selector={only}", "--force", "--delete-emptydir-data",
            "--ignore-daemonsets", "--timeout=90s",
        )  # fmt: skip
    finally:
        space.kubectl("uncordon", node)


def exited(code: int) -> tuple[str, str, str]:
    """The entry of `attempts` for a container that failed with that exit code."""
    return "Failed", str(code), f"main: Error (exit code {code})"


def once(written: dict[str, set[str]]) -> None:
    """Assert that no finished work was done again."""
    assert not {key: when for key, when in written.items() if len(when) > 1}


def all_closed(server: S3Server, store: Store) -> None:
    """Assert that no upload is left open, in the server or in a journal of the run."""
    assert isinstance(store, S3Store)
    assert not open_uploads(server, store)
    assert not [key for key in store.keys("") if key.endswith("in-progress.json")]
