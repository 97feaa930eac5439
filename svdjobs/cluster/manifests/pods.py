"""The pod of a stage in Kubernetes' own words, for Argo's templates and for plain Jobs."""

from __future__ import annotations

from typing import Any

from svdjobs import pipeline
from svdjobs.cluster.manifests.settings import ClusterSettings, StageSettings
from svdjobs.errors import EXIT_TERMINATED, EXIT_TRY_AGAIN

LABELS = {"app.kubernetes.io/name": "svdjobs", "app.kubernetes.io/part-of": "svdjobs"}
SCRATCH = "/scratch"
# What a stage may end with and be tried again; whatever else it says would be said again.
TRY_AGAIN = (EXIT_TRY_AGAIN, EXIT_TERMINATED)
# What the restricted Pod Security level asks of any container.
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def resources_of(settings: ClusterSettings, stage: str) -> StageSettings:
    """What a pod of the stage gets."""
    found: StageSettings = getattr(settings, stage, StageSettings.of(pipeline.SMALL))
    return found


def evaluates(stage: str) -> bool:
    """Whether a stage runs engines: in vLLM's image, with GPUs, where these are."""
    return any(one.name == stage and one.image == "evaluate" for one in pipeline.STAGES)


def arguments(stage: str, config: str, store: str, more: list[str]) -> list[str]:
    """A stage's command line after `svdjobs`."""
    given = ["--store", store] if stage == "notify" else ["--config", config, "--store", store]
    return [stage, *given, *more]


def container(settings: ClusterSettings, stage: str) -> dict[str, Any]:
    """What all containers of a stage have in common, whatever starts them."""
    own = resources_of(settings, stage)
    requests = {"cpu": own.cpu, "memory": own.memory, "ephemeral-storage": own.scratch}
    limits = {"cpu": own.cpu_limit or own.cpu, "memory": own.memory_limit or own.memory}
    mounts = [{"name": "scratch", "mountPath": SCRATCH}]
    if evaluates(stage):
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    return {
        "imagePullPolicy": settings.pull_policy,
        "command": ["svdjobs"],
        "workingDir": SCRATCH,
        "envFrom": [{"secretRef": {"name": settings.secret, "optional": True}}],
        "resources": {"requests": requests, "limits": {**requests, **limits}},
        "volumeMounts": mounts,
        "securityContext": {**RESTRICTED, "readOnlyRootFilesystem": True},
    }


def volumes(settings: ClusterSettings, stage: str) -> list[dict[str, Any]]:
    """Scratch disk, and the shared memory of engines."""
    size = resources_of(settings, stage).scratch
    found: list[dict[str, Any]] = [{"name": "scratch", "emptyDir": {"sizeLimit": size}}]
    if evaluates(stage):
        memory = {"medium": "Memory", "sizeLimit": settings.gpu.shared_memory}
        found.append({"name": "shm", "emptyDir": memory})
    return found


def security(settings: ClusterSettings) -> dict[str, Any]:
    """What the restricted Pod Security level asks of a pod.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    who = {} if settings.user is None else {"runAsUser": settings.user, "runAsGroup": 0}
    return {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **who}


def placement(settings: ClusterSettings, stage: str) -> dict[str, Any]:
    """Which nodes a pod may go to, and before whom; only what is said, so nothing is empty."""
    gpu = settings.gpu
    if not evaluates(stage):
        found: dict[str, Any] = {
            "nodeSelector": settings.node_selector,
            "tolerations": list(settings.tolerations),
        }
    else:
        found = {
            "nodeSelector": gpu.node_selector,
            "tolerations": list(gpu.tolerations),
            "affinity": gpu.affinity,
            "priorityClassName": gpu.priority_class,
            "schedulerName": gpu.scheduler,
        }
    return {key: value for key, value in found.items() if value}
