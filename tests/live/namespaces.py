"""Namespaces for sweeps, and the three clients of a namespace: kubectl, argo, svdjobs."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from svdjobs.cluster.api import ARGO, Cluster, connect
from svdjobs.errors import RefusedError
from svdjobs.storage.dev_server import BUCKET, S3Server
from svdjobs.storage.open import open_store
from svdjobs.storage.store import Store
from tests.live.cluster_access import Site
from tests.waiting import until

RBAC = (
    (Path(__file__).parents[1] / "cluster" / "rbac.yaml").read_text().replace("sample", "svdjobs")
)
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
ENDED = ("Succeeded", "Failed", "Error")
# Objects of a run that contain places and times.
BESIDE = ("plan/", "logs/", "shares/", "config.json", "identities.json")
Document = dict[str, Any]
# The API of each kind, by kubectl's name; all other kinds are Argo's.
APIS = {
    **dict.fromkeys(("pods", "secrets"), "/api/v1"),
    "jobs": "/apis/batch/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
}


class Namespace:
    """A namespace of a cluster, and the prefix of that name in an S3 server."""

    def __init__(self, site: Site, api: Cluster) -> None:
        self.site = site
        self.api = api
        self.name = api.namespace

    def url(self, run: str = "run") -> str:
        return f"s3://{BUCKET}/{self.name}/{run}"

    def store(self, run: str = "run") -> Store:
        return open_store(self.url(run))

    def kubectl(self, *words: str, **options: Any) -> str:
        return self.site.run("kubectl", "--namespace", self.name, *words, **options)

    def argo(self, *words: str, **options: Any) -> str:
        return self.site.run("argo", "--namespace", self.name, *words, **options)

    def svdjobs(self, *words: str, **options: Any) -> str:
        return self.tool(*words, "--namespace", self.name, **options)

    def tool(self, *words: str, **options: Any) -> str:
        """Run a command of `svdjobs` that has no --namespace."""
        return self.site.run(sys.executable, "-m", "svdjobs.cli.main", *words, **options)

    def apply(self, *documents: Document) -> None:
        self.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(documents))

    def path(self, kind: str, name: str = "") -> str:
        """The API path of a kind, such as `pods` or `workflows`, or of one object of it."""
        return self.api.path(kind, name, api=APIS.get(kind, ARGO))

    def objects(self, kind: str, selector: str = "") -> list[Document]:
        """All objects of a kind, without kubectl: so many calls of it would load the node."""
        items: list[Document] = self.api.get(self.path(kind), labelSelector=selector)["items"]
        return items

    def object(self, kind: str, name: str) -> Document:
        return self.api.get(self.path(kind, name))

    def wait(self, workflow: str, phase: str = "Succeeded", seconds: float = 600) -> Document:
        """Wait until the Workflow ends, assert its phase, and return it."""
        found = until(lambda: ended(self.object("workflows", workflow)), seconds, workflow)
        self.check(found, phase)
        return found

    def check(self, workflow: Document, phase: str = "Succeeded") -> None:
        """Assert the phase of a Workflow that has ended; else say what its failed pods wrote."""
        if workflow["status"]["phase"] != phase:
            name = workflow["metadata"]["name"]
            said = self.svdjobs("workflow", "logs", name, "--failed")
            pytest.fail(f"{self.argo('get', name)}\n{said}")


def ended(workflow: Document) -> Document | None:
    return workflow if workflow.get("status", {}).get("phase") in ENDED else None


def phases(workflow: Document) -> dict[str, str]:
    """The phase of each node by name; a Retry node and its attempts are `blend` and `blend(0)`."""
    nodes = workflow["status"]["nodes"].values()
    return {
        node["name"].removeprefix(workflow["metadata"]["name"]): node["phase"] for node in nodes
    }


def manifests(store: Store) -> dict[str, str]:
    """The version of every manifest: an output that is made again gets a new one."""
    return {key: store.version(key) for key in store.keys("") if key.endswith("manifest.json")}


@contextmanager
def namespace(
    site: Site, server: S3Server, prefix: str, *, account: bool = True, restricted: bool = True
) -> Iterator[Namespace]:
    """A new namespace with the Secret `svdjobs-store`, deleted at the end.

    With `restricted` it accepts only restricted pods; with `account` it has the pods' service
    account and role, as the chart installs them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(site.kubeconfig))
        api = connect(f"{prefix}-{uuid.uuid4().hex[:6]}")
    made = Namespace(site, api)
    labels = RESTRICTED if restricted else {}
    api.create("/api/v1/namespaces", {"metadata": {"name": made.name, "labels": labels}})
    try:
        secret = {"metadata": {"name": "svdjobs-store"}, "stringData": server.environment}
        api.create(api.path("secrets", api="/api/v1"), secret)
        if account:
            made.kubectl("apply", "-f", "-", text=RBAC)
        yield made
    finally:
        with suppress(RefusedError):  # somebody has already deleted it
            api.delete(f"/api/v1/namespaces/{made.name}")
