"""Rotation of singular bases and change of singular values, compared with random updates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from svdjobs.escape import label as named
from svdjobs.records import MetricsRow, RotationMetrics, RotationRow, Side
from svdjobs.reporting import drawing
from svdjobs.reporting.data import Content, Picture, Section, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def _median_text(values: Sequence[float | None]) -> str:
    value = _median(values)
    return "-" if value is None else f"{value:.2g}"


def _beside_null(rows: Sequence[RotationRow], metric: Metric) -> str:
    measured = _median_text([metric(row.metrics) for row in rows])
    return f"{measured} ({_median_text([metric(row.null) for row in rows])})"


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
                _median_text([row.metrics.update_norm for row in members]),
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
        "touch; angles are root-mean-square principal angles of the leading subspaces, in radians.",
        ["module", "shape", "update", "NSS", "φ", "angle u", "angle vh"],
        rows,
    )


def _mse_figure(content: Content) -> Figure:
    """MSE(R1·R2, R3) by layer: columns U and Vh, rows full and top-k, a curve per module family."""
    figure, grid = drawing.new(2, 2, width=11, height=7.5)
    titles = {"u": "U", "vh": "Vh"}
    for row, form in enumerate(("all directions", "leading k")):
        for column, (side, _) in enumerate(_SIDES):
            axes = grid[row][column]
            trivial = _mse_panel(axes, _rows(content), side, full=row == 0)
            axes.set(
                title=f"{titles[side]}, {form}",
                xlabel="layer",
                ylabel="MSE(R1·R2, R3)",
                yscale="log",
            )
            axes.xaxis.get_major_locator().set_params(integer=True)
            if trivial:
                axes.set_title(f"{titles[side]}, {form}\n", fontsize=12)
                axes.text(
                    0.5,
                    1.02,
                    f"not drawn, R1·R2 = R3 by algebra: {named(_shorter(trivial))}",
                    transform=axes.transAxes,
                    fontsize=7.5,
                    color="#666666",
                    ha="center",
                    va="bottom",
                )
    handles = _legend_handles(_rows(content))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)))
    return figure


def _shorter(families: Sequence[str]) -> str:
    """Abbreviate `self_attn.q_proj`, `self_attn.k_proj` as `q, k`, to fit a panel's title."""
    return ", ".join(family.rpartition(".")[2].removesuffix("_proj") for family in families)


def _mse_panel(axes: Axes, rows: Sequence[RotationRow], side: Side, *, full: bool) -> list[str]:
    """Plot one panel: all directions if `full`, else the leading k.

    Returns the families that it leaves out, since R1·R2 = R3 by algebra.
    """

    def mse(metrics: RotationMetrics) -> float | None:
        return metrics.side(side).mse if full else metrics.side(side).mse_top

    trivial = []
    for colour, marker, family, members in _families(rows):
        if full and members[0].trivial_side in (side, "both"):
            trivial.append(family)
            continue
        layers = [member.layer or 0 for member in members]
        axes.plot(
            layers,
            drawing.positive([mse(m.metrics) for m in members]),
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.4,
        )
        axes.plot(
            layers,
            drawing.positive([mse(m.null) for m in members]),
            color=colour,
            linestyle="--",
            linewidth=1.0,
        )
        if full:
            haar = [member.null.haar_mse for member in members]
            axes.plot(layers, drawing.positive(haar), color=colour, linestyle=":", linewidth=1.0)
    return trivial


def _legend_handles(rows: Sequence[RotationRow]) -> list[Any]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker, markersize=4, label=named(family))
        for colour, marker, family, _ in _families(rows)
    ]
    return [
        *handles,
        Line2D([], [], color="#444444", linestyle="--", label="random updates of the same norm"),
        Line2D([], [], color="#444444", linestyle=":", label="unrelated bases (Haar)"),
    ]


def _families(rows: Sequence[RotationRow]) -> list[tuple[str, str, str, list[RotationRow]]]:
    """(colour, marker, family, its rows by layer) of every module family."""
    families: dict[str, list[RotationRow]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    return [
        (
            drawing.COLOURS[i % len(drawing.COLOURS)],
            drawing.MARKERS[i % len(drawing.MARKERS)],
            family,
            sorted(members, key=lambda row: row.layer or 0),
        )
        for i, (family, members) in enumerate(families.items())
    ]


def _spectrum_figure(content: Content) -> Figure:
    """Left: relative change of each singular value. Right: shift by layer, with its null."""
    figure, grid = drawing.new(2, width=11, height=5.0)
    left, right = grid[0]
    for i, (name, (before, after)) in enumerate(content.spectra.items()):
        share = [(j + 0.5) / len(after) for j in range(len(after))]
        change = [
            abs(b - a) / a if a > 0 else float("nan") for b, a in zip(before, after, strict=True)
        ]
        left.plot(
            share,
            drawing.positive(change),
            color=drawing.COLOURS[i % len(drawing.COLOURS)],
            linewidth=1,
            label=named(name),
        )
    left.set(
        title="Change of each singular value",
        xlabel="index / min(m, n), largest first",
        ylabel="|s_before − s_after| / s_after",
        yscale="log",
    )
    if content.spectra and not _rows(content):
        left.legend(fontsize=7.5)
    for colour, marker, family, members in _families(_rows(content)):
        layers = [member.layer or 0 for member in members]
        right.plot(
            layers,
            drawing.positive([m.metrics.nss for m in members]),
            color=colour,
            marker=marker,
            markersize=4,
            linewidth=1.4,
            label=named(family),
        )
        right.plot(
            layers,
            drawing.positive([m.null.nss_formula for m in members]),
            color=colour,
            linestyle="--",
            linewidth=1.0,
        )
    right.set(
        title="Spectral shift by layer (dashed: random update)",
        xlabel="layer",
        ylabel="NSS = ‖Δs‖ / ‖s_base‖",
        yscale="log",
    )
    right.xaxis.get_major_locator().set_params(integer=True)
    if _rows(content):
        handles = right.get_legend_handles_labels()[0]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    return figure


def _sentences(content: Content) -> list[str]:
    # With a `metrics` section, that says how far values moved and bases turned.
    if not _rows(content) or content.rows_of(MetricsRow):
        return []
    return [_rotation_headline(_rows(content)), *_turn_headline(_rows(content))]


def _tables(content: Content) -> Iterator[Table]:
    if _rows(content):
        yield rotation_table(content)


def _pictures(content: Content) -> Iterator[Picture]:
    if _rows(content):
        yield Picture(
            "rotation_mse_curves.png",
            "Does the rotation compose? MSE(R1·R2, R3) by layer",
            "R1, R2, R3 are the overlaps of the singular bases base→rl1, rl1→rl2 and base→rl2. "
            "Solid: measured. Dashed: the same matrices moved by random updates of the same norm. "
            "Dotted: unrelated bases. Solid far under dotted: the bases barely turned. Solid near "
            "dashed: they turned no more than noise of that size would turn them.",
            lambda: _mse_figure(content),
        )
    if content.spectra or _rows(content):
        yield Picture(
            "spectrum.png",
            "What happened to the singular values",
            "Left: how far each singular value moved, relative to itself. Right: the whole "
            "spectrum's shift per matrix. Solid under dashed: the update avoids the singular "
            "values, it moves them less than a random update of the same norm would.",
            lambda: _spectrum_figure(content),
        )


SECTION = Section(50, sentences=_sentences, tables=_tables, pictures=_pictures)
