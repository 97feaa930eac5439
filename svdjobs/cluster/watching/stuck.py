"""Refuse to wait for pods that Argo itself would wait for, for ever or to no purpose."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from svdjobs import escape
from svdjobs.cluster.api import Cluster, Document
from svdjobs.cluster.watching.logs import pods_of
from svdjobs.cluster.watching.status import WorkflowTree, time_of
from svdjobs.errors import ClusterError, RefusedError

# Why a container does not start, as the kubelet says it; Argo begins a pod's message with it.
NO_IMAGE = (
    "ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName",
    "ImageInspectError", "RegistryUnavailable",
)  # fmt: skip
# The containers that Argo adds to a pod and that tell it the pod's results.
EXECUTORS = ("wait", "supervisor")
PATIENCE_SECONDS = 600.0
# Pods are listed at most so often.
LOOK_SECONDS = 60.0


class StuckError(ClusterError):
    """Pods wait for an image that they do not get, or have lost Argo's container."""


class Patience:
    """Looks at a Workflow each time that it is shown, and at its pods now and then."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._looked: datetime | None = None

    def check(self, run: WorkflowTree, now: datetime) -> None:
        """Raise a StuckError if pods have been stuck for `PATIENCE_SECONDS`."""
        _refuse_without_image(run, now)
        if self._looked is None or (now - self._looked).total_seconds() >= LOOK_SECONDS:
            self._looked = now
            with suppress(RefusedError):  # who may watch Workflows need not see pods
                _refuse_without_executor(run, pods_of(self._cluster, run.name), now)


def _refuse_without_image(run: WorkflowTree, now: datetime) -> None:
    stuck = [
        leaf
        for leaf in run.leaves()
        if leaf.phase == "Pending" and leaf.started and leaf.message.startswith(NO_IMAGE)
        if (now - leaf.started).total_seconds() > PATIENCE_SECONDS
    ]
    if stuck:
        raise StuckError(
            f"{len(stuck)} pods of Workflow {run.name} have not got their image for "
            f"{PATIENCE_SECONDS / 60:.0f} minutes, e.g. {stuck[0].path}: "
            f"{escape.line(stuck[0].message)}. Correct the image's name, or pull_secrets in the "
            f"cluster settings (pullSecrets of the chart), then submit again. Delete this "
            f"Workflow: its pods would wait for ever, also if it is stopped."
        )


class _Death(NamedTuple):
    """How an executor's container ended."""

    container: str
    reason: str
    code: int
    at: datetime


def _refuse_without_executor(
    run: WorkflowTree, pods: Mapping[str, Document], now: datetime
) -> None:
    """Argo learns a pod's results from its own container. If that is killed while the stage's
    container runs, the node is Running until that ends, hours later, and then an Error."""
    deaths = {
        node: death
        for node, pod in pods.items()
        if (death := _death(pod)) and (now - death.at).total_seconds() > PATIENCE_SECONDS
    }
    stuck = [
        (leaf, deaths[leaf.pod_nodes[-1]])
        for leaf in run.leaves()
        if leaf.phase == "Running" and leaf.pod_nodes and leaf.pod_nodes[-1] in deaths
    ]
    if stuck:
        leaf, death = stuck[0]
        raise StuckError(
            f"{len(stuck)} pods of Workflow {run.name} have lost Argo's container "
            f"{death.container} more than {PATIENCE_SECONDS / 60:.0f} minutes ago, e.g. "
            f"{leaf.path}: {escape.line(death.reason)} (exit code {death.code}). Argo would call "
            f"them failed at their end, whatever they do. Give that container more memory "
            f"(executor.resources in the ConfigMap of Argo's controller, or the namespace's "
            f"LimitRange), stop this Workflow and submit again; what is finished is kept."
        )


def _death(pod: Document) -> _Death | None:
    """How the executor's container of a pod ended; None if it runs or has ended well."""
    for container in (pod.get("status") or {}).get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated") or {}
        at = time_of(ended.get("finishedAt"))
        if container["name"] in EXECUTORS and ended.get("exitCode") and at:
            reason = ended.get("reason") or "Error"
            return _Death(container["name"], reason, ended["exitCode"], at)
    return None
