"""Rotation of singular bases and change of singular values, compared with random updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median

from svdjobs.records import MetricsRow, RotationMetrics, RotationRow, Side
from svdjobs.reporting import charts
from svdjobs.reporting.data import Answer, Cell, Content, Picture, Question, Section, Table, number

Metric = Callable[[RotationMetrics], float | None]

_SIDES: tuple[tuple[Side, str], ...] = (("u", "left"), ("vh", "right"))


def _rows(content: Content) -> list[RotationRow]:
    """The rows of the rotations stage by family, then by layer."""
    rows = content.rows_of(RotationRow)
    return sorted(rows, key=lambda row: (row.family, row.layer or 0, row.name))


def _rotation_headline(rows: list[RotationRow]) -> str:
    shift = _median([row.metrics.nss for row in rows])
    null = _median([row.null.nss or row.null.nss_formula for row in rows])
    share = _median([row.metrics.touchable_share for row in rows])
    if shift is None or null is None or share is None:
        return "Spectra: no update to measure."
    return (
        f"Spectra: the median matrix moved its singular values by {shift:.2g} of their norm (a "
        f"random update of the same size: {null:.2g}), and {100 * share:.2g} % of its update lies "
        f"along directions a singular-value blend can touch."
    )


def _turn_headline(rows: list[RotationRow]) -> list[str]:
    """Sentence on how far the bases turned, compared with random updates of the same size."""
    found = []
    for side, where in _SIDES:
        turned = _median([row.metrics.side(side).angle_rms for row in rows])
        null = _median([row.null.side(side).angle_rms for row in rows])
        if turned is not None and null is not None:
            found.append(f"{turned:.2g} rad on the {where} ({null:.2g})")
    if not found:
        return []
    return [
        f"Rotation: the leading singular bases of the median matrix turned by "
        f"{' and '.join(found)}; in brackets what random updates of the same size turn them by."
    ]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _beside_null(rows: Sequence[RotationRow], metric: Metric) -> Cell:
    own = number(_median([metric(row.metrics) for row in rows]), ".2g")
    null = number(_median([metric(row.null) for row in rows]), ".2g")
    return Cell(f"{own} ({null})", own.value, random=null.value)


def rotation_table(content: Content) -> Table:
    """Table of rotation metrics by module family: medians over layers."""
    families: dict[str, list[RotationRow]] = {}
    for row in _rows(content):
        families.setdefault(row.family, []).append(row)
    rows = []
    for family, members in families.items():
        m, n = members[0].shape
        rows.append(
            [
                family,
                f"{m}×{n}",
                number(_median([row.metrics.update_norm for row in members]), ".2g"),
                _beside_null(members, lambda metrics: metrics.nss),
                _beside_null(members, lambda metrics: metrics.touchable_share),
                _beside_null(members, lambda metrics: metrics.u.angle_rms),
                _beside_null(members, lambda metrics: metrics.vh.angle_rms),
            ]
        )
    return Table(
        "rotations",
        "Rotation of the singular bases, base → rl2",
        "Medians over layers; in brackets the same for random updates of the same norm. "
        "`update` is ‖ΔW‖/‖W‖; NSS is ‖Δs‖/‖s‖; φ is the share of ‖ΔW‖² a singular-value blend can "
        f"touch; angles are root-mean-square principal angles, in radians, between the spans of "
        f"base's and rl2's leading {_top_k(content)} singular vectors, at most a quarter of the "
        f"smaller side. Where that cuts near-equal singular values the angle is large under any "
        f"update; the metrics below end the spans at a gap, so theirs are smaller.",
        ["module", "shape", "update", "NSS", "φ", "angle u", "angle vh"],
        rows,
    )


def _top_k(content: Content) -> int:
    """How many leading directions the rotations are of; of a smaller matrix, all."""
    return content.config.rotations.top_k if content.config.rotations else 0


MEASURED, RANDOM, UNRELATED = (
    "measured",
    "random update of the same norm",
    "unrelated bases (Haar)",
)
MOST_POINTS = 400
"""Points of a curve over the singular values; of more, as many are taken at equal distances."""


def _mse_chart(rows: Sequence[RotationRow]) -> charts.Spec:
    """MSE(R1·R2, R3) by layer: U and Vh, full and top-k, a curve per module family."""
    panels, families = [], list(dict.fromkeys(charts.name(row.family) for row in rows))
    for full, form in ((True, "all directions"), (False, "leading k")):
        for (side, _), title in zip(_SIDES, ("U", "Vh"), strict=True):
            shown, trivial = _mse_rows(rows, side, full=full)
            if not any(point["y"] for point in shown):
                continue
            left_out = f"not drawn: {_shorter(trivial)}" if trivial else ""
            panels.append(
                charts.lines(
                    shown, x="layer", y="MSE(R1·R2, R3)",
                    title=f"{title}, {form}", subtitle=left_out,
                    styles=(MEASURED, RANDOM, UNRELATED), series=families,
                )
            )  # fmt: skip
    return charts.beside(panels)


def _shorter(families: Sequence[str]) -> str:
    """Abbreviate `self_attn.q_proj`, `self_attn.k_proj` as `q, k`, to fit a panel's title."""
    short = [family.rpartition(".")[2].removesuffix("_proj") for family in families]
    return charts.name(", ".join(short))


