"""What a cluster must be told: images, resources, GPUs, limits. Every key has a default."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, create_model

from svdjobs import __version__, pipeline, yaml_core
from svdjobs.config_file import read_text, validated
from svdjobs.settings import Settings

Quantity = str
"""A Kubernetes quantity, e.g. 500m, 4 or 16Gi."""


class StageSettings(Settings):
    """What one pod of a stage gets."""

    cpu: Quantity = "4"
    """Requested: what the scheduler sets aside."""
    memory: Quantity = "16Gi"
    """Requested, too."""
    cpu_limit: Quantity | None = None
    """Default: as requested, so that nothing is overcommitted."""
    memory_limit: Quantity | None = None
    """Default: as requested. A pod that needs more is killed."""
    scratch: Quantity = "20Gi"
    """Size limit of /scratch, and request of ephemeral storage."""
    deadline_seconds: int | None = Field(default=None, ge=1)
    """Longest time of one attempt; None: as long as it takes."""

    @classmethod
    def of(cls, resources: pipeline.Resources) -> StageSettings:
        """What the pipeline says a stage needs."""
        return cls.model_validate(asdict(resources))


class GpuSettings(Settings):
    """Where evaluation pods run and what they ask for."""

    resource: str = "nvidia.com/gpu"
    """What the cluster's device plugin calls a GPU."""
    count: int = Field(default=1, ge=0)
    """GPUs per pod; should equal evaluate.tensor_parallel_size. 0 evaluates on CPUs."""
    shared_memory: Quantity = "8Gi"
    """Size of /dev/shm, which engines with several GPUs pass tensors through."""
    runtime_class: str | None = None
    """RuntimeClass of the pods, where GPUs need one of their own, e.g. nvidia."""
    node_selector: dict[str, str] = Field(default={})
    """E.g. {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}."""
    tolerations: tuple[dict[str, Any], ...] = (
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    )
    """Taints of GPU nodes that the pods put up with, as Kubernetes spells them."""
    affinity: dict[str, Any] = Field(default={})
    """Affinity of the pods, as Kubernetes spells it."""
    priority_class: str | None = None
    """PriorityClass of the pods."""
    scheduler: str | None = None
    """Name of the scheduler that places the pods; default: the cluster's."""


class LimitSettings(Settings):
    """How much runs at once, and how long what is over stays."""

    parallelism: int = Field(default=64, ge=1)
    """Pods of one workflow at a time."""
    semaphore: str | None = None
    """A ConfigMap whose key `evaluate` bounds the evaluation pods of all workflows together."""
    retries: int = Field(default=5, ge=0)
    """Further attempts of a pod that was evicted, or whose store did not answer."""
    grace_seconds: int = Field(default=60, ge=1)
    """Between SIGTERM and SIGKILL: to keep completions and abort uploads."""
    keep_success_seconds: int = Field(default=86_400, ge=0)
    """How long a workflow that succeeded stays listed."""
    keep_failure_seconds: int = Field(default=604_800, ge=0)
    """How long one that failed stays listed."""


class CommonSettings(Settings):
    """Everything the generated manifests depend on besides the sweep."""

    image: str = f"svdjobs:{__version__}"
    """Of all stages but evaluate."""
    evaluate_image: str = f"svdjobs-evaluate:{__version__}"
    """Of evaluate."""
    pull_policy: str = "IfNotPresent"
    """When nodes pull images: IfNotPresent, Always or Never."""
    pull_secrets: tuple[str, ...] = ()
    """Secrets with the registry's credentials."""
    service_account: str = "svdjobs"
    """Of all pods; must exist in the namespace."""
    secret: str = "svdjobs-store"
    """A Secret whose keys become environment variables: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
    HF_TOKEN, SVDJOBS_NOTIFY_URL… It may be absent, e.g. where a role of the service account grants
    access."""
    store: str = "s3://svdjobs/demo"
    """Default of the workflow's `store` parameter."""
    artifacts: bool = False
    """Also hand the report, its figures and junit.xml, and the gate's verdict, to Argo as
    artifacts; the controller needs an artifact repository for that. Weights never are."""
    user: int | None = 10001
    """User id of all containers; None lets the cluster choose, as OpenShift does."""
    schedule: str = "0 2 * * *"
    """Of the nightly sweep, in UTC."""
    node_selector: dict[str, str] = Field(default={})
    """Of all pods but evaluation's."""
    tolerations: tuple[dict[str, Any], ...] = ()
    """Of all pods but evaluation's."""
    limits: LimitSettings = LimitSettings()
    gpu: GpuSettings = GpuSettings()


def _stages() -> dict[str, Any]:
    """A section for each stage, under its name, with what the pipeline says it needs."""
    return {
        stage.name: (StageSettings, StageSettings.of(stage.resources))
        for stage in pipeline.STAGES
        if stage.resources is not pipeline.SMALL
    }


if TYPE_CHECKING:
    ClusterSettings = CommonSettings
else:
    ClusterSettings = create_model(
        "ClusterSettings", __base__=CommonSettings, __module__=__name__, **_stages()
    )


def load_settings(path: Path | None) -> ClusterSettings:
    """Settings from a YAML file; the defaults without one.

    Raises:
        ConfigError: unreadable, or with unknown keys or bad values; all of them are named.
    """
    if path is None:
        return ClusterSettings()
    where = f"cluster settings {path}"
    text = read_text(path, "cluster settings", "docs/cluster.md")
    return validated(ClusterSettings, yaml_core.load(text, where) or {}, where=where)
