"""plan: decide from headers and configs what a sweep does and costs, or why it cannot run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from svdjobs.checkpoint.heads import missing_head, other_head
from svdjobs.checkpoint.matrices import matrices
from svdjobs.checkpoint.pairing import rounding_of, what_speaks_against
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.selection import core_coverage, select
from svdjobs.config import SweepConfig
from svdjobs.errors import CheckpointError, ConfigError, DamagedError
from svdjobs.fingerprint import fingerprint
from svdjobs.progress import say, size
from svdjobs.records import Estimate, Plan, TensorPlan
from svdjobs.runs import cost, layout
from svdjobs.runs.checkpoints import RunCheckpoints, checkpoint_sources
from svdjobs.runs.outputs import Output, OutputKey, begin, check_run, note_run
from svdjobs.storage.store import Store
from svdjobs.variant_config import VariantConfig
from svdjobs.weights.variants import areas, check_directions

STAGE = "plan"
VERSION = "5"
STORAGE_ITEM_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


def run(config: SweepConfig, store: Store, *, force: bool = False) -> Plan:
    """Make the plan, or read the finished one.

    Raises:
        CheckpointError: the checkpoints cannot be swept; the error gives every reason.
    """
    check_run(store, config)
    opened = _open_all(config)
    output = _output(config, store, opened, force=force)
    if output.finished:
        note_run(store, config)
        try:
            plan = layout.load_plan(store, config, stage=STAGE)
            _check_what_is_evaluated(config, plan, opened)
            return plan
        except DamagedError as error:  # a plan costs seconds
            say(f"{error} Making the plan again.")
            output = _output(config, store, opened, force=True)
    plan = make(config, store, opened)
    _check_what_is_evaluated(config, plan, opened)
    note_run(store, config)
    output.write_json("plan.json", plan.model_dump(mode="json"))
    output.commit()
    return plan


def _check_what_is_evaluated(
    config: SweepConfig, plan: Plan, opened: dict[str, Checkpoint]
) -> None:
    """Check further checkpoints, variants and the map, which the plan does not depend on.

    Raises:
        CheckpointError: some cannot be evaluated; the error gives every reason.
    """
    checkpoints, after = RunCheckpoints(config), opened["after"]
    reasons = []
    for name, source in config.checkpoints.items():
        try:
            reasons += _mismatches(name, checkpoints.headers(source), after)
            if config.metrics:
                view = matrices(checkpoints.headers(source)).view
                reasons += _without(name, view, plan.selected)
        except CheckpointError as error:
            reasons.append(f"{name}: {error}")
    parts = {f"variants.{name}": spec for name, spec in config.variants.items()}
    maps = {"map": config.map} if config.map else {}
    for where, part in {**parts, **maps}.items():
        try:
            found = areas(part, plan.selected, after.config, where)
            if isinstance(part, VariantConfig):
                check_directions(part, plan.selected, found, where)
        except ConfigError as error:
            reasons.append(str(error))
    if reasons:
        raise CheckpointError("\n  ".join(["this sweep cannot run:", *reasons]))


def hash_checkpoints(config: SweepConfig, store: Store) -> None:
    """Hash every checkpoint and store the hashes, so no pod of a fan-out has to."""
    checkpoints = RunCheckpoints(config)
    for source in checkpoint_sources(config):
        checkpoints.identity(source, store)


def make(config: SweepConfig, store: Store, opened: dict[str, Checkpoint]) -> Plan:
    """Make the plan of a sweep over opened checkpoints.

    Raises:
        CheckpointError: they cannot be swept; the error gives every reason.
    """
    before, after = opened["before"], opened["after"]
    bases, values = opened[config.bases_of], opened[config.values_of]
    tensors = select(values, bases, config.selection)
    if config.direction == "reverse":
        tensors = [_missing_in_after(tensor) for tensor in tensors]
    chosen = [tensor for tensor in tensors if tensor.skip is None]
    estimate = _estimate(config, opened, tensors)
    _refuse(config, store, opened, tensors, estimate)
    parts = cost.balanced_parts(chosen, config.decompose.parts or cost.part_count(chosen))
    return Plan(
        before=config.before,
        after=config.after,
        architecture=after.architecture,
        tensors=tensors,
        parts=parts,
        only_in_before=_left_out(before, after) if values is before else [],
        notes=[
            *_direction(config, opened),
            *_notes(opened),
            *_dtype_changes(before, after, chosen),
        ],
        rounding=rounding_of(before, after, chosen),
        estimate=estimate,
    )


def _left_out(values: Checkpoint, bases: Checkpoint) -> list[str]:
    """Names of tensors that are missing in the bases, so they are in no blend."""
    return sorted(set(values.entries) - set(bases.entries))


def _missing_in_after(tensor: TensorPlan) -> TensorPlan:
    """Correct a skip reason of a reversed sweep, whose missing values are those of `after`."""
    if tensor.skip == "missing_in_before":
        return tensor.model_copy(update={"skip": "missing_in_after"})
    return tensor


def _direction(config: SweepConfig, opened: dict[str, Checkpoint]) -> list[str]:
    """Notes on the direction of a reversed sweep."""
    if config.direction == "forward":
        return []
    notes = [
        "direction reverse: blends have before's singular vectors; alpha = 1 is before, alpha = 0 "
        "has after's singular values."
    ]
    if names := _left_out(opened["after"], opened["before"]):
        notes.append(f"{len(names)} tensors are in after only and play no part, e.g. {names[0]}")
    return notes


def _notes(opened: dict[str, Checkpoint]) -> list[str]:
    """Notes on checkpoints that are not read as they are stored."""
    return [
        f"{role}: {note}"
        for role, checkpoint in _distinct(opened).items()
        for note in (*checkpoint.notes, other_head(checkpoint))
        if note
    ]


def _dtype_changes(before: Checkpoint, after: Checkpoint, chosen: list[TensorPlan]) -> list[str]:
    """A note if `before` and `after` store matrices in different dtypes."""
    pairs = Counter((before.entries[t.name].dtype, after.entries[t.name].dtype) for t in chosen)
    if not (changed := {pair: count for pair, count in pairs.items() if pair[0] != pair[1]}):
        return []
    counts = ", ".join(f"{n} of {len(chosen)} from {b} to {a}" for (b, a), n in changed.items())
    return [
        f"the dtype of matrices changes from before to after ({counts}): rounding to the narrower "
        f"one is part of what is measured as their difference."
    ]


def _open_all(config: SweepConfig) -> dict[str, Checkpoint]:
    """Open the headers of every checkpoint of the run. Returns them by checkpoint id.

    Two ids of one source give the same object.

    Raises:
        CheckpointError: some cannot be opened; the error gives every reason.
    """
    targets = layout.targets(config)
    checkpoints = RunCheckpoints(config)
    ids: dict[str, str] = {}
    for target in targets:
        ids.setdefault(target.source, target.checkpoint_id)
    by_source: dict[str, Checkpoint] = {}
    reasons: list[str] = []
    for source, checkpoint_id in ids.items():
        try:
            by_source[source] = matrices(checkpoints.headers(source)).view
        except CheckpointError as error:
            reasons.append(f"{checkpoint_id}: {error}")
    if reasons:
        raise CheckpointError("\n  ".join(["this sweep cannot run:", *reasons]))
    return {target.checkpoint_id: by_source[target.source] for target in targets}


def _distinct(opened: dict[str, Checkpoint]) -> dict[str, Checkpoint]:
    """The opened checkpoints without repetitions, each under its first id."""
    distinct: dict[str, Checkpoint] = {}
    for checkpoint_id, checkpoint in opened.items():
        if not any(checkpoint is other for other in distinct.values()):
            distinct[checkpoint_id] = checkpoint
    return distinct


def _output(
    config: SweepConfig, store: Store, opened: dict[str, Checkpoint], *, force: bool
) -> Output:
    """Open the plan's output. Its key has all headers, so a changed checkpoint gets a new plan."""
    headers = {
        checkpoint_id: fingerprint(
            {
                "config": checkpoint.config,
                "tensors": {n: [e.dtype, e.shape] for n, e in checkpoint.entries.items()},
            }
        )
        for checkpoint_id, checkpoint in opened.items()
    }
    return begin(
        store,
        layout.PLAN_PREFIX,
        OutputKey(
            stage=STAGE,
            version=VERSION,
            config=layout.plan_settings(config),
            inputs=headers,
        ),
        force=force,
    )


