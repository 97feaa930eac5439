"""The whole sweep on this machine: the same stages, in order, in one process."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from svdjobs import escape
from svdjobs.checkpoint.selection import coverage_line, layer_and_family
from svdjobs.ci.fetch_results import bring_back
from svdjobs.ci.summary import Finding
from svdjobs.config import SweepConfig
from svdjobs.deadline import OutOfTime, deadline
from svdjobs.errors import EXIT_OK, EXIT_REGRESSION, EXIT_TIMED_OUT, EXIT_USAGE
from svdjobs.evaluation import forecast
from svdjobs.progress import duration, say, size
from svdjobs.records import Gate, Manifest, Plan
from svdjobs.runs.cost import on_this_machine
from svdjobs.stages import blend, decompose, evaluate, gate, plan, report, rotations
from svdjobs.statistics import rounding_shift
from svdjobs.storage.open import open_store


def sweep(config: SweepConfig, *, force: bool = False) -> Manifest:
    """Run every stage of a sweep up to the report; what is finished is skipped. Returns the
    report's manifest; the verdict on it is `judge`'s."""
    store = open_store(config.store_url)
    made = plan.run(config, store, force=force)
    for line in describe(made, store.free_bytes()):
        say(line)
    if words := gate.foresee(config):
        say(words)
    evaluate.foresee(config, store)
    for line in forecast.foresee(config, store):
        say(line)
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


def job(
    config: SweepConfig, into: Path, timeout_seconds: int | None, *, write: Callable[[str], None]
) -> Finding:
    """A sweep and its verdict on behalf of a CI job; report and verdict are copied to `into`."""
    store = open_store(config.store_url)
    try:
        with deadline(timeout_seconds):
            sweep(config)
            write(report.closing_words(config, store))
            missing = bring_back(store, into, [report.PREFIX]).missing
            verdict = judge(config)
    except OutOfTime:
        words = (
            f"Not ended within the {timeout_seconds} s of --timeout. What is finished is kept: the "
            f"same command goes on."
        )
        write(words)
        return Finding(config.name, EXIT_TIMED_OUT, words=words)
    if verdict is not None:
        bring_back(store, into, [gate.PREFIX])
        write(f"\n{gate.closing_words(store)}")
    failed = EXIT_REGRESSION if verdict is not None and verdict.failed else EXIT_OK
    code = EXIT_USAGE if missing else failed
    places = [f"Report: {store.url}/report/report.html; here: {into}/report/report.html"]
    return Finding(config.name, code, gate=verdict, missing=missing, places=places)


def _rounding(made: Plan) -> float:
    """Over the matrices of a plan, whose norms are guessed from the samples of their families."""
    matrices = []
    for tensor in made.selected:
        family = layer_and_family(tensor.name)[1]
        about = made.rounding.get(family)
        rms = about.weight_rms if about else 0.0
        matrices.append((family, tensor.shape, rms * math.sqrt(tensor.elements)))
    return rounding_shift(matrices, made.rounding)


def describe(made: Plan, free: int | None = None) -> list[str]:
    """What a person wants to know of a plan before spending an hour on it; `free` is how many bytes
    the store has left, where that is known."""
    shapes: dict[tuple[int, ...], int] = {}
    for tensor in made.selected:
        shapes[tensor.shape] = shapes.get(tensor.shape, 0) + 1
    largest = sorted(shapes.items(), key=lambda item: -item[0][0] * item[0][1])
    matrices = ", ".join(f"{count} of {m}×{n}" for (m, n), count in largest[:8])
    cost, here = made.estimate, on_this_machine(made.estimate)
    lines = [
        f"{made.architecture}: {coverage_line(made.tensors)}",
        f"matrices: {matrices}{' …' if len(largest) > 8 else ''}",
        f"about {duration(here.decompose_seconds)} to decompose and "
        f"{duration(here.blend_seconds)} to blend on this machine "
        f"({here.gflops:.0f} float64 Gflop/s); evaluation comes on top",
        f"reads {size(cost.bytes_read)}, writes {size(cost.bytes_written)}, "
        f"needs {size(cost.peak_memory_bytes)} of memory per process"
        + (f", {size(free)} disk free" if free is not None else ""),
    ]
    if made.rounding:
        lines.append(
            f"storing weights in 16 bits alone is expected to move singular values by "
            f"{_rounding(made):.2g} of their norm: what training did less than that is lost in it"
        )
    if made.only_in_before:
        lines.append(
            f"{len(made.only_in_before)} tensors are in before only and play no part, e.g. "
            f"{made.only_in_before[0]}"
        )
    return [escape.message(line) for line in lines + made.notes]
