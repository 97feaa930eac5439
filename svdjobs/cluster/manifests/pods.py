"""The parts of a stage's pod that Argo's templates and plain Jobs share, as Kubernetes fields."""

from __future__ import annotations

from typing import Any

from svdjobs import pipeline
from svdjobs.cluster.manifests.settings import ClusterSettings, StageSettings
from svdjobs.errors import EXIT_TERMINATED, EXIT_TRY_AGAIN

LABELS = {"app.kubernetes.io/name": "svdjobs", "app.kubernetes.io/part-of": "svdjobs"}
SCRATCH, MODELS, AUTHORITIES = "/scratch", "/models", "/etc/svdjobs/ca"
# How the libraries of the images are told which certificates to trust.
_TRUST = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
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


def on_gpus(settings: ClusterSettings, stage: str) -> bool:
    """Whether a stage's pods go to GPU nodes."""
    return evaluates(stage) or resources_of(settings, stage).gpus > 0


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
    requests = {"cpu": own.cpu, "memory": own.memory}
    if settings.scratch_class is None:
        requests["ephemeral-storage"] = own.scratch
    if own.gpus and not evaluates(stage):
        requests[settings.gpu.resource] = str(own.gpus)
    limits = {"cpu": own.cpu_limit or own.cpu, "memory": own.memory_limit or own.memory}
    mounts: list[dict[str, Any]] = [{"name": "scratch", "mountPath": SCRATCH}]
    if evaluates(stage):
        mounts.append({"name": "shm", "mountPath": "/dev/shm"})
    if settings.ca_config_map:
        mounts.append({"name": "ca", "mountPath": AUTHORITIES, "readOnly": True})
    if settings.model_cache:
        mounts.append({"name": "models", "mountPath": MODELS, "readOnly": True})
    env = environment(settings)
    return {
        "imagePullPolicy": settings.pull_policy,
        "command": ["svdjobs"],
        "workingDir": SCRATCH,
        **({"env": env} if env else {}),
        "envFrom": [
            {"secretRef": {"name": settings.secret, "optional": True}},
            *settings.extra_env_from,
        ],
        "resources": {"requests": requests, "limits": {**requests, **limits}},
        "volumeMounts": [*mounts, *settings.extra_volume_mounts],
        "securityContext": {**RESTRICTED, "readOnlyRootFilesystem": True},
    }


def environment(settings: ClusterSettings) -> list[dict[str, Any]]:
    """The environment variables that the settings give to every pod."""
    given = dict.fromkeys(_TRUST, f"{AUTHORITIES}/ca.crt") if settings.ca_config_map else {}
    proxy = settings.proxy
    proxies = {"HTTPS_PROXY": proxy.https, "HTTP_PROXY": proxy.http, "NO_PROXY": proxy.no_proxy}
    given |= {name: value for name, value in proxies.items() if value}
    if settings.model_cache:
        given["HF_HUB_CACHE"] = MODELS
    named = [{"name": name, "value": value} for name, value in given.items()]
    return [*named, *settings.extra_env]


def volumes(settings: ClusterSettings, stage: str) -> list[dict[str, Any]]:
    """The volumes of a stage's pod: the scratch disk, the shared memory of engines, and those that
    the settings name."""
    found = [{"name": "scratch", **_scratch(settings, resources_of(settings, stage).scratch)}]
    if evaluates(stage):
        memory = {"medium": "Memory", "sizeLimit": settings.gpu.shared_memory}
        found.append({"name": "shm", "emptyDir": memory})
    if settings.ca_config_map:
        found.append({"name": "ca", "configMap": {"name": settings.ca_config_map}})
    if settings.model_cache:
        found.append({"name": "models", **settings.model_cache})
    return [*found, *settings.extra_volumes]


def _scratch(settings: ClusterSettings, size: str) -> dict[str, Any]:
    """The source of the scratch disk: of the node, or of a StorageClass."""
    if settings.scratch_class is None:
        return {"emptyDir": {"sizeLimit": size}}
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": settings.scratch_class,
        "resources": {"requests": {"storage": size}},
    }
    return {"ephemeral": {"volumeClaimTemplate": {"spec": spec}}}


def security(settings: ClusterSettings) -> dict[str, Any]:
    """The pod's securityContext that the restricted Pod Security level requires.

    Source: https://kubernetes.io/docs/concepts/security/pod-security-standards/
    """
    who = {} if settings.user is None else {"runAsUser": settings.user, "runAsGroup": 0}
    if who and settings.scratch_class is not None:
        who["fsGroup"] = 0  # a new volume belongs to root
    return {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **who}


def placement(settings: ClusterSettings, stage: str) -> dict[str, Any]:
    """The fields that choose a pod's nodes, scheduler and priority; empty ones are left out."""
    own, gpu, gpus = resources_of(settings, stage), settings.gpu, on_gpus(settings, stage)
    common = gpu if gpus else settings

    def chosen(mine: Any, others: Any) -> Any:
        return others if mine is None else mine

    fields: dict[str, Any] = {
        "nodeSelector": chosen(own.node_selector, common.node_selector),
        "tolerations": list(chosen(own.tolerations, common.tolerations)),
        "affinity": chosen(own.affinity, gpu.affinity if gpus else None),
        "priorityClassName": chosen(own.priority_class, gpu.priority_class if gpus else None),
        "schedulerName": gpu.scheduler if gpus else None,
    }
    return {key: value for key, value in fields.items() if value}


def beside(settings: ClusterSettings, stage: str) -> dict[str, Any]:
    """The fields of a pod that an Argo template lacks."""
    own = resources_of(settings, stage)
    found: dict[str, Any] = {}
    if on_gpus(settings, stage) and settings.gpu.runtime_class:
        found["runtimeClassName"] = settings.gpu.runtime_class
    if own.topology_spread:
        found["topologySpreadConstraints"] = list(own.topology_spread)
    return found
