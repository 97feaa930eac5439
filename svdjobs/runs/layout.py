"""Names and places in a run: which checkpoints there are, and under which prefix what lies."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from svdjobs.config import REPEAT_ID, SweepConfig, alpha_id
from svdjobs.errors import IncompleteError
from svdjobs.records import Plan
from svdjobs.runs.outputs import check_run, find_manifest, read_finished, require
from svdjobs.storage.objects import record_in
from svdjobs.storage.store import Store

PLAN_PREFIX = "plan"
CHECKPOINTS = "checkpoints"
ROTATIONS = "rotations"
IDENTITIES = "identities.json"


class Target(NamedTuple):
    """A checkpoint to decompose."""

    checkpoint_id: str
    source: str
    vectors: bool
    """Whether the square-side vectors are needed, or only singular values."""


def targets(config: SweepConfig) -> list[Target]:
    """Checkpoints of the sweep, and what of each would be decomposed: the one that gives a blend's
    bases (after, unless reversed) with vectors, the other with values, and the rotation chain with
    vectors.

    Where the other is an end of the chain it is decomposed once more, as base or rl2: values
    computed beside vectors have other last bits, and what is blended must not depend on what else
    is measured.
    """
    found = {
        "before": Target("before", config.before, config.bases_of == "before"),
        "after": Target("after", config.after, config.bases_of == "after"),
    }
    for checkpoint_id, source in rotation_chain(config).items():
        found.setdefault(checkpoint_id, Target(checkpoint_id, source, True))
    return list(found.values())


def decompose_targets(config: SweepConfig) -> list[Target]:
    """Those of them that anything is made of: none without alphas and without rotations."""
    return targets(config) if config.alphas or config.rotations else []


def rotation_chain(config: SweepConfig) -> dict[str, str]:
    """Ids and sources of base, rl1, rl2 in this order; empty without rotations."""
    rotations = config.rotations
    if rotations is None:
        return {}
    bases = source(config, config.bases_of)
    base, rl2 = rotations.base or config.before, rotations.rl2 or config.after
    return {
        ("before" if config.bases_of == "before" and base == bases else "base"): base,
        "rl1": rotations.rl1,
        ("after" if config.bases_of == "after" and rl2 == bases else "rl2"): rl2,
    }


def source(config: SweepConfig, role: Literal["before", "after"]) -> str:
    """The checkpoint of a role, as the config names it."""
    return config.before if role == "before" else config.after


def baseline_ids(config: SweepConfig) -> list[str]:
    """Checkpoints to compare with: before, after, and after's repetition if asked for."""
    again = [REPEAT_ID] if config.evaluate and config.evaluate.repeat_after else []
    return ["before", "after", *again]


def evaluated_ids(config: SweepConfig) -> list[str]:
    """Checkpoints the run evaluates: the baselines, then every alpha."""
    return [*baseline_ids(config), *(alpha_id(alpha) for alpha in config.alphas)]


def factors_prefix(checkpoint_id: str) -> str:
    """Where a checkpoint's factors lie."""
    return f"factors/{checkpoint_id}"


def checkpoint_prefix(alpha: float) -> str:
    """Where a blended checkpoint lies."""
    return f"{CHECKPOINTS}/{alpha_id(alpha)}"


def results_prefix(checkpoint_id: str, benchmark: str) -> str:
    """Where a checkpoint's completions on a benchmark lie."""
    return f"results/{checkpoint_id}/{benchmark}"


def grades_prefix(checkpoint_id: str, benchmark: str) -> str:
    """Where the grades of a checkpoint's completions lie, and their summary."""
    return f"grades/{checkpoint_id}/{benchmark}"


def shard_prefix(checkpoint_id: str, shard_id: str) -> str:
    """Where a shard of a checkpoint's completions lies until all shards exist."""
    return f"shares/{checkpoint_id}/{shard_id}"


def second_grades_prefix(checkpoint_id: str, benchmark: str) -> str:
    """Where the second grader's verdicts on a checkpoint's completions lie."""
    return f"second_grades/{checkpoint_id}/{benchmark}"


def likelihoods_prefix(checkpoint_id: str, benchmark: str) -> str:
    """Where a checkpoint's likelihoods of after's answers lie."""
    return f"likelihoods/{checkpoint_id}/{benchmark}"


def plan_settings(config: SweepConfig) -> dict[str, Any]:
    """The part of a config that a plan depends on."""
    elsewhere = {"name", "store", "tokenizer", "evaluate", "report", "gate", "direction"}
    return {**config.model_dump(mode="json", exclude=elsewhere), **direction_settings(config)}


def direction_settings(config: SweepConfig) -> dict[str, str]:
    """The direction where it is not the usual one, so that it was no part of older outputs."""
    return {} if config.direction == "forward" else {"direction": config.direction}


def check_alphas_are_planned(store: Store, config: SweepConfig) -> None:
    """Make sure that the plan, where there is one, has every alpha of the config.

    Raises:
        IncompleteError: it lacks some: what is made of them would be refused hours later.
    """
    manifest = find_manifest(store, PLAN_PREFIX) if config.alphas else None
    if manifest is None:
        return
    lacking = [alpha for alpha in config.alphas if alpha not in manifest.config["alphas"]]
    if lacking:
        raise IncompleteError(
            f"the plan in {store.url} lacks alpha {', '.join(map(str, lacking))}. Run `svdjobs "
            f"plan` with this config first, then `svdjobs blend`; what is still valid is kept."
        )


def load_plan(store: Store, config: SweepConfig, *, stage: str) -> Plan:
    """The run's plan.

    Raises:
        OutputError: the store holds another run.
        IncompleteError: `plan` has not been run, or with another config.
    """
    check_run(store, config)
    (manifest,) = require(store, [PLAN_PREFIX], stage=stage)
    settings = plan_settings(config)
    if changed := sorted(key for key in settings if manifest.config.get(key) != settings[key]):
        raise IncompleteError(
            f"the plan in {store.url} was made with other {', '.join(changed)}. Run `svdjobs plan` "
            f"with this config first; what is still valid is kept."
        )
    return record_in(
        Plan, read_finished(store, PLAN_PREFIX, "plan.json", manifest), "plan/plan.json"
    )
