"""values.yaml, its comments, the README's table and the strict schema agree."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import helm_python
import pytest
import yaml

from svdjobs.cluster.manifests.settings import ClusterSettings
from tests.helm import documented
from tests.helm.chart import CHART, STAGES, values_of
from tests.helm.golden import README
from tests.helm.golden import SCHEMA as SCHEMA_FILE

SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
# What Kubernetes defines, and explains.
KUBERNETES_OWN = ("/definitions/tolerations", "/definitions/subject")
# Maps in which users choose the keys.
FREE = {
    "podLabels", "podAnnotations", "nodeSelector", "serviceAccount.annotations",
    "gpu.nodeSelector", "gpu.affinity", "global", "modelCache", "commonLabels",
    "serviceMonitor.labels", "serviceMonitor.selector",
}  # fmt: skip


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return SCHEMA["definitions"][reference.rpartition("/")[2]] if reference else schema


def schema_leaves(schema: dict[str, Any], above: str = "") -> Iterator[str]:
    for key, inner in resolved(schema)["properties"].items():
        found = resolved(inner)
        if "properties" in found and found is not SCHEMA["definitions"]["stageImage"]:
            yield from schema_leaves(found, f"{above}{key}.")
        else:
            yield f"{above}{key}"


def objects(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every schema of a map, at any depth, with its path."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, inner in schema.items():
            if key not in ("if", "then"):
                yield from objects(inner, f"{path}/{key}")
    elif isinstance(schema, list):
        for number, inner in enumerate(schema):
            yield from objects(inner, f"{path}/{number}")


def test_every_value_is_explained_and_known_to_the_schema() -> None:
    explained = [value.path for value in documented.values()]
    assert explained == list(documented.leaves(DEFAULTS))
    assert sorted(explained) == sorted(schema_leaves(SCHEMA))


def test_the_readme_lists_what_the_comments_say() -> None:
    text = README.read_text(encoding="utf-8")
    assert documented.with_table(text) == text, "run: make render"


def test_the_schema_says_what_the_comments_say() -> None:
    """Editors show the descriptions of a schema while values are written."""
    text = SCHEMA_FILE.read_text(encoding="utf-8")
    assert documented.described(text) == text, "run: make render"
    bare = [
        f"{path}/{key}"
        for path, schema in objects(SCHEMA)
        for key, inner in schema.get("properties", {}).items()
        if "description" not in inner and not path.startswith(KUBERNETES_OWN)
    ]
    assert not bare


def test_only_maps_of_the_users_own_are_open() -> None:
    opened = {
        path.removeprefix("/properties/").replace("/properties/", ".")
        for path, schema in objects(SCHEMA)
        if schema.get("additionalProperties") is not False
    }
    rules = {
        "networkPolicy.dns/items", "networkPolicy.extraEgress/items",
        "extraEnv/items", "extraEnvFrom/items", "extraVolumes/items", "extraVolumeMounts/items",
        "/definitions/stage.topologySpread/items",
    }  # fmt: skip
    assert opened == FREE | rules


def test_defaults_are_those_of_settings() -> None:
    expected = values_of(ClusterSettings())
    assert expected.pop("serviceAccount") == {"name": DEFAULTS["fullnameOverride"]}
    assert expected.pop("cron")["schedules"] == DEFAULTS["cron"]["schedules"]
    limits = {**DEFAULTS["limits"]}
    assert limits.pop("evaluations") is None
    assert expected.pop("limits") == limits
    assert {key: DEFAULTS[key] for key in expected} == expected
    assert {"store", "gpu", "user", "images", *STAGES} <= set(expected)


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"gpus": 2}, "additional properties 'gpus' not allowed"),
        ({"gpu": {"nodes": 2}}, "at '/gpu'"),
        ({"gpu": {"count": "2"}}, "at '/gpu/count'"),
        ({"gpu": {"count": -1}}, "at '/gpu/count'"),
        ({"gpu": {"count": 0.5}}, "at '/gpu/count'"),
        ({"gpu": {"resource": "gpu"}}, "at '/gpu/resource'"),
        ({"gpu": {"tolerations": [{"key": "a", "effect": "Never"}]}}, "at '/gpu/tolerations/0"),
        ({"gpu": None}, "missing property 'gpu'"),
        ({"store": {"accessKey": "AKIA", "secretKey": "x"}}, "at '/store'"),
        ({"store": {"url": "runs/demo"}}, "at '/store/url'"),
        ({"store": {"url": "s3://bucket"}}, "at '/store/url'"),
        ({"store": {"existingSecret": "Not A Name"}}, "at '/store/existingSecret'"),
        ({"devStore": {"secretKey": "x"}}, "at '/devStore'"),
        ({"images": {"repository": "svdjobs:1"}}, "at '/images/repository'"),
        ({"images": {"tag": "{{workflow.name}}"}}, "at '/images/tag'"),
        ({"images": {"registry": "$(NAME)"}}, "at '/images/registry'"),
        ({"images": {"evaluate": {"digest": "sha256:1"}}}, "at '/images/evaluate/digest'"),
        ({"store": {"url": "s3://bucket/{{workflow.name}}"}}, "at '/store/url'"),
        ({"store": {"url": "s3://key:secret@bucket/run"}}, "at '/store/url'"),
        ({"images": {"plan": "svdjobs:1"}}, "at '/images/plan'"),
        ({"decompose": {"memory": "32GB"}}, "at '/decompose/memory'"),
        ({"decompose": {"memory": 32}}, "at '/decompose/memory'"),
        ({"decompose": {"cpu": "four"}}, "at '/decompose/cpu'"),
        ({"evaluate": {"deadlineSeconds": 0}}, "at '/evaluate/deadlineSeconds'"),
        ({"user": 0}, "at '/user'"),
        ({"limits": {"evaluations": 0}}, "at '/limits/evaluations'"),
        ({"cron": {"schedule": "0 2 * * *"}}, "at '/cron'"),
        ({"cron": {"schedules": []}}, "at '/cron/schedules'"),
        ({"cron": {"concurrencyPolicy": "Wait"}}, "at '/cron/concurrencyPolicy'"),
        ({"kueue": {"localQueue": {"create": True}}}, "missing property 'clusterQueue'"),
        ({"networkPolicy": {"store": {"cidrs": ["store.example.com"]}}}, "/store/cidrs/0'"),
        ({"fullnameOverride": "a-name-of-more-than-twenty"}, "at '/fullnameOverride'"),
        ({"podLabels": {"a": True}}, "at '/podLabels/a'"),
    ],
)
def test_the_schema_refuses(values: dict[str, Any], where: str) -> None:
    with (
        helm_python.Chart.load(CHART) as chart,
        pytest.raises(helm_python.HelmValuesError) as caught,
    ):
        chart.validate_schema(values)
    assert where in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"global": {"anything": [1]}},
        {"user": None},
        {"store": {"existingSecret": None}},
        {"decompose": {"cpu": 0.5, "cpuLimit": "1500m"}},
        {"images": {"registry": "host:5000/a/b", "plan": {"digest": f"sha256:{'0' * 64}"}}},
        {"images": {"evaluate": {"registry": None, "repository": "a/b", "tag": "v1.0_x"}}},
        {"store": {"url": "/mnt/runs"}},
        {"nodeSelector": {"node-role.kubernetes.io/worker": ""}},
    ],
)
def test_the_schema_accepts(values: dict[str, Any]) -> None:
    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
