"""The pod of a stage: image, command, resources, security and when it is tried again.

The same for Argo's container templates and for plain Jobs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from svdjobs.cluster.settings import ClusterSettings, StageSettings
from svdjobs.errors import EXIT_TERMINATED, EXIT_TRY_AGAIN

if TYPE_CHECKING:
    from hera.workflows import Container
    from hera.workflows import models as m

LABELS = {"app.kubernetes.io/name": "svdjobs", "app.kubernetes.io/part-of": "svdjobs"}
CONFIG_VARIABLE = "SVDJOBS_CONFIG"
SCRATCH = "/scratch"
# A pod that was deleted or evicted has no exit code of its own; Argo says -1 then.
NO_EXIT_CODE = -1
# Tried again: an unavailable store, a terminated or lost pod. Not: anything else the stage says,
# a deadline (it would be missed again), too little memory (it would be too little again).
RETRY = (
    f"(asInt(lastRetry.exitCode) in [{EXIT_TRY_AGAIN}, {NO_EXIT_CODE}, {EXIT_TERMINATED}]"
    " || lastRetry.message matches '(?i)node shutdown|evict|preempt|pod deleted|node lost')"
    " && !(lastRetry.message matches '(?i)deadline|OOMKilled')"
)
# Small work of the control plane, in pods that need neither torch nor a GPU.
SMALL = StageSettings(cpu="500m", memory="1Gi", scratch="1Gi", deadline_seconds=600)


def resources_of(settings: ClusterSettings, stage: str) -> StageSettings:
    """What a pod of the stage gets."""
    found: StageSettings = getattr(settings, stage, SMALL)
    return found


def leaf(
    settings: ClusterSettings,
    stage: str,
    args: list[str],
    *,
    inputs: list[Any],
    outputs: list[Any] | None = None,
) -> Container:
    """The Argo template of a stage."""
    from hera.workflows import Container
    from hera.workflows import models as m

    evaluates = stage == "evaluate"
    own = resources_of(settings, stage)
    limits = settings.limits
    semaphore = limits.semaphore if evaluates else None
    return Container(
        name=stage,
        image=f"{{{{workflow.parameters.{'evaluate-image' if evaluates else 'image'}}}}}",
        image_pull_policy=settings.pull_policy,
        command=["svdjobs"],
        args=arguments(stage, f"env:{CONFIG_VARIABLE}", "{{workflow.parameters.store}}", args),
        env=[m.EnvVar(name=CONFIG_VARIABLE, value="{{workflow.parameters.config}}")]
        if stage != "notify"
        else None,
        env_from=environment(settings),
        inputs=inputs or None,
        outputs=outputs,
        resources=resources(own),
        security_context=container_security(),
        volume_mounts=mounts(evaluates),
        volumes=volumes(settings, stage),
        labels={"svdjobs.io/stage": stage},
        node_selector=node_selector(settings, evaluates),
        tolerations=tolerations(settings, evaluates),
        affinity=m.Affinity.model_validate(settings.gpu.affinity)
        if evaluates and settings.gpu.affinity
        else None,
        priority_class_name=settings.gpu.priority_class if evaluates else None,
        scheduler_name=settings.gpu.scheduler if evaluates else None,
        active_deadline_seconds=own.deadline_seconds,
        pod_spec_patch=patch(settings, evaluates),
        retry_strategy=m.RetryStrategy(
            limit=str(limits.retries),
            retry_policy="Always",
            expression=RETRY,
            backoff=m.Backoff(duration="10s", factor="2", max_duration="10m"),
        ),
        synchronization=m.Synchronization(
            semaphores=[
                m.SemaphoreRef(
                    config_map_key_ref=m.ConfigMapKeySelector(name=semaphore, key="evaluate")
                )
            ]
        )
        if semaphore
        else None,
    )


def arguments(stage: str, config: str, store: str, more: list[str]) -> list[str]:
    """A stage's command line after `svdjobs`."""
    given = ["--store", store] if stage == "notify" else ["--config", config, "--store", store]
    return [stage, *given, *more]


def patch(settings: ClusterSettings, evaluates: bool) -> str:
    """What a template cannot say literally: the number of GPUs is a parameter, which `resources`
    may not contain."""
    spec: dict[str, Any] = {"terminationGracePeriodSeconds": settings.limits.grace_seconds}
    if evaluates:
        gpus = {settings.gpu.resource: "{{workflow.parameters.gpus}}"}
        main = {"name": "main", "resources": {"limits": gpus, "requests": gpus}}
        spec["containers"] = [main]
        if settings.gpu.runtime_class:
            spec["runtimeClassName"] = settings.gpu.runtime_class
    return json.dumps(spec, sort_keys=True)


def resources(own: StageSettings) -> m.ResourceRequirements:
    """Requests and limits of a container."""
    from hera.workflows import models as m

    requests = {"cpu": own.cpu, "memory": own.memory, "ephemeral-storage": own.scratch}
    limits = {
        **requests,
        "cpu": own.cpu_limit or own.cpu,
        "memory": own.memory_limit or own.memory,
    }
    return m.ResourceRequirements.model_validate({"requests": requests, "limits": limits})


def environment(settings: ClusterSettings) -> list[m.EnvFromSource]:
    """Credentials and endpoints, from the one Secret."""
    from hera.workflows import models as m

    secret = m.SecretEnvSource(name=settings.secret, optional=True)
    return [m.EnvFromSource(secret_ref=secret)]


def volumes(settings: ClusterSettings, stage: str) -> list[m.Volume]:
    """Scratch disk, and the shared memory of engines."""
    from hera.workflows import models as m

    size = resources_of(settings, stage).scratch
    found = [m.Volume.model_validate({"name": "scratch", "emptyDir": {"sizeLimit": size}})]
    if stage == "evaluate":
        memory = {"medium": "Memory", "sizeLimit": settings.gpu.shared_memory}
        found.append(m.Volume.model_validate({"name": "shm", "emptyDir": memory}))
    return found


def mounts(evaluates: bool) -> list[m.VolumeMount]:
    """Where the volumes appear."""
    from hera.workflows import models as m

    found = [m.VolumeMount(name="scratch", mount_path=SCRATCH)]
    if evaluates:
        found.append(m.VolumeMount(name="shm", mount_path="/dev/shm"))
    return found


def pod_security(settings: ClusterSettings) -> m.PodSecurityContext:
    """What the restricted Pod Security level asks of a pod."""
    from hera.workflows import models as m

    who = {} if settings.user is None else {"runAsUser": settings.user, "runAsGroup": 0}
    return m.PodSecurityContext.model_validate(
        {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **who}
    )


def container_security() -> m.SecurityContext:
    """What it asks of a container, and a root file system that cannot be written."""
    from hera.workflows import models as m

    return m.SecurityContext.model_validate(
        {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        }
    )


def node_selector(settings: ClusterSettings, evaluates: bool) -> dict[str, str] | None:
    """Nodes the pod may run on."""
    return (settings.gpu.node_selector if evaluates else settings.node_selector) or None


def tolerations(settings: ClusterSettings, evaluates: bool) -> list[m.Toleration] | None:
    """Taints the pod does not mind."""
    from hera.workflows import models as m

    chosen = settings.gpu.tolerations if evaluates else settings.tolerations
    return [m.Toleration.model_validate(item) for item in chosen] or None
