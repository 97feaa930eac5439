"""The checkpoint ids of a run, and the prefix of each output in its store."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from svdjobs.config import ALL, AUTO, REPEAT_ID, SweepConfig, alpha_id
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
    """Whether square-side vectors are computed, or singular values only."""


def targets(config: SweepConfig) -> list[Target]:
    """The checkpoints of the sweep, and whether each needs vectors.

    The checkpoint that gives the blends their bases (`after`, unless reversed) needs vectors, and
    so does the rotation chain. The other checkpoint needs singular values only. If it is also an
    end of the chain, it is decomposed a second time, as base or rl2: singular values that are
    computed with vectors differ in the last bits, and rotations must not change the blends.
    """
    by_id = {
        "before": Target("before", config.before, config.bases_of == "before"),
        "after": Target("after", config.after, config.bases_of == "after"),
    }
    for checkpoint_id, source in rotation_chain(config).items():
        by_id.setdefault(checkpoint_id, Target(checkpoint_id, source, True))
    return list(by_id.values())


def decompose_targets(config: SweepConfig) -> list[Target]:
    """The `targets` that the sweep decomposes: all, or none if nothing needs factors."""
    needed = config.alphas or config.rotations or config.variants or config.map
    return targets(config) if needed else []


def rotation_chain(config: SweepConfig) -> dict[str, str]:
    """Sources of base, rl1 and rl2 in this order, by checkpoint id; empty without rotations."""
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
    """The source in the config of `before` or `after`."""
    return config.before if role == "before" else config.after


def config_source(config: SweepConfig, checkpoint_id: str) -> str:
    """Source of the checkpoint whose config.json an evaluated one has: for a blend, that of its
    bases, and for a variant `after`."""
    if checkpoint_id in config.checkpoints:
        return config.checkpoints[checkpoint_id]
    if checkpoint_id == "before":
        return config.before
    blend = checkpoint_id not in {*baseline_ids(config), *config.variants}
    return source(config, config.bases_of) if blend else config.after


def baseline_ids(config: SweepConfig) -> list[str]:
    """Ids of the baselines: `before`, `after`, and with `repeat_after` also `after-again`."""
    repeat = [REPEAT_ID] if config.evaluate and config.evaluate.repeat_after else []
    return ["before", "after", *repeat]


def evaluated_ids(config: SweepConfig) -> list[str]:
    """Ids of all that the run evaluates: the baselines, every alpha, further checkpoints, and the
    variants."""
    alphas = [alpha_id(alpha) for alpha in config.alphas]
    return [*baseline_ids(config), *alphas, *config.checkpoints, *config.variants]


def sampled_ids(config: SweepConfig) -> list[str]:
    """Ids of the evaluated checkpoints that draw completions; the others only read."""
    evaluate = config.evaluate
    if evaluate is None:
        return []
    ids, wanted = evaluated_ids(config), {"after", *evaluate.sampled}
    if ALL in wanted or (AUTO in wanted and not evaluate.readable):
        return ids
    if AUTO in wanted:
        wanted |= {"before", REPEAT_ID, alpha_id(0.0)}
        wanted |= {config.gate.checkpoint} if config.gate else set()
    return [checkpoint_id for checkpoint_id in ids if checkpoint_id in wanted]


def read_ids(config: SweepConfig) -> list[str]:
    """Ids of the checkpoints that read after's completions.

    These are all evaluated ones but the second evaluation of `after`, whose weights are the same,
    and a `before` with its own tokenizer, to which after's token ids mean other tokens.
    """
    if config.evaluate is None or config.evaluate.read == 0:
        return []
    own = {"before"} if config.before_has_own_tokenizer else set()
    return [i for i in evaluated_ids(config) if i not in {REPEAT_ID, *own}]


def slug(source: str) -> str:
    """A hub id as part of a key: `owner--name@revision`."""
    return source.replace("/", "--")


def fetched_prefix(source: str) -> str:
    """Prefix of the copy of a hub checkpoint."""
    return f"fetched/{slug(source)}"


def benchmark_prefix(name: str) -> str:
    """Prefix of the copy of a benchmark from the hub. No slug of a hub checkpoint has this name."""
    return f"fetched/benchmarks/{name}"


def factors_prefix(checkpoint_id: str) -> str:
    """Prefix of a checkpoint's factors."""
    return f"factors/{checkpoint_id}"


def checkpoint_prefix(alpha: float) -> str:
    """Prefix of a blended checkpoint."""
    return f"{CHECKPOINTS}/{alpha_id(alpha)}"


def results_prefix(checkpoint_id: str, benchmark: str) -> str:
    """Prefix of a checkpoint's completions on a benchmark."""
    return f"results/{checkpoint_id}/{benchmark}"


def grades_prefix(checkpoint_id: str, benchmark: str) -> str:
    """Prefix of the grades of a checkpoint's completions, and of their summary."""
    return f"grades/{checkpoint_id}/{benchmark}"


def map_prefix(benchmark: str) -> str:
    """Prefix of the map's cells on a benchmark."""
    return f"map/{benchmark}"


def evaluation_prefix(config: SweepConfig, checkpoint_id: str, benchmark: str) -> str:
    """Prefix of what the evaluation of a checkpoint makes: its completions, or its likelihoods of
    after's if it only reads."""
    sampled = checkpoint_id in sampled_ids(config)
    return (results_prefix if sampled else likelihoods_prefix)(checkpoint_id, benchmark)


def shard_prefix(checkpoint_id: str, shard_id: str) -> str:
    """Prefix of a shard of a checkpoint's completions, until the shards are joined."""
    # share: the historic spelling of shard, in stored keys.
    return f"shares/{checkpoint_id}/{shard_id}"


def second_grades_prefix(checkpoint_id: str, benchmark: str) -> str:
    """Prefix of the second grader's verdicts on a checkpoint's completions."""
    return f"second_grades/{checkpoint_id}/{benchmark}"


def likelihoods_prefix(checkpoint_id: str, benchmark: str) -> str:
    """Prefix of a checkpoint's likelihoods of after's completions."""
    return f"likelihoods/{checkpoint_id}/{benchmark}"


def plan_settings(config: SweepConfig) -> dict[str, Any]:
    """The settings that a plan depends on."""
    other_stages = {
        *("name", "store", "tokenizer", "evaluate", "report", "gate", "direction"),
        *("checkpoints", "variants", "map", "metrics", "compute"),
    }
    return {**config.model_dump(mode="json", exclude=other_stages), **direction_settings(config)}


def direction_settings(config: SweepConfig) -> dict[str, str]:
    """The direction as a setting of an output key; empty for the usual one.

    Outputs made before there was a direction stay current this way.
    """
    return {} if config.direction == "forward" else {"direction": config.direction}


def check_alphas_are_planned(store: Store, config: SweepConfig) -> None:
    """Check that the plan, if there is one, has every alpha of the config.

    Raises:
        IncompleteError: alphas are missing in the plan. A later stage would refuse it, hours later.
    """
    manifest = find_manifest(store, PLAN_PREFIX) if config.alphas else None
    if manifest is None:
        return
    missing = [alpha for alpha in config.alphas if alpha not in manifest.config["alphas"]]
    if missing:
        raise IncompleteError(
            f"the plan in {store.url} has no alpha {', '.join(map(str, missing))}. Run `svdjobs "
            f"plan` with this config first, then `svdjobs blend`; what is still valid is kept."
        )


def load_plan(store: Store, config: SweepConfig, *, stage: str) -> Plan:
    """The plan of the run.

    Raises:
        OutputError: the store holds another run.
        IncompleteError: `plan` has not been run, or has been run with other settings.
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
