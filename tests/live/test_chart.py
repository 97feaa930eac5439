"""The chart on a real cluster, through the real Helm library."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import helm_python
import pytest

from svdjobs.cluster.api import Cluster
from svdjobs.cluster.doctor.cluster import may
from svdjobs.cluster.manifests.settings import load_settings
from svdjobs.errors import RefusedError
from tests.checkpoint.hub import COMMIT, serving
from tests.helm.chart import CHART, RELEASE, ROOT, Values, examples, values_of
from tests.live.cluster_access import Site
from tests.live.faults import attempts
from tests.live.namespaces import Document, Namespace
from tests.live.node_image import parts
from tests.live.private_network import authority, proxy
from tests.live.sweeps import BLENDS
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

DEMO = ROOT / "svdjobs" / "demo" / "checkpoints"
# Without DNS in the cluster, the Service needs a fixed address.
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


@pytest.fixture
def space(
    cluster: Site, make_namespace: Callable[..., Namespace], monkeypatch: pytest.MonkeyPatch
) -> Namespace:
    """A new namespace that accepts only restricted pods and contains only the Secret."""
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig))
    return make_namespace("svdjobs-helm", account=False)


@pytest.fixture
def helm(cluster: Site, space: Namespace) -> Iterator[helm_python.Config]:
    kubeconfig = str(cluster.kubeconfig)
    with helm_python.Config(kubeconfig_path=kubeconfig, namespace=space.name) as config:
        yield config


def there(cluster: Cluster) -> set[str]:
    """The objects in the namespace, without those of every namespace, the test's and Helm's own."""
    return {
        f"{kind}/{item['metadata']['name']}"
        for kind, api in KINDS.items()
        for item in cluster.get(cluster.path(kind, api=api))["items"]
        if item["metadata"]["name"] not in ("default", "kube-root-ca.crt", "svdjobs-store")
        and not item["metadata"]["name"].startswith("sh.helm.release.")
        and "deletionTimestamp" not in item["metadata"]
        and "workflows.argoproj.io/workflow" not in (item["metadata"].get("labels") or {})
    }


@pytest.mark.parametrize("name", examples())
def test_the_api_server_accepts_every_example(
    name: str, helm: helm_python.Config, space: Namespace
) -> None:
    values = examples()[name]
    if name == "gpu-kueue-spot":  # Kueue is not part of the cluster
        values["kueue"]["localQueue"] = {"create": False}
    helm.install(CHART, RELEASE, values, dry_run="server", namespace=space.name)


def test_install_upgrade_uninstall(helm: helm_python.Config, space: Namespace) -> None:
    values: dict[str, Any] = {
        "limits": {"evaluations": 2},
        "rbac": {"submitter": {"create": True, "subjects": [
            {"kind": "ServiceAccount", "name": "ci", "namespace": space.name}]}},
        "devStore": {"enabled": True, "image": "not.there/store:1"},
    }  # fmt: skip
    secret = space.api.path("secrets", "svdjobs-dev-store", api="/api/v1")
    limits = space.api.path("configmaps", "svdjobs-limits", api="/api/v1")
    helm.install(CHART, RELEASE, values, namespace=space.name)
    first = space.api.get(secret)["data"]
    assert space.api.get(limits)["data"] == {"evaluate": "2"}
    assert granted(space.api, "svdjobs") == {
        "create workflowtaskresults",
        "patch workflowtaskresults",
    }
    assert "create workflows" in granted(space.api, "ci")
    assert not {"get secrets", "create pods", "delete workflows"} & granted(space.api, "ci")

    values = {**values, "limits": {"evaluations": 3}, "cron": {"enabled": True, "suspend": True}}
    helm.upgrade(CHART, RELEASE, values, namespace=space.name)
    assert space.api.get(secret)["data"] == first  # an upgrade keeps the store's keys
    assert space.api.get(limits)["data"] == {"evaluate": "3"}
    assert "cronworkflows/svdjobs-nightly" in there(space.api)

    # Somebody raises the limit while sweeps run. Helm 4 applies server-side, where that field now
    # has another manager: another value for it would end every upgrade in a conflict.
    space.api.patch(limits, {"data": {"evaluate": "5"}})
    for evaluations in (3, 4):
        values = {**values, "limits": {"evaluations": evaluations}}
        helm.upgrade(CHART, RELEASE, values, namespace=space.name)
        assert space.api.get(limits)["data"] == {"evaluate": "5"}
        told = str(helm.get_all(RELEASE))
        assert f"limits.evaluations is {evaluations}, but somebody has set 5" in told

    helm.uninstall(RELEASE, wait="legacy", timeout=60)
    # Helm does not wait for the pods of a Deployment that it has deleted.
    until(lambda: not there(space.api), 60, "all objects of the chart are gone")


def granted(cluster: Cluster, account: str) -> set[str]:
    """The rights that an account has, of those that an attacker would want."""
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
    helm: helm_python.Config, space: Namespace
) -> None:
    with pytest.raises(helm_python.HelmError, match="additional properties 'gpus' not allowed"):
        helm.install(CHART, RELEASE, {"gpus": 1}, namespace=space.name)
    assert there(space.api) == set()


def small(space: Namespace, image: str, **more: Any) -> Values:
    """Values for a small node without GPUs: the settings of workflows/."""
    settings = load_settings(ROOT / "workflows" / "demo-settings.yaml")
    own = settings.images.model_copy(update=parts(image))
    chosen = settings.model_copy(update={"images": own, "store": space.url()})
    return {**values_of(chosen), "config": BLENDS, **more}


def test_from_install_to_uninstall_with_sweeps_in_between(
    image: str, helm: helm_python.Config, space: Namespace, tmp_path: Path
) -> None:
    """Run `helm test`, the WorkflowTemplate (by svdjobs and by argo), and the CronWorkflow once."""
    every_minute = {"enabled": True, "schedules": ["* * * * *"], "store": space.url("nightly")}
    network = {"store": {"cidrs": ["0.0.0.0/0"], "ports": [443]}}
    values = small(space, image, networkPolicy=network)
    helm.install(CHART, RELEASE, values, namespace=space.name)
    said = helm.test(RELEASE, logs=True, timeout=180)["logs"]
    assert "ok           store: conditional put" in said
    assert "ok           pods' account" in said
    assert "fail" not in said
    with pytest.raises(RefusedError):  # it is gone, as all was well
        space.api.get(space.api.path("pods", "svdjobs-doctor", api="/api/v1"))

    helm.upgrade(CHART, RELEASE, {**values, "cron": every_minute}, namespace=space.name)
    config = tmp_path / "blends.yaml"
    config.write_text(BLENDS)
    own = ("--from-template", "svdjobs-sweep", "--store", space.url("own"), "--name", "own")
    space.svdjobs("workflow", "submit", str(config), *own)
    fired = until(lambda: scheduled(space), 90, "the CronWorkflow fires", pause=0.5)
    suspended = {**every_minute, "suspend": True}
    helm.upgrade(CHART, RELEASE, {**values, "cron": suspended}, namespace=space.name)
    template = "workflowtemplate/svdjobs-sweep"
    by_argo = space.argo("submit", "--from", template, "-o", "name").split()[-1]
    assert "ended as Succeeded" in space.svdjobs("workflow", "watch", "own", timeout=300)
    space.wait(by_argo)
    space.wait(fired)
    assert scheduled(space) == fired, "it fired once"
    for run in ("run", "own", "nightly"):
        assert space.store(run).exists("checkpoints/alpha-0.5000/manifest.json")

    helm.uninstall(RELEASE, wait="legacy", timeout=60)
    # Helm does not wait for the pods of a Deployment that it has deleted.
    until(lambda: not there(space.api), 60, "all objects of the chart are gone")
    assert {item["metadata"]["name"] for item in space.objects("workflows")} == {
        "own",
        by_argo,
    }, "what people submitted stays; what the clock started goes with its CronWorkflow"


def scheduled(space: Namespace) -> str | None:
    """The only Workflow that the CronWorkflow has started; None before that."""
    found = space.objects("workflows", "workflows.argoproj.io/cron-workflow=svdjobs-nightly")
    assert len(found) < 2
    return str(found[0]["metadata"]["name"]) if found else None


def test_behind_a_proxy_and_a_private_authority_with_a_cache_of_models(
    image: str, helm: helm_python.Config, space: Namespace, cluster: Site, tmp_path: Path
) -> None:
    """`before` lies in the cache volume. `after` comes from a hub that only the proxy reaches by
    its name, with a certificate that only the private authority vouches for."""
    if not cluster.local:
        pytest.skip("NO VOLUME: only the cluster of SVDJOBS_CLUSTER has folders of this machine")
    models = {"lab/base": DEMO / "base", "lab/rl2": DEMO / "rl2"}
    ca, server = authority(tmp_path, cluster.address)
    with (
        serving(models, cluster.address, certificate=server) as hub,
        proxy(cluster.address) as (address, reached),
        tempfile.TemporaryDirectory(prefix="svdjobs-models-") as cache,
    ):
        fill(Path(cache), "lab/base", DEMO / "base")
        space.apply(*volume(space.name, cache), authorities(ca))
        values = small(space, image)
        values |= {
            "config": HUB, "caConfigMap": "authorities", "proxy": {"https": address},
            "modelCache": {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
            "prometheus": True,
            "extraEnv": [
                {"name": "HF_ENDPOINT", "value": hub.url},
                {"name": "HF_HUB_DISABLE_XET", "value": "1"},
            ],
        }  # fmt: skip
        try:
            helm.install(CHART, RELEASE, values, namespace=space.name)
            submit = ("submit", "--from", "workflowtemplate/svdjobs-sweep", "-o", "name")
            found = space.wait(space.argo(*submit).split()[-1])
        finally:
            space.kubectl("delete", "persistentvolume", space.name, "--wait=false")
        tried = attempts(found)
        assert "fetch(0:lab--rl2)" in tried and len(tried) > 5
        assert not [name for name in tried if "lab--base" in name]
        weights = (DEMO / "rl2" / "model.safetensors").stat().st_size
        assert weights < hub.weight_bytes < 1.5 * weights, "the weights once, and headers for plan"
        assert set(reached) == {hub.url.removeprefix("https://")}


HUB = """
name: hub
before: lab/base
after: lab/rl2
alphas: [0.5]
decompose: {parts: 1, shards: 1}
"""


def fill(cache: Path, repository: str, checkpoint: Path) -> None:
    """Put a checkpoint into a cache of the hub as huggingface_hub lays it out, for all to read."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(checkpoint, folder / "snapshots" / COMMIT)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    cache.chmod(0o755)


