"""The stages as plain Kubernetes Jobs, for clusters without Argo: applied one file after another.

A fan-out is an Indexed Job: of the run's own list of units, an index does every n-th. A failed
index fails alone.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from svdjobs import pipeline
from svdjobs.cluster.manifests import pods
from svdjobs.cluster.manifests.settings import ClusterSettings
from svdjobs.cluster.names import stem
from svdjobs.config import SweepConfig
from svdjobs.runs import shards

FOLDER = Path("jobs/kubernetes")
CONFIG_FOLDER = "/etc/svdjobs"
CONFIG_FILE = "sweep.yaml"
# Names of Jobs end in a stage and of their pods in an index and a hash; labels end at 63.
NAME_LENGTH = 30
_Documents = list[dict[str, Any]]


def documents(config: SweepConfig, text: str, settings: ClusterSettings) -> dict[Path, _Documents]:
    """Manifests by file, numbered in the order to apply them in."""
    run = run_name(config)
    counts = {
        "decompose": len(shards.decompose_shards(config, None)),
        "blend": len(config.alphas),
        "evaluate-after": len(shards.evaluations(config, "after")),
        "evaluate": len(shards.evaluations(config)),
    }

    def job(stage: str, *args: str, count: int | None = None, name: str = "") -> _Documents:
        indexed = ("--index", "$(JOB_COMPLETION_INDEX)", "--of", str(count)) if count else ()
        return [_job(settings, run, stage, [*args, *indexed], name=name or stage, count=count)]

    found: dict[str, _Documents] = {"config": [_account(settings), _config_map(run, text)]}
    for task in pipeline.tasks():
        stage = pipeline.stage(task.stage)
        # A Job evaluates all but after, whatever chain they belong to.
        if task.name in found or task.unless_kept or not stage.wanted(config):
            continue
        if task.stage == "plan":
            found["plan"] = job("plan", "--units-dir", f"{pods.SCRATCH}/units")
        elif not stage.options:
            found[task.name] = job(task.stage)
        elif count := counts[task.name]:
            own = [
                word
                for name, value in task.given.items()
                if "{" not in value
                for word in (stage.options[name], value)
            ]
            found[task.name] = job(task.stage, *own, count=count, name=task.name)
    return {
        FOLDER / f"{10 * place:02d}-{name}.yaml": items
        for place, (name, items) in enumerate(found.items())
    }


def run_name(config: SweepConfig) -> str:
    """The sweep's name as part of a Kubernetes name."""
    return f"svdjobs-{stem(config.name, NAME_LENGTH)}"


def _account(settings: ClusterSettings) -> dict[str, Any]:
    metadata = {"name": settings.service_account, "labels": pods.LABELS}
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}


def _config_map(run: str, text: str) -> dict[str, Any]:
    metadata = {"name": f"{run}-config", "labels": pods.LABELS}
    data = {CONFIG_FILE: text}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def _job(
    settings: ClusterSettings,
    run: str,
    stage: str,
    args: list[str],
    *,
    name: str,
    count: int | None,
) -> dict[str, Any]:
    """One stage; with a `count`, its units as an Indexed Job."""
    limits, deadline = settings.limits, pods.resources_of(settings, stage).deadline_seconds
    labels = {**pods.LABELS, "svdjobs.io/stage": stage, "svdjobs.io/run": run}
    gone = "FailIndex" if count else "FailJob"
    spec: dict[str, Any] = {
        # Of a pod that was evicted nothing is counted; of what a stage ends with, only this is
        # worth another attempt.
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
                {
                    "action": gone,
                    "onExitCodes": {
                        "containerName": "main",
                        "operator": "NotIn",
                        "values": sorted(pods.TRY_AGAIN),
                    },
                },
            ]
        },
        "ttlSecondsAfterFinished": limits.keep_failure_seconds,
        "template": {
            "metadata": {"labels": labels},
            "spec": _pod(settings, run, stage, args),
        },
    }
    if count:
        spec |= {
            "completionMode": "Indexed",
            "completions": count,
            "parallelism": min(count, limits.parallelism),
            "backoffLimitPerIndex": limits.retries,
            "maxFailedIndexes": count,
        }
    else:
        spec["backoffLimit"] = limits.retries
    if deadline:  # of the whole Job: a pod's own would end it like an eviction, to be tried again
        rounds = math.ceil((count or 1) / limits.parallelism)
        spec["activeDeadlineSeconds"] = deadline * rounds
    metadata = {"name": f"{run}-{name}", "labels": labels}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def _pod(settings: ClusterSettings, run: str, stage: str, args: list[str]) -> dict[str, Any]:
    evaluates = stage == "evaluate"
    container = pods.container(settings, stage)
    if evaluates and settings.gpu.count:
        gpus = {settings.gpu.resource: str(settings.gpu.count)}
        for amounts in container["resources"].values():
            amounts.update(gpus)
    container["volumeMounts"].append({"name": "config", "mountPath": CONFIG_FOLDER})
    path = f"{CONFIG_FOLDER}/{CONFIG_FILE}"
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": settings.service_account,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": settings.limits.grace_seconds,
        "securityContext": pods.security(settings),
        **pods.placement(settings, stage),
        "containers": [
            {
                "name": "main",
                "image": settings.evaluate_image if evaluates else settings.image,
                **container,
                "args": pods.arguments(stage, path, settings.store, args),
            }
        ],
        "volumes": [
            *pods.volumes(settings, stage),
            {"name": "config", "configMap": {"name": f"{run}-config"}},
        ],
    }
    if evaluates and settings.gpu.runtime_class:
        spec["runtimeClassName"] = settings.gpu.runtime_class
    if settings.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    return spec
