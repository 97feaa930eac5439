"""The sweep as an Argo Workflow: `svdjobs.pipeline` in Argo's words, and when pods try again.

Report names what is missing, and the Workflow ends as it does. Gate, where the sweep has one,
judges a complete report. Where report has failed gate is omitted, and where none is planned it is
skipped: either counts with the phase of what was before it, which is report's (assessDAGPhase in
Argo's workflow/controller/dag.go).
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

NAME = "svdjobs-sweep"
UNITS = f"{pods.SCRATCH}/units"
CONFIG_VARIABLE = "SVDJOBS_CONFIG"
# Where Argo's executor, as any client within a pod, looks for its account's token.
TOKEN = "executor-token"
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
# A pod that was deleted or evicted has no exit code of its own; Argo says -1 then, and for one that
# could not be created. A deadline would be missed again, too little memory or disk be too little
# again, and what the API server forbids (a Pod Security level, no such account) forbidden again.
RETRY = (
    f"(asInt(lastRetry.exitCode) in {sorted([*pods.TRY_AGAIN, -1])}"
    " || lastRetry.message matches '(?i)low on resource|node shutdown|preempt|pod deleted')"
    " && !(lastRetry.message matches '(?i)deadline|OOMKilled|exceeds the|is forbidden')"
)
# However a task ended; a task that waits for another so does not fail with it.
ENDED = ("Succeeded", "Failed", "Errored", "Skipped", "Omitted")


def sweep(settings: ClusterSettings, config: str) -> Workflow:
    """The self-contained Workflow, with a sweep's YAML text as the default of its `config`."""
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
        templates=[*_leaves(settings), *_chains()],
        parallelism=limits.parallelism,
        service_account_name=settings.service_account,
        image_pull_secrets=[m.LocalObjectReference(name=name) for name in settings.pull_secrets]
        or None,
        security_context=m.PodSecurityContext.model_validate(pods.security(settings)),
        pod_metadata=m.Metadata(labels=pods.LABELS),
        pod_spec_patch=_executor(),
        pod_gc=m.PodGC(strategy="OnPodSuccess", delete_delay_duration="60s"),
        ttl_strategy=m.TTLStrategy(
            seconds_after_success=limits.keep_success_seconds,
            seconds_after_failure=limits.keep_failure_seconds,
        ),
    )


def parameters(settings: ClusterSettings, config: str) -> list[tuple[str, str, str]]:
    """Name, default and meaning of what may be said when the Workflow is submitted."""
    return [
        ("config", config, "The sweep: text of a file such as those in jobs/sweeps/"),
        ("store", settings.store, "Where the run lives: s3://bucket/prefix"),
        ("image", settings.image, "Of all stages but evaluate"),
        ("evaluate-image", settings.evaluate_image, "Of evaluate"),
        ("gpus", str(settings.gpu.count), "GPUs of each evaluation pod; 0 evaluates on CPUs"),
        ("keep-weights", "true", "false: delete an alpha's weights once it is evaluated"),
    ]


def _leaves(settings: ClusterSettings) -> list[Container]:
    """One template per stage: each is a pod."""
    from hera.workflows import Parameter
    from hera.workflows import models as m

    units = [
        Parameter(name=name, value_from=m.ValueFrom(path=f"{UNITS}/{name}.json", default="[]"))
        for name in pipeline.fan_outs()
    ]
    leaves = []
    for stage in pipeline.STAGES:
        if stage.name == "plan":
            leaves.append(_leaf(settings, "plan", ["--units-dir", UNITS], outputs=units))
        elif stage.hands_on and settings.artifacts:
            leaves.append(_verdict(settings, stage))
        else:
            leaves.append(_leaf(settings, stage.name, inputs=stage.options))
    status = ["--workflow", "{{workflow.name}}", "--status", "{{workflow.status}}"]
    return [*leaves, _leaf(settings, "notify", status)]


def _verdict(settings: ClusterSettings, stage: pipeline.Stage) -> Container:
    """A leaf whose files travel as artifacts. It owns the DAG's phase, too: report fails where
    something is missing, gate where something got worse."""
    from hera.workflows import NoneArchiveStrategy, S3Artifact

    folder = f"{pods.SCRATCH}/{stage.name}"
    place = "{{workflow.name}}" + ("" if stage.name == "report" else f"/{stage.name}")
    found = [
        S3Artifact(
            name=name.partition(".")[0],
            path=f"{folder}/{name}",
            key=f"{place}/{name}",
            archive=NoneArchiveStrategy(),
            optional=True,
        )
        for name in stage.hands_on
    ]
    return _leaf(settings, stage.name, ["--copy-to", folder], outputs=found)


def _leaf(
    settings: ClusterSettings,
    stage: str,
    args: Sequence[str] = (),
    *,
    inputs: Mapping[str, str] = MappingProxyType({}),
    outputs: Sequence[Parameter | S3Artifact] | None = None,
) -> Container:
    """The template of a stage; `inputs` maps each input to the option it is given by."""
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
    parsed = m.Container.model_validate({**common, "image": "", "name": "main"})
    where = m.Template.model_validate({"name": stage, **pods.placement(settings, stage)})
    return Container(
        name=stage,
        labels={"svdjobs.io/stage": stage},
        image=f"{{{{workflow.parameters.{'evaluate-image' if evaluates else 'image'}}}}}",
        image_pull_policy=settings.pull_policy,
        command=parsed.command,
        args=pods.arguments(
            stage,
            f"env:{CONFIG_VARIABLE}",
            "{{workflow.parameters.store}}",
            [*args, *options],
        ),
        working_dir=parsed.working_dir,
        env=None if stage == "notify" else [config],
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
        pod_spec_patch=_patch(settings, evaluates),
        retry_strategy=m.RetryStrategy(
            limit=str(settings.limits.retries),
            retry_policy="Always",
            expression=RETRY,
            # No max_duration: Argo counts it from the first attempt's start, so a pod that was
            # evicted after an hour would never be tried again.
            backoff=m.Backoff(duration="10s", factor="2"),
        ),
        synchronization=_bounded(settings) if evaluates else None,
    )