def _estimate(
    config: SweepConfig, opened: dict[str, Checkpoint], tensors: list[TensorPlan]
) -> Estimate:
    chosen = [tensor for tensor in tensors if tensor.skip is None]
    targets = layout.decompose_targets(config)
    decompose = sum(
        cost.decompose_flops(tensor.shape, vectors=target.vectors)
        for target in targets
        for tensor in chosen
    )
    blend = sum(cost.blend_flops(tensor.shape) for tensor in chosen)
    item = STORAGE_ITEM_BYTES[config.blend.storage_dtype]
    bases = config.bases_of
    elements = {entry.name: entry.elements for entry in opened[bases].entries.values()}
    checkpoints = len(config.alphas) * config.blend.write_checkpoints
    written = item * sum(elements.values()) * checkpoints
    vector_item = STORAGE_ITEM_BYTES[config.decompose.vectors]
    vector_bytes = sum(
        vector_item * min(t.shape) ** 2 for target in targets if target.vectors for t in chosen
    )
    factor_bytes = vector_bytes + sum(8 * min(t.shape) for _ in targets for t in chosen)
    weights = {
        checkpoint_id: sum(entry.bytes for entry in checkpoint.entries.values())
        for checkpoint_id, checkpoint in opened.items()
    }
    blended = sum(elements[tensor.name] for tensor in chosen)
    return Estimate(
        decompose_flops=decompose,
        blend_flops=blend,
        blended_elements=blended * len(config.alphas),
        bytes_read=sum(weights.values()) + weights[bases] + factor_bytes,
        bytes_written=factor_bytes + written,
        vector_bytes=vector_bytes,
        checkpoint_bytes=written,
        peak_memory_bytes=cost.PROCESS_BYTES + cost.peak_tensor_bytes(chosen),
    )


