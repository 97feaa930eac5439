"""Namespaces to run sweeps in, and the three clients in them: kubectl, argo, svdjobs."""

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
# Of a run, what tells where and when.
BESIDE = ("plan/", "shares/", "config.json", "identities.json")
Document = dict[str, Any]
# Where the API keeps what tests look at, by kubectl's names; others are Argo's.
APIS = {
    **dict.fromkeys(("pods", "secrets"), "/api/v1"),
    "jobs": "/apis/batch/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
}


class Namespace:
    """One namespace of a cluster, and a prefix of its name in an S3 server."""

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
        """`svdjobs` with a command that knows no namespace."""
        return self.site.run(sys.executable, "-m", "svdjobs.cli.main", *words, **options)

    def apply(self, *documents: Document) -> None:
        self.kubectl("apply", "-f", "-", text=yaml.safe_dump_all(documents))

    def path(self, kind: str, name: str = "") -> str:
        """Where a kind, such as `pods` or `workflows`, or an object of it is kept."""
        return self.api.path(kind, name, api=APIS.get(kind, ARGO))

    def objects(self, kind: str, selector: str = "") -> list[Document]:
        """All objects of a kind. Tests ask often, and a kubectl each time would load the node."""
        items: list[Document] = self.api.get(self.path(kind), labelSelector=selector)["items"]
        return items

    def object(self, kind: str, name: str) -> Document:
        return self.api.get(self.path(kind, name))

    def wait(self, workflow: str, phase: str = "Succeeded", seconds: float = 600) -> Document:
        """The Workflow once it has ended, which must be in that phase."""
        found = until(lambda: ended(self.object("workflows", workflow)), seconds, workflow)
        tree = self.argo("get", workflow) if found["status"]["phase"] != phase else ""
        assert not tree, tree
        return found


def ended(workflow: Document) -> Document | None:
    return workflow if workflow.get("status", {}).get("phase") in ENDED else None


def phases(workflow: Document) -> dict[str, str]:
    """Phase of each node by display name, retried ones under their own: `blend`, `blend(0)`."""
    nodes = workflow["status"]["nodes"].values()
    return {
        node["name"].removeprefix(workflow["metadata"]["name"]): node["phase"] for node in nodes
    }


def manifests(store: Store) -> dict[str, str]:
    """Version of every manifest: what is done again gets another."""
    return {key: store.version(key) for key in store.keys("") if key.endswith("manifest.json")}


@contextmanager
def namespace(
    site: Site, server: S3Server, prefix: str, *, account: bool = True, restricted: bool = True
) -> Iterator[Namespace]:
    """A fresh namespace that lets only (if `restricted`) restricted pods in, with the Secret
    `svdjobs-store` and, if `account`, what the chart would install of the pods' account; deleted
    at the end."""
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
        with suppress(RefusedError):  # someone deleted it, which is as well
            api.delete(f"/api/v1/namespaces/{made.name}")
