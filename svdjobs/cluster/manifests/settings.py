"""Cluster settings: images, resources, GPUs, limits. Every key has a default.

A docstring under each field is its documentation, which `svdjobs keys --cluster` prints.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model, model_validator

from svdjobs import __version__, pipeline, yaml_core
from svdjobs.config_file import read_text, validated
from svdjobs.settings import Settings

Quantity = str
"""A Kubernetes quantity, e.g. 500m, 4 or 16Gi."""


class StageSettings(Settings):
    """Resources of one pod of a stage."""

    cpu: Quantity = "4"
    """CPUs that the scheduler reserves (the request)."""
    memory: Quantity = "16Gi"
    """Memory that the scheduler reserves (the request)."""
    cpu_limit: Quantity | None = None
    """Most CPUs of the pod; default: `cpu`, so that no node is overcommitted."""
    memory_limit: Quantity | None = None
    """Most memory of the pod, which is killed if it needs more; default: `memory`."""
    scratch: Quantity = "10Gi"
    """Size limit of /scratch, and request of ephemeral storage."""
    gpus: int = Field(default=0, ge=0)
    """GPUs of a pod that computes on them (`compute.device` of the sweep), with an image that can
    (images/README.md). Evaluation pods get `gpu.count` instead."""
    node_selector: dict[str, str] | None = None
    """Labels that a node must have. null: `gpu.node_selector` for pods with GPUs, `node_selector`
    for others."""
    tolerations: tuple[dict[str, Any], ...] | None = None
    """Taints that the pods tolerate, as Kubernetes spells them. null: `gpu.tolerations` for pods
    with GPUs, `tolerations` for others."""
    affinity: dict[str, Any] | None = None
    """Affinity of the pods, as Kubernetes spells it. null: `gpu.affinity` for pods with GPUs."""
    topology_spread: tuple[dict[str, Any], ...] = ()
    """topologySpreadConstraints of the pods, as Kubernetes spells them."""
    priority_class: str | None = None
    """PriorityClass of the pods. null: `gpu.priority_class` for pods with GPUs."""
    deadline_seconds: int | None = Field(default=None, ge=1)
    """Time limit of one attempt in seconds; None: no limit. A plain Job is limited as a whole, with
    retries and waiting: to this many seconds for every `limits.parallelism` pods."""

    @classmethod
    def of(cls, resources: pipeline.Resources) -> StageSettings:
        """The settings that equal a stage's defaults in `svdjobs.pipeline`."""
        return cls.model_validate(asdict(resources))


class GpuSettings(Settings):
    """GPUs of evaluation pods, and the nodes they run on."""

    resource: str = "nvidia.com/gpu"
    """Resource name of a GPU, as the cluster's device plugin spells it."""
    count: int = Field(default=1, ge=0)
    """GPUs per pod; should equal evaluate.tensor_parallel_size. 0 evaluates on CPUs."""
    shared_memory: Quantity = "8Gi"
    """Size of /dev/shm, through which an engine on several GPUs passes tensors."""
    runtime_class: str | None = None
    """RuntimeClass of the pods, if GPUs need one, e.g. nvidia."""
    node_selector: dict[str, str] = Field(default={})
    """Labels that a node must have, e.g. {nvidia.com/gpu.product: NVIDIA-H100-80GB-HBM3}."""
    tolerations: tuple[dict[str, Any], ...] = (
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
    )
    """Taints of GPU nodes that the pods tolerate, as Kubernetes spells them."""
    affinity: dict[str, Any] = Field(default={})
    """Affinity of the pods, as Kubernetes spells it."""
    priority_class: str | None = None
    """PriorityClass of the pods."""
    scheduler: str | None = None
    """Name of the scheduler that places the pods; default: the cluster's."""


class CommonImageSettings(Settings):
    """Images: a stage's is REPOSITORY-STAGE:TAG, unless a key of the stage gives another, with
    a tag or a digest. Evaluations on CPUs run in the cpu image, REPOSITORY:TAG."""

    repository: str = "svdjobs"
    """What the names of all images begin with, e.g. registry.example/team/svdjobs."""
    tag: str = __version__
    """Tag of all images."""


def _image_keys() -> dict[str, Any]:
    """A key for each stage, with another image."""
    return {
        stage.key: (
            str | None,
            Field(default=None, description=f"Another image of the stage {stage.name}."),
        )
        for stage in pipeline.STAGES
    }


if TYPE_CHECKING:
    ImageSettings = CommonImageSettings
else:
    ImageSettings = create_model(
        "ImageSettings",
        __base__=CommonImageSettings,
        __module__=__name__,
        __doc__=CommonImageSettings.__doc__,
        **_image_keys(),
    )


class LimitSettings(Settings):
    """How many pods run at once, how often they are retried, how long ended Workflows stay."""

    parallelism: int = Field(default=64, ge=1)
    """Most pods of one Workflow at a time."""
    semaphore: str | None = None
    """A ConfigMap; its key `evaluate` limits the evaluation pods of all Workflows together."""
    retries: int = Field(default=5, ge=0)
    """Retries of a pod that was evicted, or whose store did not answer."""
    grace_seconds: int = Field(default=60, ge=1)
    """Seconds between SIGTERM and SIGKILL, in which a pod keeps completions and aborts uploads."""
    pending_timeout: str | None = None
    """How long a pod may be Pending, e.g. 1h, before it has failed. Only Argo 4.1 and later know
    this; without it a pod whose image cannot be pulled waits for ever, and `svdjobs workflow watch`
    and `ci run` end with code 4."""
    keep_success_seconds: int = Field(default=86_400, ge=0)
    """Seconds until a Workflow that succeeded is deleted."""
    keep_failure_seconds: int = Field(default=604_800, ge=0)
    """Seconds until a Workflow that failed, or an ended Job, is deleted."""


