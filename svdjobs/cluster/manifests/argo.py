"""The sweep as an Argo Workflow: which pods there are, what they wait for, and when they try again.

    plan ─┬─ decompose × shares ─┬─ rotations ──────────────────────────┐
          │                      └─ alphas × (blend ─ evaluate × units) ┤
          └─ evaluate-after × units ┴─ baselines × (evaluate × units) ──┴─ report ─ gate

Alphas and baselines wait for after's answers, since they say how likely they find them. An alpha
that fails fails alone; report names what is missing, and the Workflow ends as it does. Gate, where
the sweep has one, judges a complete report. Where report has failed gate is omitted, and where none
is planned it is skipped: either counts with the phase of what was before it, which is report's
(assessDAGPhase in Argo's workflow/controller/dag.go).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from svdjobs.cluster.manifests import pods
from svdjobs.cluster.manifests.settings import ClusterSettings
from svdjobs.cluster.manifests.yaml_text import dump

if TYPE_CHECKING:
    from hera.workflows import DAG, Container, Parameter, S3Artifact, Task, Workflow
    from hera.workflows import models as m

NAME = "svdjobs-sweep"
UNITS = f"{pods.SCRATCH}/units"
# What of a verdict travels as artifacts, by its stage.
ARTIFACTS = {
    "report": ("report.html", "junit.xml", "figures"),
    "gate": ("gate.md", "junit.xml"),
}
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
FAN_OUTS = ("decompose", "alphas", "baselines", "evaluate", "rotations", "gate")
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
        for name in FAN_OUTS
    ]
    alpha = {"alpha": "--alpha"}
    evaluation = {"checkpoint": "--checkpoint", "unit": "--unit"}
    return [
        _leaf(settings, "plan", ["--units-dir", UNITS], outputs=units),
        _leaf(settings, "decompose", inputs={"unit": "--unit"}),
        _leaf(settings, "blend", inputs=alpha),
        _leaf(settings, "evaluate", inputs=evaluation),
        _leaf(settings, "drop-weights", inputs=alpha),
        _leaf(settings, "rotations"),
        _verdict(settings, "report"),
        _verdict(settings, "gate"),
        _leaf(
            settings,
            "notify",
            ["--workflow", "{{workflow.name}}", "--status", "{{workflow.status}}"],
        ),
    ]


def _verdict(settings: ClusterSettings, stage: str) -> Container:
    """A leaf that owns the DAG's phase: report fails where something is missing, gate where
    something got worse."""
    from hera.workflows import NoneArchiveStrategy, S3Artifact

    if not settings.artifacts:
        return _leaf(settings, stage)
    folder = f"{pods.SCRATCH}/{stage}"
    place = "{{workflow.name}}" if stage == "report" else f"{{{{workflow.name}}}}/{stage}"
    found = [
        S3Artifact(
            name=name.partition(".")[0],
            path=f"{folder}/{name}",
            key=f"{place}/{name}",
            archive=NoneArchiveStrategy(),
            optional=True,
        )
        for name in ARTIFACTS[stage]
    ]
    return _leaf(settings, stage, ["--copy-to", folder], outputs=found)


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

    evaluates = stage == "evaluate"
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

    with DAG(
        name="alpha", fail_fast=False, inputs=[Parameter(name="alpha"), Parameter(name="units")]
    ) as alpha:
        one = "{{inputs.parameters.alpha}}"
        _task("blend", alpha=one)
        _evaluations(one, depends="blend.Succeeded")
        drop = "'{{workflow.parameters.keep-weights}}' == 'false'"
        _task("drop-weights", depends="evaluate.Succeeded", when=drop, alpha=one)
    with DAG(
        name="baseline",
        fail_fast=False,
        inputs=[Parameter(name="checkpoint"), Parameter(name="units")],
    ) as baseline:
        _evaluations("{{inputs.parameters.checkpoint}}")
    with DAG(name="sweep", fail_fast=False) as whole:
        _task("plan")
        _task("decompose", depends="plan.Succeeded", each="decompose", unit="{{item}}")
        _task(
            "evaluate-after", "evaluate", depends="plan.Succeeded", each="evaluate",
            checkpoint="after", unit="{{item}}",
        )  # fmt: skip
        answered = f"plan.Succeeded && {ended('evaluate-after')}"
        _task(
            "baselines", "baseline", depends=answered, each="baselines",
            checkpoint="{{item}}", units=planned("evaluate"),
        )  # fmt: skip
        _task(
            "alphas", "alpha", depends=f"decompose.Succeeded && {answered}", each="alphas",
            alpha="{{item}}", units=planned("evaluate"),
        )  # fmt: skip
        wanted = f"{planned('rotations')} == true"
        _task("rotations", depends="plan.Succeeded && decompose.Succeeded", when=wanted)
        before_report = ("plan", "alphas", "baselines", "rotations")
        _task("report", depends=" && ".join(ended(task) for task in before_report))
        _task("gate", depends="report.Succeeded", when=f"{planned('gate')} == true")
    return [alpha, baseline, whole]


def _evaluations(checkpoint: str, **more: str) -> Task:
    """A checkpoint on every unit it was given."""
    return _task(
        "evaluate", with_param="{{inputs.parameters.units}}", checkpoint=checkpoint,
        unit="{{item}}", **more,
    )  # fmt: skip


def _task(
    name: str,
    template: str | None = None,
    *,
    depends: str | None = None,
    when: str | None = None,
    each: str | None = None,
    with_param: str | None = None,
    **arguments: str,
) -> Task:
    """A task of the DAG being made; `each` names what plan found to fan out over."""
    from hera.workflows import Task

    return Task(
        name=name,
        template=template or name,
        depends=depends,
        when=when,
        with_param=planned(each) if each else with_param,
        arguments=arguments or None,
    )


def planned(fan_out: str) -> str:
    """Reference to a list that plan wrote."""
    return f"{{{{tasks.plan.outputs.parameters.{fan_out}}}}}"


def ended(task: str) -> str:
    """A condition that holds once a task is over, however it went."""
    return f"({' || '.join(f'{task}.{result}' for result in ENDED)})"
