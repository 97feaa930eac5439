"""The documents of the chart are valid for Kubernetes and Argo, and grant only what is needed."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest

from tests.argo_emulator.lint import lint
from tests.argo_emulator.schema import KINDS
from tests.helm.chart import documents, examples, only, render

MODELS = {
    "ConfigMap": "V1ConfigMap",
    "Deployment": "V1Deployment",
    "NetworkPolicy": "V1NetworkPolicy",
    "PersistentVolumeClaim": "V1PersistentVolumeClaim",
    "Pod": "V1Pod",
    "Role": "V1Role",
    "RoleBinding": "V1RoleBinding",
    "Secret": "V1Secret",
    "Service": "V1Service",
    "ServiceAccount": "V1ServiceAccount",
}
FOREIGN = {*KINDS, "LocalQueue"}


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def understood(document: dict[str, Any]) -> Any:
    """The document as Kubernetes' model reads it: without unknown fields; missing ones raise."""
    import kubernetes

    client = kubernetes.client.ApiClient()
    model = client._ApiClient__deserialize(document, MODELS[document["kind"]])
    return client.sanitize_for_serialization(model)


@pytest.mark.parametrize("name", examples())
def test_kubernetes_models_know_every_field(name: str) -> None:
    for document in documents(examples()[name]):
        if document["kind"] not in FOREIGN:
            assert understood(document) == without_nulls(document)


@pytest.mark.parametrize("broken", [{"rules": []}, {"roleRef": {"kind": "Role"}, "subject": []}])
def test_the_models_would_notice(broken: dict[str, Any]) -> None:
    binding = {**only(documents(), "RoleBinding"), **broken}
    try:
        assert understood(binding) != binding
    except ValueError as error:
        assert "must not be `None`" in str(error)  # a required field is missing


@pytest.mark.parametrize("name", examples())
def test_strict_argo_lint_finds_nothing(name: str) -> None:
    found = documents(examples()[name])
    templates = [one for one in found if one["kind"] == "WorkflowTemplate"]
    argo = [one for one in found if one["kind"] in KINDS]
    assert argo
    assert [finding for one in argo for finding in lint(one, templates)] == []


@pytest.mark.parametrize("name", examples())
def test_each_object_is_named_once_and_of_the_release(name: str) -> None:
    found = documents(examples()[name])
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(names) == len(set(names))
    for one in found:
        assert one["metadata"]["namespace"] == "sweeps"
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == "svdjobs"


