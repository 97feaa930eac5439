"""The graph of stages: which there are, what each waits for, and what each fans out over.

The sweep on one machine (`local`), the Argo Workflow, the Jobs and the estimate of their size
(`cluster/manifests`), the images and the chart are made from it. On one machine a stage does all
its work in one process, so `STAGES` in their order are the sweep. On a cluster, `SWEEP` lists the
pods:

    plan ─ fetch × hub checkpoints ─┐
    ┌───────────────────────────────┘
    ├─ decompose × shards ─┬─ rotations ─────────────────────────────────┐
    │                      ├─ metrics ───────────────────────────────────┤
    │                      ├─ alphas × (blend, evaluate × shards, drop)  ┤
    │                      └─ variants: all of them, and the map ────────┤
    └─ evaluate-after × shards ┴─ baselines × (evaluate × shards) ───────┴─ report ─ gate

With `evaluate.engines`, after the blends instead of every `evaluate` and `variants`:

    engines × (all evaluations, shared)

Alphas, baselines and variants wait for after's completions, which they read. If an alpha fails, the
others go on; report waits until all have ended, also those that failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from svdjobs.config import ENGINES, VARIANTS, SweepConfig
from svdjobs.records import MetricsRow, Record, RotationRow

Section = Literal["rotations", "metrics", "evaluate", "gate"]
"""A section of the config that a stage needs; without it the stage does not run."""
Wanted = Literal["rotations", "metrics", "gate", "variants"]
"""What a config may want or not, as plan reports it: a key of `runs.shards.fan_outs`."""


@dataclass(frozen=True)
class Resources:
    """Resources of a stage's pod, unless the cluster's settings change them."""

    cpu: str = "4"
    memory: str = "16Gi"
    scratch: str = "10Gi"
    deadline_seconds: int | None = None


SMALL = Resources(cpu="500m", memory="1Gi", scratch="1Gi", deadline_seconds=600)
"""Resources of pods that need neither torch nor a GPU; no setting changes them."""


@dataclass(frozen=True)
class Stage:
    """A stage: a command, a module of `svdjobs.stages`, an image target and a pod template."""

    name: str
    resources: Resources = SMALL
    options: Mapping[str, str] = field(default_factory=dict)
    """The inputs that tell a pod its shard: name of the input → command-line option."""
    section: Section | None = None
    """The stage runs only if the config has this section."""
    packages: Literal["core", "gate", "plan", "report", "numerics", "evaluate"] = "core"
    """What its image holds: a lock in images/locks."""
    artifacts: tuple[str, ...] = ()
    """Files of its output that Argo stores as artifacts."""
    rows: type[Record] | None = None
    """The record on each line of the output's .jsonl files. The report gets all of them."""
    in_sweep: bool = True
    """False: `local.sweep` does not run the stage."""

    @property
    def module(self) -> str:
        """Full name of the stage's module."""
        return f"svdjobs.stages.{self.key}"

    @property
    def key(self) -> str:
        """The stage's name as a key of settings."""
        return self.name.replace("-", "_")

    def wanted(self, config: SweepConfig) -> bool:
        """Whether a sweep with this config runs the stage."""
        return self.section is None or getattr(config, self.section) is not None


# In the order in which one machine runs them. vLLM takes over torch's threads, so evaluate comes
# after the other stages that compute.
STAGES = (
    Stage("plan", Resources(cpu="1", memory="4Gi", scratch="5Gi"), packages="plan"),
    Stage(
        "fetch",
        Resources(cpu="2", memory="4Gi", scratch="1Gi"),
        {"source": "--source"},
        in_sweep=False,
    ),
    Stage("decompose", Resources(cpu="8", memory="32Gi"), {"unit": "--unit"}, packages="numerics"),
    Stage("blend", Resources(cpu="4", memory="24Gi"), {"alpha": "--alpha"}, packages="numerics"),
    Stage(
        "rotations",
        Resources(cpu="8", memory="32Gi"),
        section="rotations",
        packages="numerics",
        rows=RotationRow,
    ),
    Stage(
        "metrics",
        Resources(cpu="8", memory="32Gi"),
        section="metrics",
        packages="numerics",
        rows=MetricsRow,
    ),
    Stage(
        "evaluate",
        Resources(cpu="8", memory="64Gi", scratch="100Gi", deadline_seconds=43_200),
        {"checkpoint": "--checkpoint", "unit": "--unit"},
        section="evaluate",
        packages="evaluate",
    ),
    Stage("drop-weights", options={"alpha": "--alpha"}, in_sweep=False),
    Stage(
        "report",
        Resources(cpu="2", memory="8Gi", scratch="5Gi"),
        packages="report",
        artifacts=("report.html", "junit.xml", "figures"),
    ),
    Stage(
        "gate",
        Resources(cpu="1", memory="2Gi", scratch="1Gi"),
        section="gate",
        packages="gate",
        artifacts=("gate.md", "junit.xml"),
        in_sweep=False,
    ),
)


