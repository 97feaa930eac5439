"""A plan in words, for the terminal: what is computed, what it costs, what the report will lack."""

from __future__ import annotations

import math

from svdjobs import escape
from svdjobs.checkpoint.selection import coverage_line, layer_and_family
from svdjobs.config import EvaluateConfig, SweepConfig
from svdjobs.progress import duration, size
from svdjobs.records import Plan
from svdjobs.runs.cost import on_this_machine
from svdjobs.statistics import rounding_shift


def describe(made: Plan, free: int | None = None) -> list[str]:
    """Lines that tell a user what the planned sweep will compute and what it will cost.

    `free` is the number of bytes that the store has left, or None if that is unknown.
    """
    cost, here = made.estimate, on_this_machine(made.estimate)
    what, shapes, *facts = describe_pair(made, "blended")
    costs = [
        f"about {duration(here.decompose_seconds)} to decompose and "
        f"{duration(here.blend_seconds)} to blend on this machine "
        f"({here.gflops:.0f} float64 Gflop/s); evaluation comes on top",
        f"reads {size(cost.bytes_read)}, writes {size(cost.bytes_written)}, "
        f"needs {size(cost.peak_memory_bytes)} of memory per process"
        + (f", {size(free)} disk free" if free is not None else ""),
    ]
    return [what, shapes, *map(escape.message, costs), *facts]


def describe_pair(made: Plan, verb: str) -> list[str]:
    """Lines about the two checkpoints: which of their tensors are taken, and what to know of them.

    `verb` says what is done to these tensors.
    """
    shapes: dict[tuple[int, ...], int] = {}
    for tensor in made.selected:
        shapes[tensor.shape] = shapes.get(tensor.shape, 0) + 1
    largest = sorted(shapes.items(), key=lambda item: -item[0][0] * item[0][1])
    matrices = ", ".join(f"{count} of {m}×{n}" for (m, n), count in largest[:8])
    lines = [
        f"{made.architecture}: {coverage_line(made.tensors, verb)}",
        f"matrices: {matrices}{' …' if len(largest) > 8 else ''}",
    ]
    if made.rounding:
        lines.append(
            f"storing weights in 16 bits alone is expected to move singular values by "
            f"{_rounding(made):.2g} of their norm: what training changed by less is lost"
        )
    if made.only_in_before:
        lines.append(
            f"{len(made.only_in_before)} tensors are only in before and are ignored, e.g. "
            f"{made.only_in_before[0]}"
        )
    return [escape.message(line) for line in lines + made.notes]


def _rounding(made: Plan) -> float:
    """The expected shift of the singular values by rounding alone, over the matrices of a plan.

    The norm of a matrix is estimated from the sampled matrices of its family.
    """
    matrices = []
    for tensor in made.selected:
        family = layer_and_family(tensor.name)[1]
        about = made.rounding.get(family)
        rms = about.weight_rms if about else 0.0
        matrices.append((family, tensor.shape, rms * math.sqrt(tensor.elements)))
    return rounding_shift(matrices, made.rounding)


def lacks(config: SweepConfig) -> list[str]:
    """Sentences that tell a user what the report will not have, and which setting causes it."""
    found = []
    if config.evaluate is None:
        found.append("no accuracy and no likelihood: there is no `evaluate` section")
    else:
        found += _lacks_of_evaluation(config.evaluate)
    if config.rotations is None:
        found.append("no rotation of the bases: there is no `rotations` section")
    elif not config.rotations.null_draws:
        found.append("no random update beside the rotation: rotations.null_draws is 0")
    if not config.alphas:
        found.append("no blend: `alphas` is empty")
    return [f"the report will have {lack}" for lack in found]


def _lacks_of_evaluation(evaluate: EvaluateConfig) -> list[str]:
    found = []
    if evaluate.read == 0:
        found.append("no likelihood of after's answers: evaluate.read is 0")
    elif not evaluate.readable:
        found.append(
            f"no accuracy read from after's answers, and no divergence from after: both need "
            f"completions that are drawn at a temperature above 0 and top_p 1, here "
            f"{evaluate.temperature:g} and {evaluate.top_p:g}"
        )
    if evaluate.temperature == 0 and evaluate.n_samples > 1:
        found.append(
            f"nothing new from {evaluate.n_samples} completions of each problem instead of one: "
            f"at temperature 0 all are the same"
        )
    if evaluate.n_samples == 1:
        found.append("no pass@k but pass@1, and no majority vote: evaluate.n_samples is 1")
    return found
