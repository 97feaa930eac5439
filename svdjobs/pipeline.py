"""The graph of stages, once: what there is, what waits for what, and what fans out over what.

Read by the sweep on one machine (`local`), the Argo Workflow, the Jobs and the estimate of their
size (`cluster/manifests`), the images and the chart. On one machine a stage does all its units
itself, so `STAGES` in their order are the sweep. On a cluster `SWEEP` says which pods there are:

    plan ─┬─ decompose × shards ─┬─ rotations ─────────────────────────────────┐
          │                      └─ alphas × (blend, evaluate × units, drop)   ┤
          └─ evaluate-after × units ─┴─ baselines × (evaluate × units) ────────┴─ report ─ gate

Alphas and baselines wait for after's answers, since they say how likely they find them. An alpha
that fails fails alone, so report waits until everything has ended, however that went.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from svdjobs.config import SweepConfig

Section = Literal["rotations", "evaluate", "gate"]
"""A part of the config without which a stage has nothing to do."""


@dataclass(frozen=True)
class Resources:
    """What a pod of a stage gets unless the cluster's settings say otherwise."""

    cpu: str = "4"
    memory: str = "16Gi"
    scratch: str = "20Gi"
    deadline_seconds: int | None = None


SMALL = Resources(cpu="500m", memory="1Gi", scratch="1Gi", deadline_seconds=600)
"""Work of the control plane, in pods that need neither torch nor a GPU; no setting changes it."""


@dataclass(frozen=True)
class Stage:
    """One command, one module of `svdjobs.stages`, one target of the images, one pod template."""

    name: str
    resources: Resources = SMALL
    options: Mapping[str, str] = field(default_factory=dict)
    """What a pod is told of its unit: name of the input → option that takes it."""
    section: Section | None = None
    """The stage runs only where the config has this section."""
    image: Literal["cpu", "evaluate"] = "cpu"
    artifacts: tuple[str, ...] = ()
    """Files of its output that are handed to Argo as artifacts."""
    in_sweep: bool = True
    """False: it is no part of the sweep on one machine; somebody asks for it."""

    @property
    def module(self) -> str:
        """Its module."""
        return f"svdjobs.stages.{self.name.replace('-', '_')}"

    def wanted(self, config: SweepConfig) -> bool:
        """Whether a sweep has the stage."""
        return self.section is None or getattr(config, self.section) is not None


# In the order in which one machine runs them: vLLM keeps torch's threads to itself, so evaluate
# comes after all else that computes.
STAGES = (
    Stage("plan", Resources(cpu="1", memory="4Gi", scratch="5Gi")),
    Stage("decompose", Resources(cpu="8", memory="32Gi"), {"unit": "--unit"}),
    Stage("blend", Resources(cpu="4", memory="24Gi"), {"alpha": "--alpha"}),
    Stage("rotations", Resources(cpu="8", memory="32Gi"), section="rotations"),
    Stage(
        "evaluate",
        Resources(cpu="8", memory="64Gi", scratch="100Gi", deadline_seconds=43_200),
        {"checkpoint": "--checkpoint", "unit": "--unit"},
        section="evaluate",
        image="evaluate",
    ),
    Stage("drop-weights", options={"alpha": "--alpha"}, in_sweep=False),
    Stage(
        "report",
        Resources(cpu="2", memory="8Gi", scratch="5Gi"),
        artifacts=("report.html", "junit.xml", "figures"),
    ),
    Stage(
        "gate",
        Resources(cpu="1", memory="2Gi", scratch="1Gi"),
        section="gate",
        artifacts=("gate.md", "junit.xml"),
        in_sweep=False,
    ),
)


def stage(name: str) -> Stage:
    """The stage of that name."""
    return next(one for one in STAGES if one.name == name)


Condition = Literal["succeeded", "ended"]
"""What another task must have come to: success, or its end, however it went."""


@dataclass(frozen=True)
class Task:
    """A stage on a cluster, in its place: once, or once for each unit of a fan-out."""

    name: str
    stage: str
    after: Mapping[str, Condition] = field(default_factory=dict)
    each: str | None = None
    """A fan-out of `runs.shards.fan_outs`: a pod for each of its units."""
    item: str | None = None
    """The input that is the unit."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Inputs that are the same for all units; `{name}` is an input of the chain it is part of."""
    when: Section | None = None
    """Skipped unless the sweep has this section, as plan says."""
    unless_kept: bool = False
    """Skipped unless weights are not to be kept."""


@dataclass(frozen=True)
class Chain:
    """Tasks that follow each other for each unit of a fan-out, apart from its other units."""

    name: str
    item: str
    """What its unit is called in it."""
    each: str
    tasks: tuple[Task, ...]
    after: Mapping[str, Condition] = field(default_factory=dict)


def _evaluate(checkpoint: str, after: Mapping[str, Condition]) -> Task:
    """A checkpoint on every share of the benchmarks."""
    given = {"checkpoint": checkpoint}
    return Task("evaluate", "evaluate", after, each="evaluate", item="unit", given=given)


_ANSWERED: Mapping[str, Condition] = {"evaluate-after": "ended"}
SWEEP: tuple[Task | Chain, ...] = (
    Task("plan", "plan"),
    Task("decompose", "decompose", {"plan": "succeeded"}, each="decompose", item="unit"),
    Task(
        "evaluate-after", "evaluate", {"plan": "succeeded"}, each="evaluate", item="unit",
        given={"checkpoint": "after"},
    ),
    Task(
        "rotations", "rotations", {"plan": "succeeded", "decompose": "succeeded"}, when="rotations"
    ),
    Chain(
        "alphas", "alpha", "alphas",
        (
            Task("blend", "blend", given={"alpha": "{alpha}"}),
            _evaluate("{alpha}", {"blend": "succeeded"}),
            Task(
                "drop-weights", "drop-weights", {"evaluate": "succeeded"},
                given={"alpha": "{alpha}"}, unless_kept=True,
            ),
        ),
        after={"decompose": "succeeded", "plan": "succeeded", **_ANSWERED},
    ),
    Chain(
        "baselines", "checkpoint", "baselines", (_evaluate("{checkpoint}", {}),),
        after={"plan": "succeeded", **_ANSWERED},
    ),
    Task(
        "report", "report",
        {"plan": "ended", "alphas": "ended", "baselines": "ended", "rotations": "ended"},
    ),
    Task("gate", "gate", {"report": "succeeded"}, when="gate"),
)  # fmt: skip


def tasks() -> Iterator[Task]:
    """Every task, those of chains in their place."""
    for one in SWEEP:
        yield from one.tasks if isinstance(one, Chain) else (one,)


def fan_outs() -> list[str]:
    """What plan hands on: units by fan-out, and which sections there are."""
    found = [one.each for one in (*tasks(), *SWEEP) if one.each]
    found += [task.when for task in tasks() if task.when]
    return list(dict.fromkeys(found))
