"""The whole sweep on this machine: the same stages, in order, in one process."""

from __future__ import annotations

from svdjobs.checkpoint.selection import coverage_line
from svdjobs.config import SweepConfig
from svdjobs.progress import duration, say, size
from svdjobs.records import Gate, Manifest, Plan
from svdjobs.stages import blend, decompose, evaluate, gate, plan, report, rotations
from svdjobs.storage.store import open_store


def sweep(config: SweepConfig, *, force: bool = False) -> Manifest:
    """Run every stage of a sweep up to the report; what is finished is skipped. Returns the
    report's manifest; the verdict on it is `judge`'s."""
    store = open_store(config.store_url)
    made = plan.run(config, store, force=force)
    for line in describe(made):
        say(line)
    if words := gate.foresee(config):
        say(words)
    decompose.run(config, store, force=force)
    blend.run(config, store, force=force)
    if config.rotations:
        rotations.run(config, store, force=force)
    if config.evaluate:  # after all that computes here: vLLM keeps torch's threads to itself
        evaluate.run(config, store, force=force)
    return report.run(config, store, force=force)


def judge(config: SweepConfig, *, force: bool = False) -> Gate | None:
    """The verdict on a finished sweep; None without a gate."""
    if config.gate is None:
        return None
    store = open_store(config.store_url)
    gate.run(config, store, force=force)
    return gate.load(store)


def describe(made: Plan) -> list[str]:
    """What a person wants to know of a plan before spending an hour on it."""
    shapes: dict[tuple[int, ...], int] = {}
    for tensor in made.selected:
        shapes[tensor.shape] = shapes.get(tensor.shape, 0) + 1
    largest = sorted(shapes.items(), key=lambda item: -item[0][0] * item[0][1])
    matrices = ", ".join(f"{count} of {m}×{n}" for (m, n), count in largest[:8])
    cost = made.estimate
    lines = [
        f"{made.architecture}: {coverage_line(made.tensors)}",
        f"matrices: {matrices}{' …' if len(largest) > 8 else ''}",
        f"about {duration(cost.decompose_seconds)} to decompose and "
        f"{duration(cost.blend_seconds)} to blend on this machine "
        f"({cost.machine_gflops:.0f} float64 Gflop/s); evaluation comes on top",
        f"reads {size(cost.bytes_read)}, writes {size(cost.bytes_written)}, "
        f"needs {size(cost.peak_memory_bytes)} of memory per process"
        + (f", {size(cost.disk_free_bytes)} disk free" if cost.disk_free_bytes else ""),
    ]
    if made.only_in_before:
        lines.append(
            f"{len(made.only_in_before)} tensors are in before only and play no part, e.g. "
            f"{made.only_in_before[0]}"
        )
    return lines
