"""The permissions of the chart's account, and the places that must not have the secret key."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from svdjobs.cluster.manifests.argo import TOKEN_PATH
from svdjobs.storage.dev_server import S3Server
from tests.helm.chart import documents
from tests.live.cluster_access import Site
from tests.live.faults import STAGE, sweep
from tests.live.namespaces import RESTRICTED, Namespace

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SWEEP = """
name: secrets
before: demo:base
after: demo:rl2
alphas: [0]
decompose: {parts: 1, shards: 1}
"""


NETWORK = {"networkPolicy": {"store": {"cidrs": ["10.20.0.0/16"]}}}


def allowed(space: Namespace, account: str) -> set[tuple[str, ...]]:
    """The rights of an account in its namespace, as the API server lists them."""
    who = f"system:serviceaccount:{space.name}:{account}"
    lines = space.kubectl("auth", "can-i", "--list", f"--as={who}", "--no-headers").splitlines()
    return {tuple(line.split()) for line in lines}


def test_the_account_may_report_outputs_and_no_more(
    make_namespace: Callable[..., Namespace],
) -> None:
    """In addition to the rights of an account without a binding. The NetworkPolicy is accepted."""
    space = make_namespace("svdjobs-rights", account=False)
    wanted = ("ServiceAccount", "Role", "RoleBinding", "NetworkPolicy")
    made = [one for one in documents(NETWORK) if one["kind"] in wanted]
    assert {one["kind"] for one in made} == set(wanted)
    space.apply(*json.loads(json.dumps(made).replace('"sweeps"', f'"{space.name}"')))
    (policy,) = space.objects("networkpolicies")
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    own = allowed(space, "svdjobs") - allowed(space, "default")
    assert own == {("workflowtaskresults.argoproj.io", "[]", "[]", "[create", "patch]")}


def test_the_secret_key_is_in_the_secret_only(
    image: str, live_server: S3Server, cluster: Site, make_namespace: Callable[..., Namespace]
) -> None:
    """After a sweep in a restricted namespace, search the cluster's objects, the logs and the
    store for the key."""
    space = make_namespace("svdjobs-secrets")
    (namespace,) = [
        item
        for item in json.loads(cluster.run("kubectl", "get", "namespaces", "-o", "json"))["items"]
        if item["metadata"]["name"] == space.name
    ]
    assert RESTRICTED.items() <= namespace["metadata"]["labels"].items()
    document = sweep(space, "secrets", SWEEP, image=image)
    document["spec"].pop("podGC")
    space.apply(document)
    space.wait("secrets")
    secret = live_server.secret_key
    pods = space.objects("pods")
    with_token = {
        container["name"]
        for pod in pods
        for container in (*pod["spec"]["containers"], *pod["spec"]["initContainers"])
        if any(mount["mountPath"] == TOKEN_PATH for mount in container["volumeMounts"])
    }
    assert with_token == {"init", "wait"}
    assert {pod["metadata"]["labels"][STAGE] for pod in pods} == {
        "plan", "decompose", "blend", "report", "notify",
    }  # fmt: skip
    kinds = ("workflows", "workflowtaskresults", "pods", "configmaps", "events", "serviceaccounts")
    said = {kind: space.kubectl("get", kind, "-o", "yaml") for kind in kinds}
    for pod in pods:
        name = pod["metadata"]["name"]
        said[name] = space.kubectl("logs", name, "--all-containers")
    store = space.store()
    said |= {key: bytes(store.read(key)).decode("latin-1") for key in store.keys("")}
    assert all(said[pod["metadata"]["name"]] for pod in pods)
    assert [where for where, text in said.items() if secret in text] == []
    given = space.object("secrets", "svdjobs-store")
    assert "AWS_SECRET_ACCESS_KEY" in given["data"]
    sources = [
        source
        for pod in pods
        for container in pod["spec"]["containers"]
        for source in container.get("envFrom", [])
    ]
    assert {json.dumps(source["secretRef"]) for source in sources} == {
        '{"name": "svdjobs-store", "optional": true}'
    }