def _mse_rows(
    rows: Sequence[RotationRow], side: Side, *, full: bool
) -> tuple[list[charts.Row], list[str]]:
    """The points of one panel: all directions if `full`, else the leading k; and the families that
    it leaves out, since R1·R2 = R3 by algebra."""

    def mse(metrics: RotationMetrics) -> float | None:
        return metrics.side(side).mse if full else metrics.side(side).mse_top

    points: list[charts.Row] = []
    trivial: list[str] = []
    for row in rows:
        if full and row.trivial_side in (side, "both"):
            if row.family not in trivial:
                trivial.append(row.family)
            continue
        found = {MEASURED: mse(row.metrics), RANDOM: mse(row.null)}
        if full:
            found[UNRELATED] = row.null.haar_mse
        points += _points(row, found)
    return points, trivial


def _points(row: RotationRow, found: Mapping[str, float | None]) -> list[charts.Row]:
    """A point for each kind of line, at the row's layer."""
    at = {"series": charts.name(row.family), "x": row.layer or 0}
    return [{**at, "style": style, "y": value} for style, value in found.items()]


def _spectrum_chart(content: Content) -> charts.Spec:
    """Relative change of each singular value, in one matrix of each family."""
    rows: list[charts.Row] = []
    for name, (before, after) in content.spectra.items():
        step = max(1, len(after) // MOST_POINTS)
        for i in range(0, len(after), step):
            moved = abs(before[i] - after[i]) / after[i] if after[i] > 0 else None
            place = (i + 0.5) / len(after)
            rows.append({"series": charts.name(name), "style": MEASURED, "x": place, "y": moved})
    return charts.lines(
        rows, x="index / min(m, n), largest first", y="|s_before − s_after| / s_after",
        styles=(MEASURED,),
    )  # fmt: skip


def _shift_chart(rows: Sequence[RotationRow]) -> charts.Spec:
    """The shift of each matrix's spectrum by layer, with its null."""
    points = [
        point
        for row in rows
        for point in _points(row, {MEASURED: row.metrics.nss, RANDOM: row.null.nss_formula})
    ]
    return charts.lines(points, x="layer", y="NSS = ‖Δs‖ / ‖s_base‖", styles=(MEASURED, RANDOM))


def _answers(content: Content) -> Iterator[Answer]:
    # With a `metrics` section, that says how far values moved and bases turned.
    if _rows(content) and not content.rows_of(MetricsRow):
        for text in (_rotation_headline(_rows(content)), *_turn_headline(_rows(content))):
            yield Answer(Question.TURNED, text)


def _tables(content: Content) -> Iterator[Table]:
    if _rows(content):
        yield rotation_table(content)


def _pictures(content: Content) -> Iterator[Picture]:
    if _rows(content) and (composition := _mse_chart(_rows(content)))["concat"]:
        yield Picture(
            "rotation_mse_curves",
            "Does the rotation compose? MSE(R1·R2, R3) by layer",
            "R1, R2 and R3 say how the singular vectors of base and rl1, of rl1 and rl2, and of "
            "base and rl2 lie to each other: R1 = U_baseᵀ·U_rl1. If both steps turn one space "
            "within itself, R1·R2 is R3 and the error is 0; what leaves it is the error. Not drawn "
            "are square bases, for which R1·R2 = R3 by algebra. `leading k`: of the "
            f"{_top_k(content)} leading vectors, at most a quarter of the smaller side. Solid "
            "far under dotted: the bases barely turned. Solid over dashed: they turned out of "
            "themselves more than a random update of the same norm would turn them; under dashed: "
            "less.",
            composition,
        )
    if any(row.metrics.nss for row in _rows(content)):
        yield Picture(
            "spectral_shift",
            "Spectral shift by layer",
            "How far the singular values moved. Solid over dashed: the update moves them more than "
            "a random update of the same norm would; under dashed: it avoids them.",
            _shift_chart(_rows(content)),
        )
    if content.spectra:
        yield Picture(
            "spectrum",
            "Change of each singular value",
            "How far each singular value moved, relative to itself, in the middle layer's matrix "
            "of each family.",
            _spectrum_chart(content),
        )


SECTION = Section(50, "Rotation of the chain", answers=_answers, tables=_tables, pictures=_pictures)
