"""Which tensors were blended, and how much of each blend survives rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import get_args

from svdjobs.checkpoint.selection import coverage
from svdjobs.config import StorageDtype, alpha_id
from svdjobs.records import Interval
from svdjobs.reporting.data import (
    Answer,
    Cell,
    Content,
    Question,
    Row,
    Section,
    Table,
    number,
    two_digits,
)
from svdjobs.statistics import (
    LARGEST_CAST_ERROR,
    cast_error_total,
    realised_total,
    spectrum_shift,
)

_REASONS = {
    "ndim!=2": "norms and biases, which are no matrices",
    "router": "routers of experts, which are measured only",
}
"""Reasons whose key does not say enough."""


def in_words(reason: str) -> str:
    """Why a tensor was not blended, for a reader."""
    return _REASONS.get(reason, reason.replace("_", " "))


def _rounding_headline(content: Content, alone: float) -> str:
    shift = spectrum_shift(next(records for records in content.blends.values() if records))
    most = " Most of it may be rounding, not training." if alone > shift / 2 else ""
    return (
        f"Rounding: over all blended matrices, singular values moved by {shift:.2g} of their norm; "
        f"storing weights in 16 bits alone is expected to move them by {alone:.2g}.{most}"
    )


def realised_table(content: Content) -> Table:
    """The fraction of each blend that each dtype keeps, and the rounding error, by alpha."""
    dtypes, bases = get_args(StorageDtype), content.config.bases_of
    rows = []
    for alpha, records in content.blends.items():
        fractions, errors = realised_total(records), cast_error_total(records)
        cells = [
            number(totals[dtype], f".{digits}")
            for dtype in dtypes
            for totals, digits in ((fractions, "4f"), (errors, "2g"))
        ]
        guarded = sum(record.guarded for record in records)
        signal = sum(record.signal_norm**2 for record in records) ** 0.5
        weight = sum(record.weight_norm**2 for record in records) ** 0.5
        relative = abs(1 - alpha) * signal / weight if weight else 0.0
        label = f"{alpha:g}" + ("" if 0 <= alpha <= 1 else " (extrapolation)")
        rows.append([label, number(relative, ".3g"), *cells, number(guarded)])
    return Table(
        "realised",
        "What rounding leaves of the blend",
        "Size of the blend, ‖(1−alpha)·D‖/‖W‖, and what being rounded to each dtype makes of it: "
        f"the share of it that survives (0 means that the checkpoint is {bases} again), and "
        f"`error`, the rounding noise in the difference to {bases} as a share of that. An error of "
        f"more than {LARGEST_CAST_ERROR} makes a KL divergence from after more than 9 % too large, "
        f"whatever share survives. This sweep stores {content.config.blend.storage_dtype}. "
        f"`guarded` directions have no singular value of {bases} to blend and are left alone.",
        ["alpha", "blend size", *(x for d in dtypes for x in (d, f"error in {d}")), "guarded"],
        rows,
    )


def coverage_table(content: Content) -> Table:
    """The numbers of tensors and parameters that were blended, and of the others by reason."""
    taken = _taken(content)
    tensors: Counter[str] = Counter(tensor.skip or "blended" for tensor in content.plan.tensors)
    parameters = coverage(content.plan.tensors)
    total = sum(parameters.values()) or 1
    rows = [
        [
            taken if kind == "blended" else in_words(kind),
            number(tensors[kind]),
            number(elements, ","),
            Cell(f"{100 * elements / total:.2f} %", 100 * elements / total),
        ]
        for kind, elements in sorted(parameters.items(), key=lambda item: -item[1])
    ]
    return Table(
        "coverage",
        "Coverage",
        f"Tensors that were {taken}, and the reason for each that was not"
        + (f" but copied from {content.config.bases_of}." if content.config.alphas else "."),
        ["tensors", "count", "parameters", "share"],
        rows,
    )


def _numbers(content: Content) -> Iterator[Row]:
    for alpha, records in content.blends.items():
        size = abs(1 - alpha) * spectrum_shift(records)
        yield "-", alpha_id(alpha), "blend_size", Interval(value=size)
        for dtype, fraction in realised_total(records).items():
            if fraction is not None:
                yield "-", alpha_id(alpha), f"realised_in_{dtype}", Interval(value=fraction)
        for dtype, error in cast_error_total(records).items():
            if error is not None:
                yield "-", alpha_id(alpha), f"cast_error_in_{dtype}", Interval(value=error)
    if (alone := content.rounding_alone()) is not None:
        yield "-", "-", "spectrum_shift_of_rounding_alone", Interval(value=alone)


def _answers(content: Content) -> Iterator[Answer]:
    if kept := _kept_words(content):
        yield Answer(Question.ROUNDING, kept)
    if (alone := content.rounding_alone()) is not None:
        yield Answer(Question.ROUNDING, _rounding_headline(content, alone))
    yield Answer(Question.LEFT_OUT, _left_out_words(content))


def _kept_words(content: Content) -> str:
    """What each dtype keeps of the blend at the lowest alpha that is stored."""
    alpha = min((a for a in content.blends if a != 1 and content.blends[a]), default=None)
    if alpha is None:
        return ""
    fractions = realised_total(content.blends[alpha])
    errors = cast_error_total(content.blends[alpha])
    kept = ", ".join(
        f"{dtype} keeps {100 * fraction:.3g} % and adds noise of {100 * error:.2g} % of its size"
        for dtype in get_args(StorageDtype)
        if (fraction := fractions[dtype]) is not None and (error := errors[dtype]) is not None
    )
    stored = content.config.blend.storage_dtype
    if not kept:
        return ""
    return (
        f"Of the blend at alpha = {alpha:g}, rounding to {kept}. Nearer to 1 the blend is smaller "
        f"and the noise is not. Noise of more than {100 * LARGEST_CAST_ERROR:.0f} % drowns what is "
        f"measured; this sweep stores {stored}."
    )


def _left_out_words(content: Content) -> str:
    """How many tensors were taken, and why the others were not."""
    taken, total = _taken(content), len(content.plan.tensors)
    parameters = coverage(content.plan.tensors)
    share = 100 * parameters.get("blended", 0) / (sum(parameters.values()) or 1)
    count = sum(tensor.skip is None for tensor in content.plan.tensors)
    reasons = left_out(content)
    left = f"; not {taken}: {reasons}" if reasons else "; nothing was left out"
    return f"{count} of {total} tensors, {share:.3g} % of the parameters, were {taken}{left}."


def left_out(content: Content) -> str:
    """Why tensors were not blended: `embedding (11 % of the parameters), …`."""
    parameters = coverage(content.plan.tensors)
    whole = sum(parameters.values()) or 1
    return ", ".join(
        f"{in_words(reason)} ({two_digits(elements / whole)} of the parameters)"
        for reason, elements in sorted(parameters.items(), key=lambda item: -item[1])
        if reason != "blended"
    )


def _taken(content: Content) -> str:
    """What was done to the selected matrices."""
    return "blended" if content.config.alphas else "compared"


def _tables(content: Content) -> Iterator[Table]:
    if content.blends:
        yield realised_table(content)
    yield coverage_table(content)


SECTION = Section(70, "Rounding and coverage", answers=_answers, tables=_tables, numbers=_numbers)