def pods(found: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, pod spec and container of each document that becomes a pod."""
    for one in found:
        spec = one.get("spec", {})
        if one["kind"] == "WorkflowTemplate":
            for template in spec["templates"]:
                if "container" in template:
                    yield template["name"], {**spec, **template}, template["container"]
        elif one["kind"] in ("Pod", "Deployment"):
            pod = spec.get("template", {}).get("spec", spec)
            for container in pod["containers"]:
                yield one["metadata"]["name"], pod, container


@pytest.mark.parametrize("name", examples())
def test_every_pod_passes_the_restricted_level(name: str) -> None:
    found = list(pods(documents(examples()[name])))
    assert len(found) >= 9
    for where, pod, container in found:
        assert pod["securityContext"]["runAsNonRoot"] is True, where
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert ("runAsUser" in pod["securityContext"]) == (name != "restricted-openshift"), where
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }, where
        kinds = {key for volume in pod["volumes"] for key in volume if key != "name"}
        assert kinds <= {"emptyDir", "persistentVolumeClaim"}, where
        for key in ("cpu", "memory", "ephemeral-storage"):
            assert key in container["resources"]["requests"], where


def test_the_pods_account_may_do_what_the_executor_needs_and_no_more() -> None:
    assert only(documents(), "Role")["rules"] == [
        {"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"],
         "verbs": ["create", "patch"]}
    ]  # fmt: skip


def test_the_submitter_may_run_sweeps_and_read_no_secrets() -> None:
    found = documents(examples()["gpu-kueue-spot"])
    rules = only(found, "Role", "svdjobs-submitter")["rules"]
    granted = {
        (verb, resource)
        for rule in rules
        for verb in rule["verbs"]
        for resource in rule["resources"]
    }
    needed = {
        *((verb, "workflows") for verb in ("create", "get", "list", "watch", "patch")),
        *(
            (verb, resource)
            for verb in ("get", "list")
            for resource in ("pods", "workflowtemplates")
        ),
        ("get", "pods/log"),
    }
    assert granted == needed
    binding = only(found, "RoleBinding", "svdjobs-submitter")
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "ci", "namespace": "ci"}]


def test_policies_select_sweeps_and_name_whom_they_reach() -> None:
    found = documents(examples()["restricted-openshift"])
    policy = only(found, "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in policy  # nothing reaches the pods
    reached = [
        (peer["ipBlock"]["cidr"], port["port"])
        for rule in policy["egress"]
        for peer in rule["to"]
        for port in rule["ports"]
        if "ipBlock" in peer
    ]
    assert reached == [("10.0.0.0/16", 6443), ("10.20.0.0/16", 9000), ("10.30.0.7/32", 3128)]
    selected = policy["podSelector"]["matchLabels"]
    workflow = only(found, "WorkflowTemplate")["spec"]
    assert selected.items() <= workflow["podMetadata"]["labels"].items()
    assert selected.items() <= only(found, "Pod")["metadata"]["labels"].items()
    for template in workflow["templates"]:
        assert "container" not in template or "svdjobs.io/stage" in template["metadata"]["labels"]


@pytest.mark.parametrize("name", sorted(examples()))
def test_nobody_reaches_a_sweep_s_pods_and_only_they_the_development_store(name: str) -> None:
    """Also by default. Egress is restricted only if the store's addresses are given."""
    found = documents(examples()[name])
    policies = [one for one in found if one["kind"] == "NetworkPolicy"]
    sweeps, *stores = (one["spec"] for one in policies)
    assert "Ingress" in sweeps["policyTypes"]
    assert "ingress" not in sweeps
    given = bool(examples()[name].get("networkPolicy", {}).get("store", {}).get("cidrs"))
    assert ("Egress" in sweeps["policyTypes"], "egress" in sweeps) == (given, given)
    assert len(stores) == (name == "dev-store")
    for store in stores:
        assert store["ingress"] == [
            {
                "from": [{"podSelector": {"matchLabels": sweeps["podSelector"]["matchLabels"]}}],
                "ports": [{"protocol": "TCP", "port": 8333}],
            }
        ]


def test_no_policy_where_none_is_wanted() -> None:
    assert not [
        one for one in documents({"networkPolicy": {"enabled": False}})
        if one["kind"] == "NetworkPolicy"
    ]  # fmt: skip


def test_no_document_holds_a_credential_but_the_development_stores_secret() -> None:
    for name, values in examples().items():
        found = documents(values)
        secrets = [one["metadata"]["name"] for one in found if one["kind"] == "Secret"]
        assert secrets == (["svdjobs-dev-store"] if name == "dev-store" else [])
        for where, _, container in pods(found):
            for variable in container.get("env", []):
                assert "value" not in variable or not variable["name"].startswith("AWS_"), where


def commands(notes: str) -> list[list[str]]:
    joined = notes.replace("\\\n", " ")
    return [
        shlex.split(line) for line in joined.splitlines() if re.match(r"  (argo|svdjobs) ", line)
    ]


def test_the_notes_commands_are_commands() -> None:
    from svdjobs.cli.workflow import submit

    argo, own = commands(render(examples()["restricted-openshift"])["NOTES.txt"])
    assert argo[:2] == ["argo", "submit"]
    assert argo[argo.index("--from") + 1] == "workflowtemplate/spectra-sweep"
    assert own[:3] == ["svdjobs", "workflow", "submit"]
    with submit.make_context("submit", own[3:]) as context:
        given = context.params
    assert given["from_template"] == "spectra-sweep"
    assert given["namespace"] == "sweeps"
    assert given["store"] == "s3://svdjobs/demo"


def test_the_chart_test_is_a_doctor_that_goes_when_all_is_well() -> None:
    from svdjobs.cli.doctor import doctor

    pod = only(documents(), "Pod")
    assert pod["metadata"]["annotations"] == {
        "helm.sh/hook": "test",
        "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
    }
    container = pod["spec"]["containers"][0]
    assert [*container["command"], container["args"][0]] == ["svdjobs", "doctor"]
    with doctor.make_context("doctor", container["args"][1:]) as context:
        given = {key: value for key, value in context.params.items() if value}
    assert given == {"store": "s3://svdjobs/demo", "namespace": "sweeps"}
    assert pod["spec"]["serviceAccountName"] == "svdjobs"


def test_the_service_monitor_reads_argo_s_controller() -> None:
    given = {"create": True, "namespace": "workflows", "labels": {"release": "prometheus"}}
    values = {"serviceMonitor": given, "crds": {"check": False}}
    found = only(documents(values), "ServiceMonitor")
    assert found["metadata"]["labels"]["release"] == "prometheus"
    spec = found["spec"]
    assert spec["namespaceSelector"] == {"matchNames": ["workflows"]}
    assert spec["selector"] == {"matchLabels": {"app": "workflow-controller"}}
    (endpoint,) = spec["endpoints"]
    assert (endpoint["port"], endpoint["tlsConfig"]) == ("metrics", {"insecureSkipVerify": True})
    own = {**given, "selector": {"name": "argo"}, "scheme": "http"}
    spec = only(documents({**values, "serviceMonitor": own}), "ServiceMonitor")["spec"]
    assert spec["selector"] == {"matchLabels": {"name": "argo"}}
    assert "tlsConfig" not in spec["endpoints"][0]
    with pytest.raises(helm_python.HelmRenderError, match=r"monitoring\.coreos\.com"):
        documents({**values, "crds": {"check": True}})


def test_the_chart_test_reaches_the_store_as_sweeps_do() -> None:
    values = {"caConfigMap": "authorities", "proxy": {"https": "http://proxy:3128"}}
    spec = only(documents(values), "Pod")["spec"]
    env = {item["name"]: item["value"] for item in spec["containers"][0]["env"]}
    assert env["HTTPS_PROXY"] == "http://proxy:3128"
    mounts = {m["name"]: m["mountPath"] for m in spec["containers"][0]["volumeMounts"]}
    assert env["AWS_CA_BUNDLE"].startswith(mounts["ca"])
    assert {"name": "ca", "configMap": {"name": "authorities"}} in spec["volumes"]