def stage(name: str) -> Stage:
    """The stage with a name."""
    return next(stage for stage in STAGES if stage.name == name)


def stages_with_rows(config: SweepConfig) -> list[Stage]:
    """The stages of a sweep whose rows the report reads. Each has its output under its own name."""
    return [stage for stage in STAGES if stage.rows and stage.wanted(config)]


Condition = Literal["succeeded", "ended"]
"""When a task may start: after another has succeeded, or has ended in any way."""


@dataclass(frozen=True)
class Task:
    """A stage in the graph of a cluster: one pod, or a pod for each shard of a fan-out."""

    name: str
    stage: str
    after: Mapping[str, Condition] = field(default_factory=dict)
    each: str | None = None
    """The fan-out, a key of `runs.shards.fan_outs`: a pod for each of its ids."""
    item: str | None = None
    """The input that gets the id."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Inputs that are the same for all pods; `{name}` is an input of the chain around the task."""
    when: Wanted | None = None
    """Skipped unless the config wants this."""
    unless_kept: bool = False
    """Skipped if weights are to be kept."""


@dataclass(frozen=True)
class Chain:
    """Tasks that run one after the other for each id of a fan-out, independent of the other ids."""

    name: str
    item: str
    """The input of the chain that gets the id."""
    each: str
    tasks: tuple[Task, ...]
    after: Mapping[str, Condition] = field(default_factory=dict)


def _evaluate(checkpoint: str, after: Mapping[str, Condition]) -> Task:
    """The evaluation of a checkpoint on every shard of the benchmarks."""
    given = {"checkpoint": checkpoint}
    return Task("evaluate", "evaluate", after, each="evaluate", item="unit", given=given)


_EVALUATE_AFTER_ENDED: Mapping[str, Condition] = {"evaluate-after": "ended"}
SWEEP: tuple[Task | Chain, ...] = (
    Task("plan", "plan"),
    # If it fails, pods download what they need themselves.
    Task("fetch", "fetch", {"plan": "succeeded"}, each="fetch", item="source"),
    Task(
        "decompose", "decompose", {"plan": "succeeded", "fetch": "ended"}, each="decompose",
        item="unit",
    ),
    Task(
        "evaluate-after", "evaluate", {"plan": "succeeded", "fetch": "ended"}, each="evaluate",
        item="unit",
        given={"checkpoint": "after"},
    ),
    Task(
        "rotations", "rotations", {"plan": "succeeded", "decompose": "succeeded"}, when="rotations"
    ),
    # It uses the factors that there are, and needs none.
    Task("metrics", "metrics", {"plan": "succeeded", "decompose": "ended"}, when="metrics"),
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
        after={"decompose": "succeeded", "plan": "succeeded", **_EVALUATE_AFTER_ENDED},
    ),
    Chain(
        "baselines", "checkpoint", "baselines", (_evaluate("{checkpoint}", {}),),
        after={"plan": "succeeded", **_EVALUATE_AFTER_ENDED},
    ),
    Task(
        "variants", "evaluate",
        {"decompose": "succeeded", "plan": "succeeded", **_EVALUATE_AFTER_ENDED},
        given={"checkpoint": VARIANTS, "unit": "all"}, when="variants",
    ),
    # With evaluate.engines these do what the tasks `evaluate` and `variants` do otherwise. Blends
    # come first, so that no GPU waits for them; one that failed is left out.
    Task(
        "engines", "evaluate",
        {"plan": "succeeded", "decompose": "ended", "alphas": "ended", "baselines": "ended"},
        each="engines", item="unit", given={"checkpoint": ENGINES},
    ),
    Task(
        "report", "report",
        {
            "plan": "ended", "alphas": "ended", "baselines": "ended", "rotations": "ended",
            "metrics": "ended", "variants": "ended", "engines": "ended",
        },
    ),
    Task("gate", "gate", {"report": "succeeded"}, when="gate"),
)  # fmt: skip


def tasks() -> Iterator[Task]:
    """Every task, with those of chains in their place."""
    for entry in SWEEP:
        yield from entry.tasks if isinstance(entry, Chain) else (entry,)


def fan_outs() -> list[str]:
    """Names of the values that plan gives to a workflow: fan-outs, and sections of the config."""
    names = [entry.each for entry in (*tasks(), *SWEEP) if entry.each]
    names += [task.when for task in tasks() if task.when]
    return list(dict.fromkeys(names))
