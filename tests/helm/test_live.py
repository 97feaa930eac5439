"""The chart on a real cluster, as helm installs it: see tests/cluster/test_live.py for which.

SVDJOBS_STORE_IMAGE names an image on the node with svdjobs[store-server,cluster]; without it the
development store and `helm test` are not started.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest

from svdjobs.cluster.api import Cluster, connect
from svdjobs.cluster.doctor_cluster import may
from svdjobs.errors import RefusedError, SvdjobsError
from tests.cluster.test_live import LOCAL
from tests.helm.chart import CHART, RELEASE, examples

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# Where there is no DNS, a Service's address must be known beforehand.
ADDRESS = "10.96.201.17"
KINDS = {
    "configmaps": "/api/v1", "secrets": "/api/v1", "serviceaccounts": "/api/v1",
    "services": "/api/v1", "pods": "/api/v1", "persistentvolumeclaims": "/api/v1",
    "deployments": "/apis/apps/v1", "roles": "/apis/rbac.authorization.k8s.io/v1",
    "rolebindings": "/apis/rbac.authorization.k8s.io/v1",
    "networkpolicies": "/apis/networking.k8s.io/v1",
    "workflowtemplates": "/apis/argoproj.io/v1alpha1",
    "cronworkflows": "/apis/argoproj.io/v1alpha1",
}  # fmt: skip


@pytest.fixture(scope="module")
def kubeconfig() -> str:
    given = Path(os.environ.get("KUBECONFIG") or LOCAL)
    if not given.is_file():
        pytest.skip(f"NO CLUSTER: KUBECONFIG is not set and there is no {given}")
    return str(given)


@pytest.fixture
def cluster(kubeconfig: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A fresh namespace that lets only restricted pods in."""
    monkeypatch.setenv("KUBECONFIG", kubeconfig)
    made = connect(f"svdjobs-helm-{uuid.uuid4().hex[:6]}")
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    meta = {"name": made.namespace, "labels": labels}
    try:
        made.create("/api/v1/namespaces", {"metadata": meta})
    except SvdjobsError as error:
        pytest.skip(f"NO CLUSTER: {error}")
    yield made
    made.delete(f"/api/v1/namespaces/{made.namespace}")


@pytest.fixture
def helm(kubeconfig: str, cluster: Cluster) -> Iterator[helm_python.Config]:
    with helm_python.Config(kubeconfig_path=kubeconfig, namespace=cluster.namespace) as config:
        yield config


def there(cluster: Cluster) -> set[str]:
    """Everything in the namespace that is not of every namespace, nor Helm's own."""
    return {
        f"{kind}/{item['metadata']['name']}"
        for kind, api in KINDS.items()
        for item in cluster.get(cluster.path(kind, api=api))["items"]
        if item["metadata"]["name"] not in ("default", "kube-root-ca.crt")
        and not item["metadata"]["name"].startswith("sh.helm.release.")
        and "deletionTimestamp" not in item["metadata"]
    }


@pytest.mark.parametrize("name", examples())
def test_the_api_server_accepts_every_example(
    name: str, helm: helm_python.Config, cluster: Cluster
) -> None:
    values = examples()[name]
    if name == "gpu-kueue-spot":  # Kueue is not part of the cluster
        values["kueue"]["localQueue"] = {"create": False}
    helm.install(CHART, RELEASE, values, dry_run="server", namespace=cluster.namespace)


def test_install_upgrade_uninstall(helm: helm_python.Config, cluster: Cluster) -> None:
    values: dict[str, Any] = {
        "limits": {"evaluations": 2},
        "rbac": {"submitter": {"create": True, "subjects": [
            {"kind": "ServiceAccount", "name": "ci", "namespace": cluster.namespace}]}},
        "devStore": {"enabled": True, "image": "not.there/store:1"},
    }  # fmt: skip
    secret = cluster.path("secrets", "svdjobs-dev-store", api="/api/v1")
    limits = cluster.path("configmaps", "svdjobs-limits", api="/api/v1")
    helm.install(CHART, RELEASE, values, namespace=cluster.namespace)
    first = cluster.get(secret)["data"]
    assert cluster.get(limits)["data"] == {"evaluate": "2"}
    assert granted(cluster, "svdjobs") == {
        "create workflowtaskresults",
        "patch workflowtaskresults",
    }
    assert "create workflows" in granted(cluster, "ci")
    assert not {"get secrets", "create pods", "delete workflows"} & granted(cluster, "ci")

    values = {**values, "limits": {"evaluations": 3}, "cron": {"enabled": True, "suspend": True}}
    helm.upgrade(CHART, RELEASE, values, namespace=cluster.namespace)
    assert cluster.get(secret)["data"] == first  # whoever uses the store still can
    assert cluster.get(limits)["data"] == {"evaluate": "3"}
    assert "cronworkflows/svdjobs-nightly" in there(cluster)

    helm.uninstall(RELEASE, wait="legacy", timeout=60)
    assert there(cluster) == set()


def granted(cluster: Cluster, account: str) -> set[str]:
    """What an account may do of what would be worth having."""
    asked = [
        (verb, group, resource)
        for group, resource in (
            ("argoproj.io", "workflowtaskresults"), ("argoproj.io", "workflows"),
            ("argoproj.io", "workflowtemplates"), ("", "secrets"), ("", "configmaps"),
            ("", "pods"), ("rbac.authorization.k8s.io", "roles"),
        )
        for verb in ("create", "get", "list", "patch", "delete")
    ]  # fmt: skip
    return {
        f"{verb} {resource}"
        for verb, group, resource in asked
        if may(cluster, verb, group, resource, account=account)
    }


def test_values_that_the_schema_refuses_change_nothing(
    helm: helm_python.Config, cluster: Cluster
) -> None:
    with pytest.raises(helm_python.HelmError, match="additional properties 'gpus' not allowed"):
        helm.install(CHART, RELEASE, {"gpus": 1}, namespace=cluster.namespace)
    assert there(cluster) == set()


def test_helm_test_tries_out_the_development_store(
    helm: helm_python.Config, cluster: Cluster
) -> None:
    image = os.environ.get("SVDJOBS_STORE_IMAGE")
    if not image:
        pytest.skip("NO IMAGE: SVDJOBS_STORE_IMAGE names none")
    values = {
        "image": image,
        "devStore": {"enabled": True, "image": image, "clusterIP": ADDRESS},
        "networkPolicy": {"enabled": True},
    }
    helm.install(CHART, RELEASE, values, namespace=cluster.namespace, wait="legacy", timeout=120)
    said = helm.test(RELEASE, logs=True, timeout=180)["logs"]
    assert "ok           store: conditional put" in said
    assert "ok           pods' account" in said
    assert "fail" not in said
    with pytest.raises(RefusedError):  # it is gone, as all was well
        cluster.get(cluster.path("pods", "svdjobs-doctor", api="/api/v1"))
    (store,) = (one for one in there(cluster) if one.startswith("pods/"))
    log = "\n".join(cluster.stream(f"{cluster.path(store, api='/api/v1')}/log"))
    assert "AWS_SECRET_ACCESS_KEY=...  # as given" in log