def volume(namespace: str, folder: str) -> tuple[Document, Document]:
    """A volume that is a folder of this machine, and the claim `models` to it."""
    common: Document = {"accessModes": ["ReadOnlyMany"], "storageClassName": ""}
    spec = {**common, "capacity": {"storage": "1Gi"}, "hostPath": {"path": folder}}
    claim = {"resources": {"requests": {"storage": "1Gi"}}, "volumeName": namespace}
    return (
        {
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": namespace},
            "spec": {**spec, "persistentVolumeReclaimPolicy": "Retain"},
        },
        {
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"},
            "spec": {**common, **claim},
        },
    )  # fmt: skip


def authorities(certificate: Path) -> Document:
    data = {"ca.crt": certificate.read_text()}
    return {
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authorities"}, "data": data,
    }  # fmt: skip


def test_without_kueue_it_says_so(helm: helm_python.Config, space: Namespace) -> None:
    """The check for Kueue is the one for Argo, which no test removes from a cluster (see
    tests/helm)."""
    values = examples()["gpu-kueue-spot"]
    with pytest.raises(helm_python.HelmError, match=r"kueue\.x-k8s\.io"):
        helm.install(CHART, RELEASE, values, namespace=space.name)
    assert there(space.api) == set()


def test_helm_test_tries_out_the_development_store(
    helm: helm_python.Config, space: Namespace, image: str, store_image: str
) -> None:
    values = {
        "images": parts(image),
        "devStore": {"enabled": True, "image": store_image, "clusterIP": ADDRESS},
    }
    helm.install(CHART, RELEASE, values, namespace=space.name, wait="legacy", timeout=120)
    said = helm.test(RELEASE, logs=True, timeout=180)["logs"]
    assert "ok           store: conditional put" in said
    assert "ok           pods' account" in said
    assert "fail" not in said
    with pytest.raises(RefusedError):  # it is gone, as all was well
        space.api.get(space.api.path("pods", "svdjobs-doctor", api="/api/v1"))
    (store,) = (one for one in there(space.api) if one.startswith("pods/"))
    log = "\n".join(space.api.stream(f"{space.api.path(store, api='/api/v1')}/log"))
    assert "AWS_SECRET_ACCESS_KEY=...  # as given" in log