class ProxySettings(Settings):
    """Proxies of all pods, as environment variables."""

    http: str | None = None
    """HTTP_PROXY, e.g. http://proxy.example:3128."""
    https: str | None = None
    """HTTPS_PROXY."""
    no_proxy: str = ""
    """NO_PROXY: hosts that are reached without a proxy, separated by commas, e.g. the store."""


class CommonSettings(Settings):
    """Everything besides the sweep that the generated manifests depend on."""

    images: ImageSettings = ImageSettings()
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When nodes pull images: IfNotPresent, Always or Never."""
    pull_secrets: tuple[str, ...] = ()
    """Secrets with the registry's credentials."""
    service_account: str = "svdjobs"
    """Service account of all pods; it must exist in the namespace."""
    secret: str = "svdjobs-store"
    """A Secret whose keys become environment variables: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL,
    HF_TOKEN, SVDJOBS_NOTIFY_URL… It may be missing, e.g. if a role of the service account grants
    access."""
    extra_env: tuple[dict[str, Any], ...] = ()
    """Further environment variables of all pods, as Kubernetes spells them."""
    extra_env_from: tuple[dict[str, Any], ...] = ()
    """Further Secrets and ConfigMaps whose keys become environment variables, as Kubernetes spells
    them. If two have the same key, the later one counts."""
    extra_volumes: tuple[dict[str, Any], ...] = ()
    """Further volumes of all pods, as Kubernetes spells them."""
    extra_volume_mounts: tuple[dict[str, Any], ...] = ()
    """Where the pods' containers mount them."""
    ca_config_map: str | None = None
    """A ConfigMap whose key `ca.crt` holds the certificates that pods trust, for a store or a hub
    with a private authority. They replace those of the images, so it should hold both."""
    proxy: ProxySettings = ProxySettings()
    model_cache: dict[str, Any] = Field(default={})
    """A volume with a cache of the Hugging Face hub (a folder like ~/.cache/huggingface/hub), as
    Kubernetes spells its source, e.g. {persistentVolumeClaim: {claimName: models}}. All pods mount
    it read-only, read the checkpoints that it holds from it, and do not fetch them."""
    scratch_class: str | None = None
    """StorageClass of /scratch, which is then a volume of its own for each pod. null: the node's
    disk (an emptyDir)."""
    store: str = "s3://svdjobs/demo"
    """Default of the Workflow's parameter `store`."""
    artifacts: bool = False
    """Also give the report, its figures and junit.xml, and the gate's verdict, to Argo as
    artifacts; Argo's controller needs an artifact repository for that. Weights are never
    artifacts."""
    user: int | None = 10001
    """User id of all containers; None lets the cluster choose, as OpenShift does."""
    schedule: str = "0 2 * * *"
    """Cron expression of the nightly sweep, in UTC."""
    node_selector: dict[str, str] = Field(default={})
    """Labels that a node must have for all pods but evaluation pods."""
    tolerations: tuple[dict[str, Any], ...] = ()
    """Taints that all pods but evaluation pods tolerate, as Kubernetes spells them."""
    initless_pods: bool = False
    """Whether Argo's controller has `initlessPod` (4.1), so that its own container in a pod is
    called supervisor; `svdjobs doctor` says."""
    protect: bool = False
    """Refuse to drain a node while pods of a sweep run on it: each Workflow gets a
    PodDisruptionBudget. The account of Argo's controller must be allowed to make one."""
    prometheus: bool = False
    """Have Argo's controller count sweeps and their duration by status, in its metrics
    argo_workflows_svdjobs_sweeps_total and argo_workflows_svdjobs_sweep_seconds."""
    limits: LimitSettings = LimitSettings()
    gpu: GpuSettings = GpuSettings()

    @model_validator(mode="before")
    @classmethod
    def _over_the_stage_s_defaults(cls, given: Any) -> Any:
        """Fill the section of a stage that gives some keys only, as the chart does."""
        if not isinstance(given, dict):
            return given
        own = {name: field.default for name, field in cls.model_fields.items()}
        return {
            key: {**own[key].model_dump(), **section}
            if isinstance(section, dict) and isinstance(own.get(key), StageSettings)
            else section
            for key, section in given.items()
        }


def _stages() -> dict[str, Any]:
    """A section of settings for each stage, with the stage's defaults in `svdjobs.pipeline`."""
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
    """Read the settings from a YAML file; without one, return the defaults.

    Raises:
        ConfigError: the file cannot be read, or has unknown keys or bad values; all are named.
    """
    if path is None:
        return ClusterSettings()
    where = f"cluster settings {path}"
    text = read_text(path, "cluster settings", "docs/cluster.md")
    return validated(ClusterSettings, yaml_core.load(text, where) or {}, where=where)
