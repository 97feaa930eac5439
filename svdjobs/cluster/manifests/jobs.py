"""Write the stages as plain Kubernetes Jobs, for clusters without Argo; files are applied in order.

A fan-out is an Indexed Job: each of the n indices does every n-th shard of the run's list. If an
index fails, the others go on.
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
from svdjobs.runs.checkpoints import hub_sources

FOLDER = Path("jobs/kubernetes")
CONFIG_FOLDER = "/etc/svdjobs"
CONFIG_FILE = "sweep.yaml"
# A Job's name is the sweep's name and a stage, its pods' names add an index and a hash, and a label
# has at most 63 characters.
NAME_LENGTH = 30
_Documents = list[dict[str, Any]]


def documents(config: SweepConfig, text: str, settings: ClusterSettings) -> dict[Path, _Documents]:
    """Manifests by file; the numbers in the files' names are the order in which to apply them."""
    run = run_name(config)
    counts = {
        "fetch": len(hub_sources(config)),
        "decompose": len(shards.decompose_shards(config, None)),
        "blend": len(config.alphas),
        "evaluate-after": len(shards.evaluations(config, "after")),
        "evaluate": len(shards.evaluations(config)),
    }

    def job(stage: str, *args: str, count: int | None = None, name: str = "") -> _Documents:
        indexed = ("--index", "$(JOB_COMPLETION_INDEX)", "--of", str(count)) if count else ()
        return [_job(settings, run, stage, [*args, *indexed], name=name or stage, count=count)]

    files: dict[str, _Documents] = {"config": [_account(settings), _config_map(run, text)]}
    for task in pipeline.tasks():
        stage = pipeline.stage(task.stage)
        # The chains `alphas` and `baselines` both have a task `evaluate`. One Job does them all,
        # and the variants.
        if task.name in files or task.unless_kept or not stage.wanted(config):
            continue
        if task.stage == "plan":
            files["plan"] = job("plan", "--units-dir", f"{pods.SCRATCH}/units")
        elif not stage.options:
            files[task.name] = job(task.stage)
        elif count := counts.get(task.name):
            # A value in braces is an item of a chain; the Job's index chooses it instead.
            fixed = [
                word
                for name, value in task.given.items()
                if "{" not in value
                for word in (stage.options[name], value)
            ]
            files[task.name] = job(task.stage, *fixed, count=count, name=task.name)
    return {
        FOLDER / f"{10 * number:02d}-{name}.yaml": items
        for number, (name, items) in enumerate(files.items())
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
    """The Job of one stage; with `count`, an Indexed Job of that many indices."""
    limits, deadline = settings.limits, pods.resources_of(settings, stage).deadline_seconds
    labels = {**pods.LABELS, "svdjobs.io/stage": stage, "svdjobs.io/run": run}
    fail = "FailIndex" if count else "FailJob"
    spec: dict[str, Any] = {
        # An eviction does not count as a failed attempt. An exit code outside TRY_AGAIN fails the
        # Job, or the index, at once.
        "podFailurePolicy": {
            "rules": [
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
                {
                    "action": fail,
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
    # The deadline is the whole Job's. A pod's own deadline ends it with SIGTERM, as an eviction
    # does, so the pod would be retried.
    if deadline:
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
                "image": pods.image(
                    settings, stage, settings.images.repository, settings.images.tag
                ),
                **container,
                "args": pods.arguments(stage, path, settings.store, args),
            }
        ],
        "volumes": [
            *pods.volumes(settings, stage),
            {"name": "config", "configMap": {"name": f"{run}-config"}},
        ],
    }
    spec |= pods.beside(settings, stage)
    if settings.pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.pull_secrets]
    return spec
