"""The chart equals the generator of Workflows, and refuses bad values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python
import pytest
import yaml

import svdjobs
from svdjobs.cluster.manifests import argo
from svdjobs.cluster.manifests.render import render as manifests
from svdjobs.cluster.manifests.settings import ClusterSettings, load_settings
from tests.helm.chart import (
    ARGO,
    CHART,
    RELEASE,
    ROOT,
    UNUSUAL,
    documents,
    examples,
    only,
    parsed_patches,
    render,
    values_of,
)
from tests.helm.golden import GOLDEN, text_of

DEMO = (ROOT / "jobs/sweeps/demo.yaml").read_text(encoding="utf-8")


def spec_of(values: dict[str, Any] | None = None) -> dict[str, Any]:
    spec: dict[str, Any] = only(documents(values), "WorkflowTemplate")["spec"]
    return spec


def test_rendered_with_the_demo_s_settings_it_says_the_same() -> None:
    settings = load_settings(ROOT / "workflows/demo-settings.yaml")
    files = manifests(DEMO, settings, where="demo")

    def generated(name: str) -> dict[str, Any]:
        document: dict[str, Any] = yaml.safe_load(files[Path("workflows") / name])
        return document

    values, expected = values_of(settings), generated("sweep-template.yaml")
    found = only(documents(values), "WorkflowTemplate")
    assert parsed_patches(found["spec"]) == parsed_patches(expected["spec"])
    assert found["metadata"]["name"] == expected["metadata"]["name"]
    assert expected["metadata"]["labels"].items() <= found["metadata"]["labels"].items()
    nightly = only(documents({**values, "cron": {"enabled": True}}), "CronWorkflow")
    assert nightly["spec"] == generated("nightly.yaml")["spec"]
    assert nightly["metadata"]["name"] == generated("nightly.yaml")["metadata"]["name"]


@pytest.mark.parametrize("settings", [ClusterSettings(), UNUSUAL], ids=["defaults", "unusual"])
def test_values_do_what_the_same_settings_do(settings: ClusterSettings) -> None:
    expected = argo.sweep(settings, DEMO)["spec"]
    assert parsed_patches(spec_of(values_of(settings))) == parsed_patches(expected)


def test_common_labels_are_on_every_object() -> None:
    found = documents(
        {"commonLabels": {"team": "rl"}, "devStore": {"enabled": True, "image": "s:1"}}
    )
    assert len(found) > 8
    assert all(one["metadata"]["labels"]["team"] == "rl" for one in found)


def test_the_defaults_are_the_settings_defaults() -> None:
    expected = argo.sweep(ClusterSettings(), DEMO)["spec"]
    assert parsed_patches(spec_of()) == parsed_patches(expected)


@pytest.mark.parametrize(
    "text",
    [
        "name: x\n",
        "\n\n  # begins with empty lines\nname: 'a: b'\n\n\ttab\n",
        "trailing space \nand no newline at the end",
        'quotes: ["\'", "\\\\"]\n# é … 漢 <b>&amp;</b> {curly} $X %s\n',
        "---\na: |\n  text\n\n\n",
        "12",
        "1e999",
    ],
)
def test_a_config_arrives_as_it_was_written(text: str) -> None:
    found = documents({"config": text, "cron": {"enabled": True}})
    for spec in (
        only(found, "WorkflowTemplate")["spec"],
        only(found, "CronWorkflow")["spec"]["workflowSpec"],
    ):
        given = {item["name"]: item["value"] for item in spec["arguments"]["parameters"]}
        assert given["config"] == text
    assert only(found, "ConfigMap", "svdjobs-config")["data"]["sweep.yaml"] == text


def test_large_numbers_stay_whole() -> None:
    found = spec_of({"user": 1000680000, "limits": {"keepFailureSeconds": 31_536_000}})
    assert found["securityContext"]["runAsUser"] == 1000680000
    assert found["ttlStrategy"]["secondsAfterFailure"] == 31_536_000


def test_nothing_optional_is_there_by_default() -> None:
    kinds = sorted(document["kind"] for document in documents())
    assert kinds == [
        "ConfigMap",
        "NetworkPolicy",
        "Pod",
        "Role",
        "RoleBinding",
        "ServiceAccount",
        "WorkflowTemplate",
    ]


def test_only_gpu_leaves_are_queued_and_bounded() -> None:
    found = documents(examples()["gpu-kueue-spot"])
    label = "kueue.x-k8s.io/queue-name"
    for template in only(found, "WorkflowTemplate")["spec"]["templates"]:
        evaluates = template["name"] == "evaluate"
        labels = template.get("metadata", {}).get("labels", {})
        assert labels.get(label) == ("gpus" if evaluates else None)
        assert ("synchronization" in template) == evaluates
        assert ("priorityClassName" in template) == evaluates
    assert only(found, "ConfigMap", "svdjobs-limits")["data"] == {"evaluate": "4"}
    assert only(found, "LocalQueue")["metadata"]["name"] == "gpus"


def test_a_shared_semaphore_is_referred_to_and_not_made() -> None:
    found = documents({"limits": {"semaphore": "shared"}})
    assert [one["metadata"]["name"] for one in found if one["kind"] == "ConfigMap"] == [
        "svdjobs-config"
    ]
    named = documents({"limits": {"semaphore": "shared", "evaluations": 2}})
    assert only(named, "ConfigMap", "shared")["data"] == {"evaluate": "2"}


def test_names_follow_the_release_if_told_to() -> None:
    found = documents({"fullnameOverride": None}, release="a-release-with-a-long-name")
    names = {one["metadata"]["name"] for one in found}
    assert names == {
        f"a-release-with-a-lon{end}" for end in ("", "-sweep", "-config", "-pods", "-doctor")
    }


def test_another_name_is_on_objects_and_pods_and_in_policies() -> None:
    found = documents({"nameOverride": "spectra"})
    name = "app.kubernetes.io/name"
    assert {one["metadata"]["labels"][name] for one in found} == {"spectra"}
    assert only(found, "WorkflowTemplate")["spec"]["podMetadata"]["labels"][name] == "spectra"
    for policy in (one for one in found if one["kind"] == "NetworkPolicy"):
        assert policy["spec"]["podSelector"]["matchLabels"][name] == "spectra"


def test_the_development_store_is_tied_together() -> None:
    found = documents({"devStore": {"enabled": True, "image": "store:1", "clusterIP": "10.96.0.9"}})
    secret = only(found, "Secret")["data"]
    assert len({secret["AWS_ACCESS_KEY_ID"], secret["AWS_SECRET_ACCESS_KEY"]}) == 2
    other = only(documents({"devStore": {"enabled": True, "image": "store:1"}}), "Secret")["data"]
    assert other["AWS_SECRET_ACCESS_KEY"] != secret["AWS_SECRET_ACCESS_KEY"]
    deployment, service = only(found, "Deployment")["spec"], only(found, "Service")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert service["selector"].items() <= labels.items()
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    assert "svdjobs.io/stage" not in labels  # so the policies of sweeps do not select it
    evaluate = next(
        one
        for one in only(found, "WorkflowTemplate")["spec"]["templates"]
        if one["name"] == "evaluate"
    )
    assert [item["secretRef"]["name"] for item in evaluate["container"]["envFrom"]] == [
        "svdjobs-store",
        "svdjobs-dev-store",
    ]


def test_a_render_without_a_cluster_makes_no_random_keys_if_a_secret_is_named() -> None:
    """As Argo CD renders, at each sync."""
    values = {"devStore": {"enabled": True, "image": "store:1", "existingSecret": "mine"}}
    found = documents(values)
    assert found == documents(values)
    assert set(only(found, "Secret")["data"]) == {"AWS_REGION", "AWS_ENDPOINT_URL"}
    evaluate = only(found, "WorkflowTemplate")["spec"]["templates"][1]["container"]
    secrets = [item["secretRef"]["name"] for item in evaluate["envFrom"]]
    assert secrets == ["svdjobs-store", "svdjobs-dev-store", "mine"]
    (server,) = only(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert {item["valueFrom"]["secretKeyRef"]["name"] for item in server["env"]} == {"mine"}


APART = "In a prompt or title, put a space between the two signs"


@pytest.mark.parametrize(
    ("values", "offered", "words"),
    [
        ({}, (), "install Argo Workflows 3.7 or newer"),
        ({}, ("argoproj.io/v1beta1",), "crds.check=false"),
        (
            {"kueue": {"localQueue": {"create": True, "clusterQueue": "a"}}},
            (ARGO,),
            "Install Kueue",
        ),
        ({"devStore": {"enabled": True}}, (ARGO,), "name an image that has svdjobs[store-server]"),
        ({"config": "title: '{{x}}'"}, (ARGO,), "config: Argo would replace '{{'. " + APART),
        ({"cron": {"config": "{{x}}"}}, (ARGO,), "config: Argo would replace '{{'. " + APART),
        ({"config": "title: $(x)"}, (ARGO,), "config: Kubernetes would replace '$('. " + APART),
        ({"cron": {"config": "$$x$$"}}, (ARGO,), "config: Kubernetes would replace '$$'. " + APART),
        ({"images": {"tag": "latest"}}, (ARGO,), "`latest` changes while a sweep runs"),
    ],
)
def test_refusals_say_what_to_do(
    values: dict[str, Any], offered: tuple[str, ...], words: str
) -> None:
    with pytest.raises(helm_python.HelmRenderError) as caught:
        render(values, offered=offered)
    assert words in str(caught.value)


def test_without_a_cluster_it_renders_if_told_to() -> None:
    with helm_python.Chart.load(CHART) as chart:
        assert chart.render({"crds": {"check": False}}, name=RELEASE)


def test_the_chart_carries_the_versions_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == chart["version"] == svdjobs.__version__


@pytest.mark.parametrize("name", examples())
def test_lint_finds_nothing(name: str) -> None:
    found = helm_python.lint(CHART, examples()[name], strict=True)
    assert found["errors"] == []
    assert [one for one in found["messages"] if one["error"] != "icon is recommended"] == []


@pytest.mark.parametrize("name", examples())
def test_renders_are_as_committed(name: str) -> None:
    expected = (GOLDEN / f"{name}.yaml").read_text(encoding="utf-8")
    assert text_of(examples()[name]) == expected, "if this is meant, run: make render"


def test_every_golden_render_has_its_values() -> None:
    assert {path.stem for path in GOLDEN.glob("*.yaml")} == set(examples())
