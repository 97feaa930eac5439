"""The parts of a stage's pod that Argo's templates and plain Jobs share, as Kubernetes fields."""

from __future__ import annotations

from typing import Any

from svdjobs import pipeline
from svdjobs.cluster.manifests.settings import ClusterSettings, StageSettings
from svdjobs.errors import EXIT_TERMINATED, EXIT_TRY_AGAIN

LABELS = {"app.kubernetes.io/name": "svdjobs", "app.kubernetes.io/part-of": "svdjobs"}
SCRATCH = "/scratch"
# A pod is retried after these exit codes. After any other, it would fail in the same way again.
TRY_AGAIN = (EXIT_TRY_AGAIN, EXIT_TERMINATED)
# The restricted Pod Security level requires this of every container.
RESTRICTED = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def resources_of(settings: ClusterSettings, stage: str) -> StageSettings:
    """The resources of a stage's pod: the cluster's settings, or the small defaults."""
    resources: StageSettings = getattr(settings, stage, StageSettings.of(pipeline.SMALL))
    return resources


def evaluates(stage: str) -> bool:
    """Whether a stage runs engines, so that its pods use vLLM's image and GPUs."""
    return any(one.name == stage and one.packages == "evaluate" for one in pipeline.STAGES)


def image(settings: ClusterSettings, stage: str, repository: str, tag: str) -> str:
    """The image of a stage's pod; `repository` and `tag` are used unless the settings name it.

    notify runs in the image of plan, which the node has.
    """
    stage = "plan" if stage == "notify" else stage
    if named := getattr(settings.images, pipeline.stage(stage).key):
        return str(named)
    on_cpus = evaluates(stage) and not settings.gpu.count
    return f"{repository}{'' if on_cpus else f'-{stage}'}:{tag}"


def arguments(stage: str, config: str, store: str, more: list[str]) -> list[str]:
    """The arguments of `svdjobs` for a stage; notify reads no config."""
    common = ["--store", store] if stage == "notify" else ["--config", config, "--store", store]
    return [stage, *common, *more]


def container(settings: ClusterSettings, stage: str) -> dict[str, Any]:
    """The fields of a stage's container that Argo's template and a Job share."""
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
    """The volumes of a stage's pod: the scratch disk, and the shared memory of engines."""
    size = resources_of(settings, stage).scratch
    scratch: dict[str, Any] = {"name": "scratch", "emptyDir": {"sizeLimit": size}}
    if not evaluates(stage):
        return [scratch]
    memory = {"medium": "Memory", "sizeLimit": settings.gpu.shared_memory}
    return [scratch, {"name": "shm", "emptyDir": memory}]


def security(settings: ClusterSettings) -> dict[str, Any]:
    """The pod's securityContext that the restricted Pod Security level requires.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    who = {} if settings.user is None else {"runAsUser": settings.user, "runAsGroup": 0}
    return {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **who}


def placement(settings: ClusterSettings, stage: str) -> dict[str, Any]:
    """The fields that choose a pod's nodes, scheduler and priority; empty ones are left out."""
    gpu = settings.gpu
    if not evaluates(stage):
        fields: dict[str, Any] = {
            "nodeSelector": settings.node_selector,
            "tolerations": list(settings.tolerations),
        }
    else:
        fields = {
            "nodeSelector": gpu.node_selector,
            "tolerations": list(gpu.tolerations),
            "affinity": gpu.affinity,
            "priorityClassName": gpu.priority_class,
            "schedulerName": gpu.scheduler,
        }
    return {key: value for key, value in fields.items() if value}