def _patch(settings: ClusterSettings, evaluates: bool) -> str:
    """What a template cannot say literally: the number of GPUs is a parameter, which `resources`
    may not contain."""
    spec: dict[str, Any] = {"terminationGracePeriodSeconds": settings.limits.grace_seconds}
    if evaluates:
        gpus = {settings.gpu.resource: "{{workflow.parameters.gpus}}"}
        main = {"name": "main", "resources": {"limits": gpus, "requests": gpus}}
        spec["containers"] = [main]
        if settings.gpu.runtime_class:
            spec["runtimeClassName"] = settings.gpu.runtime_class
    return dump(spec)  # as JSON it would end in braces that are no parameter's


def _executor() -> str:
    """Argo's own containers, and nobody else, talk to the API server: they alone get the token of
    the account that a pod runs as, one that ends with the pod. (Argo's own field for that wants an
    account for its executor with a token that never ends, in a Secret.) And they are as restricted
    as ours, or a namespace with the restricted Pod Security level refuses the pod."""
    token = {"name": TOKEN, "mountPath": TOKEN_PATH, "readOnly": True}
    own = {"securityContext": pods.RESTRICTED, "volumeMounts": [token]}
    return dump(
        {
            "automountServiceAccountToken": False,
            "volumes": [{"name": TOKEN, "projected": {"sources": _account()}}],
            "initContainers": [{"name": "init", **own}],
            "containers": [{"name": "wait", **own}],
        }
    )


def _account() -> list[dict[str, Any]]:
    """What Kubernetes itself puts where an account's token is looked for.

    https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/
    """
    namespace = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    authority = {"key": "ca.crt", "path": "ca.crt"}
    return [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [authority]}},
        {"downwardAPI": {"items": [namespace]}},
    ]


def _bounded(settings: ClusterSettings) -> m.Synchronization | None:
    """The semaphore that all workflows' evaluations share, if there is one."""
    from hera.workflows import models as m

    if settings.limits.semaphore is None:
        return None
    key = m.ConfigMapKeySelector(name=settings.limits.semaphore, key="evaluate")
    return m.Synchronization(semaphores=[m.SemaphoreRef(config_map_key_ref=key)])


def _chains() -> list[DAG]:
    """What waits for what."""
    from hera.workflows import DAG, Parameter

    made = []
    for chain in (one for one in pipeline.SWEEP if isinstance(one, pipeline.Chain)):
        inputs = [Parameter(name=chain.item), Parameter(name="units")]
        with DAG(name=_template(chain), fail_fast=False, inputs=inputs) as dag:
            for task in chain.tasks:
                _task(task, units="{{inputs.parameters.units}}")
        made.append(dag)
    with DAG(name="sweep", fail_fast=False) as whole:
        for one in pipeline.SWEEP:
            if isinstance(one, pipeline.Chain):
                _chain(one)
            else:
                _task(one, units=planned(one.each) if one.each else None)
    return [*made, whole]


def _template(chain: pipeline.Chain) -> str:
    """What one unit of a chain is called: `alpha` of `alphas`."""
    return chain.name.removesuffix("s")


def _chain(chain: pipeline.Chain) -> Task:
    """A chain for each of its units; every one is told the shares of the benchmarks."""
    from hera.workflows import Task

    return Task(
        name=chain.name,
        template=_template(chain),
        depends=_depends(chain.after),
        with_param=planned(chain.each),
        arguments={chain.item: "{{item}}", "units": planned("evaluate")},
    )


def _task(task: pipeline.Task, *, units: str | None) -> Task:
    """A task of the DAG being made; `units` is the list it fans out over, if it does."""
    from hera.workflows import Task

    given = {
        name: value.replace("{", "{{inputs.parameters.").replace("}", "}}")
        for name, value in task.given.items()
    }
    if task.item:
        given[task.item] = "{{item}}"
    when = f"{planned(task.when)} == true" if task.when else None
    if task.unless_kept:
        when = "'{{workflow.parameters.keep-weights}}' == 'false'"
    return Task(
        name=task.name,
        template=task.stage,
        depends=_depends(task.after),
        when=when,
        with_param=units if task.each else None,
        arguments=given or None,
    )


def _depends(after: Mapping[str, pipeline.Condition]) -> str | None:
    """The condition on other tasks, as Argo reads it."""
    conditions = (
        f"{name}.Succeeded" if how == "succeeded" else ended(name) for name, how in after.items()
    )
    return " && ".join(conditions) or None


def planned(fan_out: str) -> str:
    """Reference to a list that plan wrote."""
    return f"{{{{tasks.plan.outputs.parameters.{fan_out}}}}}"


def ended(task: str) -> str:
    """A condition that holds once a task is over, however it went."""
    return f"({' || '.join(f'{task}.{result}' for result in ENDED)})"
