"""Render the chart with the real Helm library, and turn cluster settings into its values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import helm_python
import yaml
from helm_python import _native

from svdjobs import pipeline
from svdjobs.cluster.manifests.settings import ClusterSettings
from tests.from_pipeline import camel, sized

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm/svdjobs"
RELEASE, NAMESPACE = "svdjobs", "sweeps"
ARGO = "argoproj.io/v1alpha1"
KUEUE = "kueue.x-k8s.io/v1beta1"
STAGES = [stage.name for stage in sized()]
Values = dict[str, Any]


def render(
    values: Values | None = None,
    *,
    offered: tuple[str, ...] = (ARGO, KUEUE),
    release: str = RELEASE,
    upgrade: bool = False,
) -> dict[str, str]:
    """The text of each template, for a cluster that offers the API versions `offered`.

    `Chart.render` has no `api_versions`, so this calls the library below it.
    """
    options = {
        "name": release,
        "namespace": NAMESPACE,
        "api_versions": list(offered),
        "is_upgrade": upgrade,
    }
    with helm_python.Chart.load(CHART) as chart:
        answer = _native.call_string(
            "helm_render", chart._raw(), json.dumps(values or {}), json.dumps(options)
        )
    texts = {path.partition("/templates/")[2]: text for path, text in json.loads(answer).items()}
    return {path: text for path, text in sorted(texts.items()) if text.strip()}


def documents(values: Values | None = None, **options: Any) -> list[dict[str, Any]]:
    """All documents that the chart installs, parsed."""
    texts = render(values, **options)
    return [
        document
        for path, text in texts.items()
        if path.endswith(".yaml")
        for document in yaml.safe_load_all(text)
        if document
    ]


def only(found: list[dict[str, Any]], kind: str, name: str | None = None) -> dict[str, Any]:
    """The only document of that kind and name."""
    matching = [
        one for one in found if one["kind"] == kind and name in (None, one["metadata"]["name"])
    ]
    assert len(matching) == 1, f"{len(matching)} documents of kind {kind} called {name}"
    return matching[0]


def examples() -> dict[str, Values]:
    """The values of each file in helm/svdjobs/ci, by name."""
    return {
        path.name.removesuffix("-values.yaml"): yaml.safe_load(path.read_text()) or {}
        for path in sorted((CHART / "ci").glob("*-values.yaml"))
    }


def values_of(settings: ClusterSettings) -> Values:
    """The chart's values that equal the settings: names in camelCase, except those below."""
    given = {camel(key): value for key, value in settings.model_dump(mode="json").items()}
    schedule = given.pop("schedule")
    given["images"] = {camel(key): value for key, value in given["images"].items()}
    for stage in pipeline.STAGES:
        named = given["images"].get(camel(stage.key))
        given["images"][camel(stage.key)] = _parts(named) if named else {}
    given["images"]["registry"] = None
    store = {"url": given.pop("store"), "existingSecret": given.pop("secret")}
    for group in ("gpu", "limits", "proxy", *STAGES):
        given[group] = {camel(key): value for key, value in given[group].items()}
    return {
        **given,
        "store": store,
        "serviceAccount": {"name": given["serviceAccount"]},
        "cron": {"schedules": [schedule]},
    }


def _parts(image: str) -> Values:
    """The chart's value for an image: its name, tag and digest."""
    name, _, digest = image.partition("@")
    repository, _, tag = name.rpartition(":")
    registry, _, rest = repository.partition("/")
    return {"registry": registry, "repository": rest, "tag": tag, "digest": digest or None}


def parsed_patches(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with the podSpecPatch of each template parsed: it is YAML in a string."""
    return {
        **spec,
        "templates": [
            {**template, "podSpecPatch": yaml.safe_load(template["podSpecPatch"])}
            if "podSpecPatch" in template
            else template
            for template in spec["templates"]
        ],
    }


_TOLERATION = {"key": "gpu", "operator": "Exists"}
UNUSUAL = ClusterSettings.model_validate(
    {
        "images": {
            "repository": "team-a/sweeps",
            "tag": "1.0",
            "evaluate": f"registry:5000/evaluate:1.0@sha256:{'0' * 64}",
            "drop_weights": "registry:5000/a/b:2",
        },
        "pull_policy": "Always",
        "extra_env": [{"name": "HF_HUB_OFFLINE", "value": "1"}],
        "extra_env_from": [{"configMapRef": {"name": "more"}}],
        "extra_volumes": [{"name": "data", "emptyDir": {}}],
        "extra_volume_mounts": [{"name": "data", "mountPath": "/data"}],
        "ca_config_map": "authorities",
        "proxy": {"http": "http://p:3128", "https": "http://p:3128", "no_proxy": "s3,10.0.0.0/8"},
        "model_cache": {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}},
        "scratch_class": "fast",
        "protect": True,
        "prometheus": True,
        "initless_pods": True,
        "pull_secrets": ("one", "two"),
        "service_account": "sweeps",
        "secret": "keys",
        "artifacts": True,
        "store": "s3://elsewhere/a/b",
        "user": None,
        "node_selector": {"disk": "fast"},
        "tolerations": ({"key": "batch", "operator": "Exists"},),
        "limits": {
            "parallelism": 7,
            "semaphore": "bounds",
            "retries": 0,
            "pending_timeout": "1h30m",
            "grace_seconds": 1,
            "keep_success_seconds": 0,
            "keep_failure_seconds": 12_000_000,
        },
        "gpu": {
            "resource": "amd.com/gpu",
            "count": 8,
            "shared_memory": "64Gi",
            "runtime_class": "amd",
            "node_selector": {"amd.com/gpu.product": "MI300X"},
            "tolerations": (),
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [
                            {"matchExpressions": [{"key": "a", "operator": "Exists"}]}
                        ]
                    }
                }
            },
            "priority_class": "high",
            "scheduler": "kai",
        },
        "plan": {
            "cpu": "100m",
            "memory": "1.5Gi",
            "cpu_limit": "2",
            "memory_limit": "2Gi",
            "scratch": "3Gi",
            "deadline_seconds": 1_000_000,
            "node_selector": {"disk": "slow"},
            "tolerations": [],
            "affinity": {"podAntiAffinity": {}},
            "priority_class": "low",
            "topology_spread": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}
            ],
        },
        "decompose": {"gpus": 2},
        "metrics": {"gpus": 1, "tolerations": [_TOLERATION]},
        "evaluate": {"deadline_seconds": None},
    }
)
"""Settings that differ from the defaults in most keys."""
