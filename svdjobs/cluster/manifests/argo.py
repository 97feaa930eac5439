"""Write a sweep as an Argo Workflow: the graph of `svdjobs.pipeline`, and when pods are retried.

The stage report fails if outputs are missing, and the Workflow then fails with it. The stage gate
runs only after a complete report: gate is omitted if report failed, and skipped if the sweep has no
gate. In both cases Argo takes the phase of the task before gate, which is report's (assessDAGPhase
in Argo's workflow/controller/dag.go).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from svdjobs import pipeline
from svdjobs.cluster.manifests import pods
from svdjobs.cluster.manifests.settings import ClusterSettings
from svdjobs.cluster.manifests.yaml_text import dump

if TYPE_CHECKING:
    from hera.workflows import DAG, Container, Parameter, S3Artifact, Task, Workflow
    from hera.workflows import models as m
    from hera.workflows.metrics import Counter, Gauge

NAME = "svdjobs-sweep"
ALL_PODS = 9999
UNITS = f"{pods.SCRATCH}/units"
CONFIG_VARIABLE = "SVDJOBS_CONFIG"
TOKEN = "executor-token"
# Every client in a pod, also Argo's executor, reads the token of its account in this folder.
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
# Argo gives exit code -1 to a pod whose end it did not see (deleted, evicted) and to a pod that
# could not be created. A pod is not retried if it would fail again: it missed a deadline, had too
# little memory or disk, or the API server forbids it (a Pod Security level, a missing account).
RETRY = (
    f"(asInt(lastRetry.exitCode) in {sorted([*pods.TRY_AGAIN, -1])}"
    " || lastRetry.message matches '(?i)low on resource|node shutdown|preempt|pod deleted')"
    " && !(lastRetry.message matches '(?i)deadline|OOMKilled|exceeds the|is forbidden')"
)
# Every result of a task that is over. As `depends` spells results; phases are spelled otherwise.
# A task that waits for any of them runs even if the other task failed.
ENDED = ("Succeeded", "Failed", "Errored", "Skipped", "Omitted")


def sweep(settings: ClusterSettings, config: str) -> dict[str, Any]:
    """The self-contained Workflow; `config`, a sweep's YAML text, is the default of its parameter
    `config`."""
    document: dict[str, Any] = _workflow(settings, config).to_dict()
    if settings.limits.pending_timeout is not None:
        for template in document["spec"]["templates"]:
            if "container" in template:  # Argo 4.1 has the field; hera does not
                template["pendingTimeout"] = settings.limits.pending_timeout
    return document


def _workflow(settings: ClusterSettings, config: str) -> Workflow:
    from hera.workflows import Parameter, Workflow
    from hera.workflows import models as m

    limits = settings.limits
    return Workflow(
        generate_name=f"{NAME}-",
        labels=pods.LABELS,
        entrypoint="sweep",
        on_exit="notify",
        arguments=[
            Parameter(name=name, value=value, description=what)
            for name, value, what in parameters(settings, config)
        ],
        templates=[*_stage_templates(settings), *_dags()],
        parallelism=limits.parallelism,
        service_account_name=settings.service_account,
        image_pull_secrets=[m.LocalObjectReference(name=name) for name in settings.pull_secrets]
        or None,
        security_context=m.PodSecurityContext.model_validate(pods.security(settings)),
        pod_metadata=m.Metadata(labels=pods.LABELS),
        pod_spec_patch=executor(initless=settings.initless_pods),
        # Argo makes the budget; for pods without a controller it must be a number of pods.
        pod_disruption_budget=(
            m.PodDisruptionBudgetSpec(min_available=m.IntOrString(root=ALL_PODS))
            if settings.protect
            else None
        ),
        metrics=_metrics() if settings.prometheus else None,
        pod_gc=m.PodGC(strategy="OnPodSuccess", delete_delay_duration="60s"),
        ttl_strategy=m.TTLStrategy(
            seconds_after_success=limits.keep_success_seconds,
            seconds_after_failure=limits.keep_failure_seconds,
        ),
    )


def parameters(settings: ClusterSettings, config: str) -> list[tuple[str, str, str]]:
    """Name, default and description of every parameter of the Workflow."""
    return [
        ("config", config, "The sweep's config: YAML text, as in the files of jobs/sweeps/"),
        ("store", settings.store, "The run's store: s3://bucket/prefix"),
        ("images", settings.images.repository, "The images' names without -STAGE and tag"),
        ("tag", settings.images.tag, "The images' tag"),
        ("gpus", str(settings.gpu.count), "GPUs of each evaluation pod; 0 evaluates on CPUs"),
        ("keep-weights", "true", "false: delete an alpha's weights after its evaluation"),
    ]


def _metrics() -> list[Counter | Gauge]:
    """What Argo's controller counts of sweeps, by how they ended.

    https://argo-workflows.readthedocs.io/en/latest/metrics/
    """
    from hera.workflows.metrics import Counter, Gauge, Label

    by_status = [Label(key="status", value="{{workflow.status}}")]
    return [
        Counter(
            name="svdjobs_sweeps_total",
            help="Sweeps that have ended, by status",
            labels=by_status,
            value="1",
        ),
        Gauge(
            name="svdjobs_sweep_seconds",
            help="Duration of the last sweep that has ended, by status",
            labels=by_status,
            realtime=False,
            value="{{workflow.duration}}",
        ),
    ]


def _stage_templates(settings: ClusterSettings) -> list[Container]:
    """One pod template for each stage, and one for notify."""
    from hera.workflows import Parameter
    from hera.workflows import models as m

    fan_outs = [
        Parameter(name=name, value_from=m.ValueFrom(path=f"{UNITS}/{name}.json", default="[]"))
        for name in pipeline.fan_outs()
    ]
    templates = []
    for stage in pipeline.STAGES:
        if stage.name == "plan":
            units = ["--units-dir", UNITS]
            templates.append(_stage_template(settings, "plan", units, outputs=fan_outs))
        elif stage.artifacts and settings.artifacts:
            templates.append(_artifact_template(settings, stage))
        else:
            templates.append(_stage_template(settings, stage.name, inputs=stage.options))
    status = ["--workflow", "{{workflow.name}}", "--status", "{{workflow.status}}"]
    return [*templates, _stage_template(settings, "notify", status)]


def _artifact_template(settings: ClusterSettings, stage: pipeline.Stage) -> Container:
    """The template of a stage (report, gate) that also gives its files to Argo as artifacts."""
    from hera.workflows import NoneArchiveStrategy, S3Artifact

    folder = f"{pods.SCRATCH}/{stage.name}"
    prefix = "{{workflow.name}}" + ("" if stage.name == "report" else f"/{stage.name}")
    artifacts = [
        S3Artifact(
            name=name.partition(".")[0],
            path=f"{folder}/{name}",
            key=f"{prefix}/{name}",
            archive=NoneArchiveStrategy(),
            optional=True,
        )
        for name in stage.artifacts
    ]
    return _stage_template(settings, stage.name, ["--copy-to", folder], outputs=artifacts)


def _stage_template(
    settings: ClusterSettings,
    stage: str,
    args: Sequence[str] = (),
    *,
    inputs: Mapping[str, str] = MappingProxyType({}),
    outputs: Sequence[Parameter | S3Artifact] | None = None,
) -> Container:
    """The pod template of a stage; `inputs` maps each input to the command-line option for it."""
    from hera.workflows import Container, Parameter
    from hera.workflows import models as m

    evaluates = pods.evaluates(stage)
    own, common = pods.resources_of(settings, stage), pods.container(settings, stage)
    options = [
        word
        for name, flag in inputs.items()
        for word in (flag, f"{{{{inputs.parameters.{name}}}}}")
    ]
    config = m.EnvVar(name=CONFIG_VARIABLE, value="{{workflow.parameters.config}}")
    # Hera's models turn the camel-case documents of `pods` into the fields used below.
    parsed = m.Container.model_validate({**common, "image": "", "name": "main"})
    where = m.Template.model_validate({"name": stage, **pods.placement(settings, stage)})
    return Container(
        name=stage,
        labels={"svdjobs.io/stage": stage},
        image=pods.image(
            settings, stage, "{{workflow.parameters.images}}", "{{workflow.parameters.tag}}"
        ),
        image_pull_policy=settings.pull_policy,
        command=parsed.command,
        args=pods.arguments(
            stage,
            f"env:{CONFIG_VARIABLE}",
            "{{workflow.parameters.store}}",
            [*args, *options],
        ),
        working_dir=parsed.working_dir,
        env=[*([] if stage == "notify" else [config]), *(parsed.env or [])] or None,
        env_from=parsed.env_from,
        inputs=[Parameter(name=name) for name in inputs] or None,
        outputs=list(outputs) if outputs else None,
        resources=parsed.resources,
        security_context=parsed.security_context,
        volume_mounts=parsed.volume_mounts,
        volumes=[m.Volume.model_validate(item) for item in pods.volumes(settings, stage)],
        node_selector=where.node_selector,
        tolerations=where.tolerations,
        affinity=where.affinity,
        priority_class_name=where.priority_class_name,
        scheduler_name=where.scheduler_name,
        active_deadline_seconds=own.deadline_seconds,
        pod_spec_patch=_patch(settings, stage),
        retry_strategy=m.RetryStrategy(
            limit=str(settings.limits.retries),
            retry_policy="Always",
            expression=RETRY,
            # No max_duration: Argo counts it from the start of the first attempt, so a pod that
            # was evicted after an hour would never be retried.
            backoff=m.Backoff(duration="10s", factor="2"),
        ),
        synchronization=_semaphore(settings) if evaluates else None,
    )


def _patch(settings: ClusterSettings, stage: str) -> str:
    """The template's podSpecPatch: fields that a template lacks, and the number of GPUs, a
    parameter that `resources` of a template may not contain."""
    spec: dict[str, Any] = {"terminationGracePeriodSeconds": settings.limits.grace_seconds}
    if pods.evaluates(stage):
        gpus = {settings.gpu.resource: "{{workflow.parameters.gpus}}"}
        main = {"name": "main", "resources": {"limits": gpus, "requests": gpus}}
        spec["containers"] = [main]
    spec |= pods.beside(settings, stage)
    # YAML, not JSON: JSON would end in `}}`, which Argo would read as the end of a parameter.
    return dump(spec)


def executor(*, initless: bool) -> str:
    """The Workflow's podSpecPatch, for the containers `init` and `wait` that Argo adds to a pod; if
    its controller has `initlessPod`, that is one container, `supervisor`.

    https://github.com/argoproj/argo-workflows/blob/main/docs/initless-pod.md

    Only they talk to the API server, so only they get the token of the pod's account; it expires
    with the pod. (Argo's own field, `executor`, needs a Secret with a token that never expires.)
    They are as restricted as the stage's container: otherwise a namespace with the restricted Pod
    Security level refuses the pod.
    """
    token = {"name": TOKEN, "mountPath": TOKEN_PATH, "readOnly": True}
    own = {"securityContext": pods.RESTRICTED, "volumeMounts": [token]}
    return dump(
        {
            "automountServiceAccountToken": False,
            "volumes": [{"name": TOKEN, "projected": {"sources": _account()}}],
            **({} if initless else {"initContainers": [{"name": "init", **own}]}),
            "containers": [{"name": "supervisor" if initless else "wait", **own}],
        }
    )


def _account() -> list[dict[str, Any]]:
    """The sources of the token volume, as Kubernetes itself mounts it into a pod.

    https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
    """
    namespace = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    authority = {"key": "ca.crt", "path": "ca.crt"}
    return [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [authority]}},
        {"downwardAPI": {"items": [namespace]}},
    ]


def _semaphore(settings: ClusterSettings) -> m.Synchronization | None:
    """The semaphore that the evaluation pods of all Workflows share; None without one."""
    from hera.workflows import models as m

    if settings.limits.semaphore is None:
        return None
    key = m.ConfigMapKeySelector(name=settings.limits.semaphore, key="evaluate")
    return m.Synchronization(semaphores=[m.SemaphoreRef(config_map_key_ref=key)])


def _dags() -> list[DAG]:
    """The DAG of each chain, and the DAG `sweep` that starts everything."""
    from hera.workflows import DAG, Parameter

    dags = []
    for chain in (step for step in pipeline.SWEEP if isinstance(step, pipeline.Chain)):
        inputs = [Parameter(name=chain.item), Parameter(name="units")]
        with DAG(name=_dag_name(chain), fail_fast=False, inputs=inputs) as dag:
            for task in chain.tasks:
                _task(task, units="{{inputs.parameters.units}}")
        dags.append(dag)
    with DAG(name="sweep", fail_fast=False) as whole:
        for step in pipeline.SWEEP:
            if isinstance(step, pipeline.Chain):
                _chain(step)
            else:
                _task(step, units=planned(step.each) if step.each else None)
    return [*dags, whole]


def _dag_name(chain: pipeline.Chain) -> str:
    """The name of the DAG that runs once for each item of a chain: `alpha` for `alphas`."""
    return chain.name.removesuffix("s")


def _chain(chain: pipeline.Chain) -> Task:
    """A task of the current DAG that runs a chain for each of its items.

    Each gets the shards of the benchmarks as `units`.
    """
    from hera.workflows import Task

    return Task(
        name=chain.name,
        template=_dag_name(chain),
        depends=_depends(chain.after),
        with_param=planned(chain.each),
        arguments={chain.item: "{{item}}", "units": planned("evaluate")},
    )


def _task(task: pipeline.Task, *, units: str | None) -> Task:
    """A task of the current DAG; `units` refers to the list of shards that it fans out over."""
    from hera.workflows import Task

    arguments = {
        name: value.replace("{", "{{inputs.parameters.").replace("}", "}}")
        for name, value in task.given.items()
    }
    if task.item:
        arguments[task.item] = "{{item}}"
    when = f"{planned(task.when)} == true" if task.when else None
    if task.unless_kept:
        when = "'{{workflow.parameters.keep-weights}}' == 'false'"
    return Task(
        name=task.name,
        template=task.stage,
        depends=_depends(task.after),
        when=when,
        with_param=units if task.each else None,
        arguments=arguments or None,
    )


def _depends(after: Mapping[str, pipeline.Condition]) -> str | None:
    """The condition on other tasks, in Argo's syntax."""
    conditions = (
        f"{name}.Succeeded" if how == "succeeded" else ended(name) for name, how in after.items()
    )
    return " && ".join(conditions) or None


def planned(fan_out: str) -> str:
    """A reference to a list that the stage plan wrote."""
    return f"{{{{tasks.plan.outputs.parameters.{fan_out}}}}}"


def ended(task: str) -> str:
    """A condition that holds once a task is over, whatever its result."""
    return f"({' || '.join(f'{task}.{result}' for result in ENDED)})"
