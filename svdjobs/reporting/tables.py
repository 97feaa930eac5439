"""The tables and sentences of a report, in reading order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import get_args

from svdjobs.checkpoint.selection import coverage
from svdjobs.config import StorageDtype
from svdjobs.records import RotationRow
from svdjobs.reporting import accuracy
from svdjobs.reporting.data import Content, Table
from svdjobs.statistics import (
    LARGEST_CAST_ERROR,
    cast_error_total,
    realised_total,
    spectrum_shift,
)


def headlines(content: Content) -> list[str]:
    """The answers in sentences, each with its interval."""
    lines = accuracy.headlines(content)
    if (alone := content.rounding_alone()) is not None:
        lines.append(_rounding_headline(content, alone))
    if content.rotations:
        lines += [_rotation_headline(content.rotations), *_turn_headline(content.rotations)]
    return lines


def _rounding_headline(content: Content, alone: float) -> str:
    shift = spectrum_shift(next(records for records in content.blends.values() if records))
    most = " Most of it may be rounding, not training." if alone > shift / 2 else ""
    return (
        f"Rounding: over all blended matrices, singular values moved by {shift:.2g} of their norm; "
        f"storing weights in 16 bits alone is expected to move them by {alone:.2g}.{most}"
    )


def _rotation_headline(rows: list[RotationRow]) -> str:
    shift = _median([row.metrics.get("nss") for row in rows])
    null = _median([row.null.get("nss") or row.null.get("nss_formula") for row in rows])
    share = _median([row.metrics.get("touchable_share") for row in rows])
    if shift is None or null is None or share is None:
        return "Spectra: no update to measure."
    return (
        f"Spectra: the median matrix moved its singular values by {shift:.2g} of their norm (a "
        f"random update of the same size: {null:.2g}), and {100 * share:.2g} % of its update lies "
        f"along directions a singular-value blend can touch."
    )


def _turn_headline(rows: list[RotationRow]) -> list[str]:
    """How far the bases turned, beside random updates of the same size."""
    found = []
    for side in ("u", "vh"):
        key = f"angle_rms_{side}"
        turned = _median([row.metrics.get(key) for row in rows])
        null = _median([row.null.get(key) for row in rows])
        if turned is not None and null is not None:
            found.append(f"{turned:.2g} rad on the {_SIDES[side]} ({null:.2g})")
    if not found:
        return []
    return [
        f"Rotation: the leading singular bases of the median matrix turned by "
        f"{' and '.join(found)}; in brackets what random updates of the same size turn them by."
    ]


_SIDES = {"u": "left", "vh": "right"}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def coverage_table(content: Content) -> Table:
    """How many tensors and parameters were blended, and why the others were not."""
    tensors: Counter[str] = Counter(tensor.skip or "blended" for tensor in content.plan.tensors)
    parameters = coverage(content.plan.tensors)
    total = sum(parameters.values()) or 1
    rows = [
        [kind, str(tensors[kind]), f"{elements:,}", f"{100 * elements / total:.2f} %"]
        for kind, elements in sorted(parameters.items(), key=lambda item: -item[1])
    ]
    return Table(
        "coverage",
        "Coverage",
        "Tensors that were blended, and the reason for each that was copied from "
        f"{content.config.bases_of} instead.",
        ["tensors", "count", "parameters", "share"],
        rows,
    )


def realised_table(content: Content) -> Table:
    """Realised fraction by alpha and dtype."""
    dtypes, bases = get_args(StorageDtype), content.config.bases_of
    rows = []
    for alpha, records in content.blends.items():
        fractions, errors = realised_total(records), cast_error_total(records)
        cells = [
            "-" if (value := totals[dtype]) is None else f"{value:.{digits}}"
            for dtype in dtypes
            for totals, digits in ((fractions, "4f"), (errors, "2g"))
        ]
        guarded = sum(record.guarded for record in records)
        signal = sum(record.signal_norm**2 for record in records) ** 0.5
        weight = sum(record.weight_norm**2 for record in records) ** 0.5
        relative = abs(1 - alpha) * signal / weight if weight else 0.0
        label = f"{alpha:g}" + ("" if 0 <= alpha <= 1 else " (extrapolation)")
        rows.append([label, f"{relative:.3g}", *cells, str(guarded)])
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


def rotation_table(content: Content) -> Table:
    """Rotation metrics by module family: medians over layers."""
    families: dict[str, list[RotationRow]] = {}
    for row in content.rotations:
        families.setdefault(row.family, []).append(row)
    rows = []
    for family, members in families.items():

        def median(key: str, null: bool = False, members: list[RotationRow] = members) -> str:
            source = [(m.null if null else m.metrics).get(key) for m in members]
            value = _median(source)
            return "-" if value is None else f"{value:.2g}"

        m, n = members[0].shape
        rows.append(
            [
                family,
                f"{m}×{n}",
                median("update_norm"),
                f"{median('nss')} ({median('nss', True)})",
                f"{median('touchable_share')} ({median('touchable_share', True)})",
                f"{median('angle_rms_u')} ({median('angle_rms_u', True)})",
                f"{median('angle_rms_vh')} ({median('angle_rms_vh', True)})",
            ]
        )
    return Table(
        "rotations",
        "Rotation of the singular bases, base → rl2",
        "Medians over layers; in brackets the same for random updates of the same norm. "
        "`update` is ‖ΔW‖/‖W‖; NSS is ‖Δs‖/‖s‖; φ is the share of ‖ΔW‖² a singular-value blend can "
        "touch; angles are root-mean-square principal angles of the leading subspaces, in radians.",
        ["module", "shape", "update", "NSS", "φ", "angle u", "angle vh"],
        rows,
    )


def tables(content: Content) -> list[Table]:
    """All tables of a report, in reading order."""
    found = accuracy.tables(content)
    if content.blends:
        found.append(realised_table(content))
    found.append(coverage_table(content))
    if content.rotations:
        found.append(rotation_table(content))
    return found
