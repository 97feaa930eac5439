"""How the matrices changed: a verdict in words, metrics beside their nulls, and heat maps."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from importlib import resources
from statistics import median
from typing import Any, NamedTuple

from svdjobs.records import MetricsRow
from svdjobs.reporting import charts
from svdjobs.reporting.data import Answer, Cell, Content, Picture, Question, Section, Table, number

MOST_NAMED = 3
LIKE_NOISE = (0.8, 1.25)
"""A ratio of a metric to its null between these is said to be like noise."""

MOST_DETAILED = 2000
"""Matrices up to which the page has all metrics of each."""
DENSER = 1.2
"""A layer or module with more than so many times its share of the update is named."""


class Shown(NamedTuple):
    """A metric in the table by family."""

    title: str
    metrics: tuple[str, ...]
    """The mean of these, e.g. of the left and the right side."""


INTRUDERS = Shown("intruders", ("intruders.u", "intruders.v"))
TABLE = (
    Shown("update", ("update_norm",)),
    Shown("NSS", ("nss",)),
    Shown("angle 16", ("sine.u.16.rms", "sine.v.16.rms")),
    Shown("angle 64", ("sine.u.64.rms", "sine.v.64.rms")),
    Shown("spikes", ("spikes",)),
    Shown("structure", ("update_structure",)),
    INTRUDERS,
    Shown("bf16 same", ("unchanged_in_bf16.all",)),
)


BRIEF = ("update", "NSS", "angle 16", "spikes")


def whole(content: Content) -> list[MetricsRow]:
    """The rows of whole matrices."""
    return [row for row in content.rows_of(MetricsRow) if row.head is None]


def of(row: MetricsRow, shown: Shown, *, null: bool = False) -> float | None:
    """The value of a metric for a matrix; None if it is not defined there."""
    found = [(row.null if null else row.values).get(name) for name in shown.metrics]
    known = [value for value in found if value is not None]
    return sum(known) / len(known) if len(known) == len(found) else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def answers(rows: Sequence[MetricsRow]) -> list[Answer]:
    """What changed, in sentences of measured numbers beside those of random updates."""
    moved = [row for row in rows if row.values.get("update_norm")]
    if not moved:
        text = f"Changed: none of {len(rows)} matrices; they are equal to the bit."
        return [Answer(Question.CHANGED, text)]
    return [
        *(Answer(Question.CHANGED, text) for text in _how_much(rows, moved)),
        *(Answer(Question.CHANGED, text) for text in _where(moved)),
        *(Answer(Question.CHANGED, text) for text in _structure(moved)),
        *(Answer(Question.CHANGED, text) for text in _way(moved)),
        *(Answer(Question.TURNED, text) for text in _values(moved)),
        *(Answer(Question.TURNED, text) for text in _directions(moved)),
        *(Answer(Question.ROUNDING, text) for text in _bf16(moved)),
    ]


def verdict(rows: Sequence[MetricsRow]) -> list[str]:
    """The same as sentences only."""
    return [answer.text for answer in answers(rows)]


def _norm(row: MetricsRow) -> float:
    return row.values.get("update_norm", 0.0) * row.weight_norm


def _how_much(rows: Sequence[MetricsRow], moved: Sequence[MetricsRow]) -> Iterator[str]:
    total = math.hypot(*map(_norm, moved)) / math.hypot(*(row.weight_norm for row in rows))
    largest = max(moved, key=lambda row: row.values["update_norm"])
    yield (
        f"Changed: {len(moved)} of {len(rows)} matrices, together by {_percent(total)} of their "
        f"norm; the median one by {_percent(_median([r.values['update_norm'] for r in moved]))}, "
        f"{largest.name} most, by {_percent(largest.values['update_norm'])}."
    )


def _where(moved: Sequence[MetricsRow]) -> Iterator[str]:
    total = math.fsum(_norm(row) ** 2 for row in moved)
    size = math.fsum(math.prod(row.shape) for row in moved)
    shares: dict[str, list[float]] = {}
    for row in moved:
        parts = [row.family] if row.layer is None else [row.family, f"layer {row.layer}"]
        for part in parts:
            own = shares.setdefault(part, [0.0, 0.0])
            own[0] += _norm(row) ** 2 / total
            own[1] += math.prod(row.shape) / size
    dense = sorted(shares.items(), key=lambda item: -item[1][0] / item[1][1])[:MOST_NAMED]
    words = ", ".join(
        f"{part} ({100 * share:.0f} % of the update, {100 * of_all:.0f} % of the entries)"
        for part, (share, of_all) in dense
    )
    most, of_all = dense[0][1]
    if most < DENSER * of_all:
        yield (
            f"Where: everywhere; no layer or module has more than {most / of_all:.2g} times its "
            f"share of the entries."
        )
    elif len(shares) > 1:
        yield f"Where: densest in {words}."


def _values(moved: Sequence[MetricsRow]) -> Iterator[str]:
    yield from _beside(
        moved, Shown("", ("nss",)),
        "Singular values: the median matrix moved them by {own} of their norm, a random update of "
        "the same size by {null}",
    )  # fmt: skip


def _directions(moved: Sequence[MetricsRow]) -> Iterator[str]:
    for k, sine in (("16", " (sine of the angle)"), ("64", "")):
        yield from _beside(
            moved, Shown("", (f"sine.u.{k}.rms", f"sine.v.{k}.rms")),
            f"Directions: the span of the leading {k} singular directions of the median matrix "
            f"turned by {{own}}{sine}, under a random update by {{null}}",
        )  # fmt: skip
    new = [row for row in moved if (of(row, INTRUDERS) or 0) > (of(row, INTRUDERS, null=True) or 0)]
    yield (
        f"Intruders, leading directions that are none of before's: {len(new)} of {len(moved)} "
        f"matrices have some" + (f", e.g. {new[0].name}." if new else ".")
    )


def _structure(moved: Sequence[MetricsRow]) -> Iterator[str]:
    spikes = [row.values["spikes"] for row in moved if "spikes" in row.values]
    null = [row.null["spikes"] for row in moved if "spikes" in row.null]
    if spikes:
        beside = f" (of a random update: {_number(_median(null))})" if null else ""
        yield (
            f"The update: {_number(_median(spikes))} of its directions stand out of noise in the "
            f"median matrix{beside}; {sum(s > 0 for s in spikes)} of {len(spikes)} matrices have "
            f"some."
        )


def _bf16(moved: Sequence[MetricsRow]) -> Iterator[str]:
    yield from _beside(
        moved, Shown("", ("unchanged_in_bf16.all",)),
        "In bfloat16: a copy leaves {own} of the median matrix's entries unchanged, after a random "
        "update {null}",
        percent=True,
    )  # fmt: skip


def _way(moved: Sequence[MetricsRow]) -> Iterator[str]:
    ways = [row.trajectory for row in moved if row.trajectory]
    if not ways:
        return
    steps = len(ways[0].from_previous)
    straight = _median([way.straightness for way in ways])
    cosines = _median([way.cosines[i][i + 1] for way in ways for i in range(steps - 1)])
    yield (
        f"The way: in {steps} steps the median matrix went {_number(straight)} of its path's "
        f"length as the crow flies (1: straight on; a random walk of equal steps: "
        f"{_number(steps**-0.5)}); one step and the next have a cosine of {_number(cosines)}."
    )


def _beside(
    moved: Sequence[MetricsRow], shown: Shown, words: str, *, percent: bool = False
) -> Iterator[str]:
    """A sentence with the median of a metric and of its null, and in how many matrices it is
    larger."""
    pairs = [(of(row, shown), of(row, shown, null=True)) for row in moved]
    known = [(own, null) for own, null in pairs if own is not None and null is not None]
    if not known:
        return
    write = _percent if percent else _number
    own, null = (median(values) for values in zip(*known, strict=True))
    ratio = own / null if null else math.inf
    more = sum(a > b for a, b in known)
    low, high = LIKE_NOISE
    like = f"{'more' if ratio > 1 else 'less'} than noise"
    if low <= ratio <= high:
        like = f"about as noise does (that is, {low:g} to {high:g} times)"
    yield (
        f"{words.format(own=write(own), null=write(null))}: {ratio:.2g} times as much, {like}; "
        f"more in {more} of {len(known)} matrices."
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.3g} %"


def family_table(rows: Sequence[MetricsRow], *, brief: bool = False) -> Table:
    """Medians over layers by module family, beside those of random updates; `brief`: for a
    terminal."""
    columns = tuple(s for s in TABLE if s.title in BRIEF) if brief else TABLE
    digits = 2 if brief else 3
    families: dict[str, list[MetricsRow]] = {}
    for row in rows:
        families.setdefault(row.family, []).append(row)
    cells = []
    for family, members in sorted(families.items()):
        shapes = {f"{m}×{n}" for m, n in (row.shape for row in members)}
        shape = shapes.pop() if len(shapes) == 1 else "various"
        line: list[str] = [family, number(len(members)), shape]
        for shown in columns:
            own = number(_median([of(row, shown) for row in members]), f".{digits}g")
            null = number(_median([of(row, shown, null=True) for row in members]), f".{digits}g")
            if shown.title != "update" and own.value is not None and null.value is not None:
                own = Cell(f"{own} ({null})", own.value, random=null.value)
            line.append(own)
        cells.append(line)
    return Table(
        "metrics",
        "How the matrices changed",
        "Medians over the matrices of a family; in brackets the same for random updates of the "
        "same norm. `update` is ‖ΔW‖/‖W‖; NSS is ‖Δs‖/‖s‖; `angle` is the root-mean-square sine of "
        "the principal angles of the leading 16 or 64 directions, up to a gap of before's "
        "spectrum, mean of both sides; `spikes` counts directions of the update above what noise "
        "has; `structure` is how far its spectrum "
        "is from that of its own entries in random order; `intruders` are leading directions that "
        "are none of before's; `bf16 same` is the share of entries that a bfloat16 copy does not "
        "change. All metrics, with formulas and pitfalls: docs/metrics.md of svdjobs.",
        ["module", "matrices", "shape", *(shown.title for shown in columns)],
        cells,
    )


def _all_numbers(rows: Sequence[MetricsRow]) -> Table:
    """Every metric of every matrix and head, for scripts."""
    return Table(
        "metrics-all",
        "All metrics of all matrices and heads",
        "One number a row.",
        ["tensor", "layer", "family", "head", "metric", "value", "random_update"],
        [
            [
                row.name,
                "" if row.layer is None else str(row.layer),
                row.family,
                "" if row.head is None else str(row.head),
                metric,
                number(value),
                number(row.null.get(metric)),
            ]
            for row in rows
            for metric, value in row.values.items()
        ],
        shown=False,
    )


class _Panel(NamedTuple):
    """A heat map of a metric, or of its ratio to that of a random update."""

    title: str
    shown: Shown
    ratio: bool
    around: float | None = None
    """The value in the middle of the scale of colours; None: small to large."""
    times: float = 1
    """What the numbers are multiplied by, to be short."""


PANELS = (
    _Panel("size of the update, ‖ΔW‖/‖W‖", Shown("", ("update_norm",)), False),
    _Panel(
        "best uniform scale of s, minus 1, in 1/1000",
        Shown("", ("uniform_scale",)),
        False,
        0.0,
        times=1000,
    ),
    _Panel("spectral shift ÷ random update's", Shown("", ("nss",)), True),
    _Panel("rotation ÷ random update's", Shown("", ("sine.u.16.rms", "sine.v.16.rms")), True),
    _Panel("directions of ΔW above noise", Shown("", ("spikes",)), False),
    _Panel("entries that bfloat16 leaves unchanged", Shown("", ("unchanged_in_bf16.all",)), False),
)


def _heat_map(rows: Sequence[MetricsRow], panel: _Panel) -> charts.Spec:
    """Layer × family: the median where a family has several matrices in a layer, e.g. experts."""
    places: dict[tuple[int | None, str], list[MetricsRow]] = {}
    for row in rows:
        places.setdefault((row.layer, row.family), []).append(row)
    cells = []
    for (layer, family), members in places.items():
        own = _median([of(row, panel.shown) for row in members])
        null = _median([of(row, panel.shown, null=True) for row in members])
        value = (own / null if own is not None and null else None) if panel.ratio else own
        value = None if value is None else panel.times * value
        cells.append(
            {"layer": layer, "column": _short(family), "value": value, "own": own, "null": null}
        )
    heat = charts.Heat(panel.title, around=1 if panel.ratio else panel.around)
    columns = [_short(family) for family in sorted({row.family for row in rows})]
    hover = {"value": panel.title, "own": "measured", "null": "random update"}
    return charts.heat_map(cells, heat, columns=columns, hover=hover)


def _short(family: str) -> str:
    last = family.rpartition(".")[2]
    # A router is a `gate`, too, beside the experts' `gate_proj`.
    return charts.name("router" if last == "gate" else last.removesuffix("_proj"))


def _answers(content: Content) -> list[Answer]:
    rows = whole(content)
    return answers(rows) if rows else []


def _tables(content: Content) -> Iterator[Table]:
    if rows := whole(content):
        yield family_table(rows)
        yield _all_numbers(content.rows_of(MetricsRow))


def _pictures(content: Content) -> Iterator[Picture]:
    if rows := whole(content):
        yield Picture(
            "metrics",
            "Where the matrices changed, and whether more than noise",
            "Layers from below, module families across. Maps with ÷ divide by the same metric of a "
            "random update of the same norm: red is more than noise, blue is less, white is like "
            "noise.",
            charts.beside((_heat_map(rows, panel) for panel in PANELS), independent=("color",)),
            _details(rows) if len(rows) <= MOST_DETAILED else None,
        )
        if heads := [row for row in content.rows_of(MetricsRow) if row.head is not None]:
            yield Picture(
                "heads",
                "How much each attention head changed",
                "Layers from below, heads across: ‖ΔW‖/‖W‖ of the head's rows of q (and of k and "
                "v, where these have several heads), and of its columns of o. All metrics of each "
                "head are in tables/metrics-all.csv.",
                charts.beside(_head_maps(heads), independent=("color", "x")),
            )
        if any(row.spectrum for row in rows):
            yield Picture(
                "update_spectra",
                "Spectra of the updates, and what noise would have",
                "Singular values of ΔW in the middle layer, divided by the upper edge of the bulk "
                "of its noise (Marchenko–Pastur): at 1 the bulk ends, and of pure noise one in a "
                "hundred has a value above the dotted line (Tracy–Widom). What of the solid line "
                "is above stands out. Dashed: the same entries in random order, which makes the "
                "whole update noise: stronger than what noise is in it, so above its edge, and "
                "flat.",
                _spectra_chart(rows),
            )
        if any(row.trajectory for row in rows):
            yield Picture(
                "way",
                "The way through the checkpoints",
                "How far the median matrix of each family is from before, relative to its norm; "
                "and the cosine between any two steps, median over all matrices: 1 is straight on, "
                "0 is a random walk.",
                charts.beside(_way_charts(rows, list(content.config.checkpoints))),
            )


def _head_maps(rows: Sequence[MetricsRow]) -> Iterator[charts.Spec]:
    """For each family with heads: layer × head, coloured by the size of the update."""
    for family in sorted({row.family for row in rows}):
        members = [row for row in rows if row.family == family]
        cells = [
            {
                "layer": row.layer,
                "column": str(row.head),
                "value": row.values.get("update_norm"),
                "null": row.null.get("nss"),
                "own": row.values.get("nss"),
            }
            for row in members
        ]
        heat = charts.Heat(f"{_short(family)}: ‖ΔW‖/‖W‖")
        columns = [
            str(head) for head in sorted({row.head for row in members if row.head is not None})
        ]
        hover = {"value": "update", "own": "spectral shift", "null": "random update's shift"}
        yield charts.heat_map(cells, heat, columns=columns, hover=hover, across="head")


def _spectra_chart(rows: Sequence[MetricsRow]) -> charts.Spec:
    """The spectra of the middle layer's updates, with the edge of noise."""
    layers = sorted({row.layer for row in rows if row.layer is not None and row.spectrum})
    middle = layers[len(layers) // 2] if layers else None
    points: list[charts.Row] = []
    for row in sorted(rows, key=lambda row: row.family):
        if row.layer != middle or row.spectrum is None:
            continue
        found = row.spectrum
        lines = {
            "measured": found.values,
            "entries in random order": found.permuted,
            "edge of noise": [found.noise_edge] * len(found.places),
        }
        points += [
            {"series": _short(row.family), "style": style, "x": place, "y": y}
            for style, values in lines.items()
            for place, y in zip(found.places, values, strict=True)
        ]
    return charts.lines(
        points, x="singular value of ΔW, largest first", y="s(ΔW) ÷ edge of the bulk",
        styles=("measured", "entries in random order", "edge of noise"), log_x=True,
    )  # fmt: skip


def _way_charts(rows: Sequence[MetricsRow], steps: Sequence[str]) -> Iterator[charts.Spec]:
    """The distance from before by step, and the cosines between steps."""
    names = [charts.name(step) for step in (*steps, "after")]
    ways = [(row, row.trajectory) for row in rows if row.trajectory]
    families = sorted({_short(row.family) for row, _ in ways})
    yield charts.lines(
        [
            {
                "series": family,
                "style": "measured",
                "x": i + 1,
                "y": _median([w.from_first[i] for row, w in ways if _short(row.family) == family]),
            }
            for family in families
            for i in range(len(names))
        ],
        x="step", y="‖W − W_before‖ / ‖W_before‖", styles=("measured",),
        title="distance from before",
    )  # fmt: skip
    cells = [
        {
            "layer": i + 1,
            "column": names[j],
            "value": _median([way.cosines[i][j] for _, way in ways]),
        }
        for i in range(len(names))
        for j in range(len(names))
    ]
    heat = charts.Heat("cosine of steps", around=0.0)
    yield charts.heat_map(cells, heat, columns=names, hover={"value": "cosine"}, rows="step")


def _details(rows: Sequence[MetricsRow]) -> dict[str, Any]:
    """All metrics of every matrix, by its cell in the heat maps, and what each metric says."""
    found: dict[str, Any] = {}
    for row in rows:
        values = [
            [metric, _rounded(value), _rounded(row.null.get(metric))]
            for metric, value in row.values.items()
        ]
        cell = f"{'-' if row.layer is None else row.layer} {_short(row.family)}"
        found.setdefault(cell, []).append(
            {"name": charts.name(row.name), "shape": row.shape, "values": values}
        )
    said = resources.files("svdjobs.reporting") / "assets" / "metrics.json"
    return {"cells": found, "what": json.loads(said.read_text("utf-8"))}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


SECTION = Section(
    60, "How the matrices changed", answers=_answers, tables=_tables, pictures=_pictures
)