def _refuse(
    config: SweepConfig,
    store: Store,
    opened: dict[str, Checkpoint],
    tensors: list[TensorPlan],
    estimate: Estimate,
) -> None:
    after, chosen = opened["after"], [tensor for tensor in tensors if tensor.skip is None]
    reasons = [why for c in _distinct(opened).values() if (why := missing_head(c))]
    for checkpoint_id, other in _distinct(opened).items():
        if checkpoint_id != "after":
            reasons += _mismatches(checkpoint_id, other, after)
    if not chosen:
        reasons.append(
            "no tensor is left to blend: every one is skipped. See `selection` in the config."
        )
    elif reason := _low_coverage(config, tensors):
        reasons.append(reason)
    blended = config.alphas or config.variants or config.map or config.evaluate
    if blended and not reasons:
        reasons += what_speaks_against(opened["before"], after, chosen)
    for checkpoint_id in layout.rotation_chain(config):
        reasons += _without(checkpoint_id, opened[checkpoint_id], chosen)
    free = store.free_bytes()
    # bytes_written includes outputs that an earlier run has already written.
    stored = sum(store.sizes("").values())
    if free is not None and estimate.bytes_written > free + stored:
        reasons.append(
            f"not enough disk: the sweep writes {size(estimate.bytes_written)}, {store.url} has "
            f"{size(free)} left. {_to_write_less(config, estimate)}"
        )
    if reasons:
        raise CheckpointError("\n  ".join(["this sweep cannot run:", *reasons]))


def _to_write_less(config: SweepConfig, estimate: Estimate) -> str:
    """What to do if a sweep writes too much, and how much each saves."""
    checkpoints = estimate.checkpoint_bytes
    savings = []
    if checkpoints and config.evaluate:
        savings.append(f"blend.write_checkpoints false (saves {size(checkpoints)})")
    elif checkpoints:
        savings.append(f"fewer alphas (each {size(checkpoints // len(config.alphas))})")
    if config.decompose.vectors == "float64":
        savings.append(f"decompose.vectors float32 (saves {size(estimate.vector_bytes // 2)})")
    return f"Set {', '.join(savings)}; or use another `store`." if savings else "Use another one."


def _low_coverage(config: SweepConfig, tensors: list[TensorPlan]) -> str | None:
    """The reason to refuse a sweep that blends too few of the attention and MLP parameters."""
    coverage, others = core_coverage(tensors)
    if coverage >= config.selection.minimum_coverage:
        return None
    by_size = sorted(others.items(), key=lambda item: -item[1])
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in by_size)
    largest = max((t for t in tensors if t.skip in others), key=lambda t: t.elements)
    return (
        f"{100 * coverage:.1f} % of the attention and MLP parameters would be blended, expected "
        f"are at least {100 * config.selection.minimum_coverage:.0f} %. The others, by reason: "
        f"{reasons} (the largest is {largest.name} {list(largest.shape)}: {largest.skip}). Set "
        f"selection.minimum_coverage to {math.floor(100 * coverage) / 100:g} to go on."
    )


def _mismatches(checkpoint_id: str, other: Checkpoint, after: Checkpoint) -> list[str]:
    """Reasons why a checkpoint cannot be compared with `after`."""
    reasons = []
    if other.architecture != after.architecture:
        reasons.append(
            f"different architectures: {checkpoint_id} is {other.architecture}, after is "
            f"{after.architecture}"
        )
    if other.config.get("vocab_size") != after.config.get("vocab_size"):
        reasons.append(
            f"different vocabularies: {checkpoint_id} has {other.config.get('vocab_size')} tokens, "
            f"after has {after.config.get('vocab_size')}; their completions cannot be compared"
        )
    return reasons


def _without(checkpoint_id: str, checkpoint: Checkpoint, chosen: Sequence[TensorPlan]) -> list[str]:
    """The reason that a checkpoint lacks matrices; empty if it has all of them."""
    missing = [t.name for t in chosen if _shape(checkpoint, t.name) != t.shape]
    if not missing:
        return []
    return [
        f"{len(missing)} of the {len(chosen)} matrices are missing in {checkpoint_id}, or have "
        f"another shape there, e.g. {missing[0]}"
    ]


def _shape(checkpoint: Checkpoint, name: str) -> tuple[int, ...] | None:
    entry = checkpoint.entries.get(name)
    return entry.shape if entry else None
