"""How the matrices changed: a verdict in words, metrics beside their nulls, and heat maps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from svdjobs.escape import label as named
from svdjobs.records import MetricsRow
from svdjobs.reporting import drawing
from svdjobs.reporting.data import Content, Picture, Section, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_NAMED = 3
LIKE_NOISE = (0.8, 1.25)
"""A ratio of a metric to its null between these is said to be like noise."""

DENSER = 1.2
"""A layer or module with more than so many times its share of the update is named."""


class Shown(NamedTuple):
    """A metric in the table by family."""

    title: str
    metrics: tuple[str, ...]
    """The mean of these, e.g. of the left and the right side."""


TABLE = (
    Shown("update", ("update_norm",)),
    Shown("NSS", ("nss",)),
    Shown("angle 16", ("sine.u.16.rms", "sine.v.16.rms")),
    Shown("angle 64", ("sine.u.64.rms", "sine.v.64.rms")),
    Shown("spikes", ("spikes",)),
    Shown("structure", ("update_structure",)),
    Shown("intruders", ("intruders.u", "intruders.v")),
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


def verdict(rows: Sequence[MetricsRow]) -> list[str]:
    """What changed, in sentences of measured numbers beside those of random updates."""
    moved = [row for row in rows if row.values.get("update_norm")]
    if not moved:
        return [f"Changed: none of {len(rows)} matrices; they are equal to the bit."]
    return [
        *_how_much(rows, moved),
        *_where(moved),
        *_values(moved),
        *_directions(moved),
        *_structure(moved),
        *_bf16(moved),
        *_way(moved),
    ]


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
        f"{named(part)} ({100 * share:.0f} % of the update, {100 * of_all:.0f} % of the entries)"
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
            f"Directions: the leading {k} singular directions of the median matrix turned by "
            f"{{own}}{sine}, under a random update by {{null}}",
        )  # fmt: skip
    new = [row for row in moved if (of(row, TABLE[6]) or 0) > (of(row, TABLE[6], null=True) or 0)]
    yield (
        f"Intruders: {len(new)} of {len(moved)} matrices have leading directions that are none of "
        f"before's" + (f", e.g. {new[0].name}." if new else ".")
    )


def _structure(moved: Sequence[MetricsRow]) -> Iterator[str]:
    spikes = [row.values["spikes"] for row in moved if "spikes" in row.values]
    null = [row.null["spikes"] for row in moved if "spikes" in row.null]
    if spikes:
        beside = f", of a random update's {_number(_median(null))}" if null else ""
        yield (
            f"The update: {_number(_median(spikes))} directions of the median matrix's update "
            f"stand out of what noise has{beside}; {sum(s > 0 for s in spikes)} of {len(spikes)} "
            f"matrices have some."
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
    like = ": like noise of this size" if LIKE_NOISE[0] <= ratio <= LIKE_NOISE[1] else ""
    more = sum(a > b for a, b in known)
    yield (
        f"{words.format(own=write(own), null=write(null))}{like} (more in {more} of {len(known)} "
        f"matrices)."
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
        line = [family, str(len(members)), shapes.pop() if len(shapes) == 1 else "various"]
        for shown in columns:
            own = _number(_median([of(row, shown) for row in members]), digits)
            null = _number(_median([of(row, shown, null=True) for row in members]), digits)
            plain = shown.title == "update" or "-" in (own, null)
            line.append(own if plain else f"{own} ({null})")
        cells.append(line)
    return Table(
        "metrics",
        "How the matrices changed",
        "Medians over the matrices of a family; in brackets the same for random updates of the "
        "same norm. `update` is ‖ΔW‖/‖W‖; NSS is ‖Δs‖/‖s‖; `angle` is the root-mean-square sine of "
        "the principal angles of the leading 16 or 64 directions, mean of both sides; `spikes` "
        "counts directions of the update above what noise has; `structure` is how far its spectrum "
        "is from that of its own entries in random order; `intruders` are leading directions that "
        "are none of before's; `bf16 same` is the share of entries that a bfloat16 copy does not "
        "change. docs/metrics.md has all metrics, with formulas and pitfalls.",
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
                repr(value),
                repr(row.null[metric]) if metric in row.null else "",
            ]
            for row in rows
            for metric, value in row.values.items()
        ],
        shown=False,
    )


PANELS = (
    ("size of the update, ‖ΔW‖/‖W‖", Shown("", ("update_norm",)), False),
    ("spectral shift beside a random update's", Shown("", ("nss",)), True),
    ("rotation beside a random update's", Shown("", ("sine.u.16.rms", "sine.v.16.rms")), True),
    ("directions of ΔW above noise", Shown("", ("spikes",)), False),
)


def _figure(content: Content) -> Figure:
    """Four maps of layer × family: size, spectral shift and rotation over their nulls, spikes."""
    rows = whole(content)
    layers = sorted({-1 if row.layer is None else row.layer for row in rows})
    families = sorted({row.family for row in rows})
    height = max(3.0, 0.18 * len(layers) + 2.2)
    figure, grid = drawing.new(len(PANELS), width=3.6 * len(PANELS), height=height)
    for axes, (title, shown, ratio) in zip(grid[0], PANELS, strict=True):
        cells: dict[tuple[int, str], list[float]] = {}
        for row in rows:
            own, null = of(row, shown), of(row, shown, null=True)
            value = (own / null if own is not None and null else None) if ratio else own
            if value is not None:
                place = (-1 if row.layer is None else row.layer, row.family)
                cells.setdefault(place, []).append(value)
        values = [
            [median(cells.get((layer, family), [math.nan])) for family in families]
            for layer in layers
        ]
        limits = {"norm": _log_around_1(values)} if ratio else {}
        cmap = "RdBu_r" if ratio else "viridis"
        image = axes.imshow(values, cmap=cmap, aspect="auto", origin="lower", **limits)
        short = [named(family.rpartition(".")[2]) for family in families]
        axes.set_xticks(range(len(families)), short, rotation=60, ha="right", fontsize=8)
        step = max(1, len(layers) // 12)
        axes.set_yticks(
            range(0, len(layers), step), ["-" if n < 0 else str(n) for n in layers[::step]]
        )
        axes.set_title(title, fontsize=9)
        axes.grid(visible=False)
        bar = axes.figure.colorbar(image, ax=axes, shrink=0.9)
        if ratio:
            bar.set_ticks([image.norm.vmin, 1, image.norm.vmax])
            bar.ax.set_yticklabels([f"{x:.2g}×" for x in bar.get_ticks()])
            bar.ax.minorticks_off()
    grid[0][0].set_ylabel("layer")
    return figure


def _log_around_1(values: Sequence[Sequence[float]]) -> object:
    """A logarithmic colour scale with 1 in its middle."""
    from matplotlib.colors import LogNorm

    known = [abs(math.log(v)) for row in values for v in row if v > 0 and math.isfinite(v)]
    size = math.exp(max([*known, math.log(1.5)]))
    return LogNorm(1 / size, size)


def _sentences(content: Content) -> list[str]:
    rows = whole(content)
    return verdict(rows) if rows else []


def _tables(content: Content) -> Iterator[Table]:
    if rows := whole(content):
        yield family_table(rows)
        yield _all_numbers(content.rows_of(MetricsRow))


def _pictures(content: Content) -> Iterator[Picture]:
    if whole(content):
        yield Picture(
            "metrics.png",
            "Where the matrices changed, and whether more than noise",
            "Layers from below, module families across. The middle two divide by the same metric "
            "of a random update of the same norm: red is more than noise, blue is less, white is "
            "like noise. On the right: directions of the update that stand out of noise.",
            lambda: _figure(content),
        )


SECTION = Section(60, sentences=_sentences, tables=_tables, pictures=_pictures)
