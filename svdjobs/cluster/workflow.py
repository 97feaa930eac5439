"""The sweep as an Argo Workflow: which pods there are, what they wait for, and when they try again.

    plan ─┬─ decompose × shares ─┬─ rotations ──────────────────────────┐
          │                      └─ alphas × (blend ─ evaluate × units) ┤
          └─ evaluate-after × units ┴─ baselines × (evaluate × units) ──┴─ report

Alphas and baselines wait for after's answers, since they say how likely they find them. An alpha
that fails fails alone; report names what is missing, and the Workflow ends as it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from svdjobs.cluster import pods
from svdjobs.cluster.settings import ClusterSettings

if TYPE_CHECKING:
    from hera.workflows import DAG, Container, Task, Workflow

NAME = "svdjobs-sweep"
UNITS = "/scratch/units"
FAN_OUTS = ("decompose", "alphas", "baselines", "evaluate", "rotations")
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
        security_context=pods.pod_security(settings),
        pod_metadata=m.Metadata(labels=pods.LABELS),
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

    def leaf(stage: str, *args: str, inputs: tuple[str, ...] = (), **more: Any) -> Container:
        wanted = [Parameter(name=name) for name in inputs]
        return pods.leaf(settings, stage, list(args), inputs=wanted, **more)

    unit, alpha, checkpoint = (
        f"{{{{inputs.parameters.{name}}}}}" for name in ("unit", "alpha", "checkpoint")
    )
    return [
        leaf("plan", "--units-dir", UNITS, outputs=units),
        leaf("decompose", "--unit", unit, inputs=("unit",)),
        leaf("blend", "--alpha", alpha, inputs=("alpha",)),
        leaf(
            "evaluate",
            *("--checkpoint", checkpoint, "--unit", unit),
            inputs=("checkpoint", "unit"),
        ),
        leaf("drop-weights", "--alpha", alpha, inputs=("alpha",)),
        leaf("rotations"),
        leaf("report"),
        leaf("notify", "--workflow", "{{workflow.name}}", "--status", "{{workflow.status}}"),
    ]


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
