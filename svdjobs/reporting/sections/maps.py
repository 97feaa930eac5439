"""The map: what each layer and module family carries of the change from before to after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from svdjobs.checkpoint.selection import part_name
from svdjobs.escape import label as named
from svdjobs.records import Interval, MapReading
from svdjobs.reporting import drawing
from svdjobs.reporting.data import Content, Picture, Row, Section, Table
from svdjobs.reporting.sections.likelihood import plain
from svdjobs.reporting.sections.reading import LEVEL, cell, not_read, words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

MOST_NAMED = 3
REWOUND = {
    "matrix": "rewound to before",
    "values": "given before's singular values",
    "vectors": "given before's singular vectors",
}


def found_parts(parts: Sequence[MapReading]) -> list[MapReading]:
    """The cells that differ from random changes of the same size, the largest effect first."""
    cells = [p for p in parts[:-1] if p.accuracy and p.p is not None and p.p < LEVEL]
    return sorted(cells, key=lambda part: -abs(part.accuracy.value if part.accuracy else 0.0))


def _sum(parts: Sequence[MapReading]) -> float:
    return math.fsum(part.accuracy.value for part in parts if part.accuracy)


def _sentences(content: Content) -> Iterator[str]:
    config = content.config.map
    if config is None:
        return
    for benchmark, parts in content.maps.items():
        done = "changed" if config.by == "rewind" else REWOUND[config.rewind]
        whole, cells = parts[-1], parts[:-1]
        found = found_parts(parts)
        largest = ", ".join(
            f"{part_name(part.layer, part.family)} {words(part.accuracy)}"
            for part in found[:MOST_NAMED]
            if part.accuracy
        )
        if found:
            yield (
                f"{benchmark}: of {len(cells)} parts, each {done} alone, {len(found)} change "
                f"accuracy by more than {_compared(content)}: {largest}"
                f"{' …' if len(found) > MOST_NAMED else ''}."
            )
        else:
            yield (
                f"{benchmark}: none of {len(cells)} parts, each {done} alone, changes accuracy by "
                f"more than {_compared(content)}."
            )
        together = words(whole.accuracy) if whole.accuracy else not_read(whole.refused)
        # Each layer has a cell for each rewind: those of one rewind add up to a whole.
        once = [p for p in cells if config.by != "rewind" or p.family == config.rewind]
        yield (
            f"{benchmark}: the parts' changes add up to {100 * _sum(once):+.2f} points; all parts "
            f"{REWOUND[config.rewind]} together: {together}."
        )


def _compared(content: Content) -> str:
    config = content.config.map
    return "a random change of the same size" if config and config.nulls else "0"


def _done(content: Content) -> str:
    """What is done to a part."""
    config = content.config.map
    if config is None or config.by != "rewind":
        return REWOUND[config.rewind] if config else ""
    return "given before's singular values, its singular vectors, or all (`matrix`)"


def map_table(content: Content, benchmark: str) -> Table:
    """Every part of the map, by layer."""
    rows = []
    for part in content.maps[benchmark]:
        accuracy = cell(part.accuracy) if part.accuracy else not_read(part.refused)
        nulls = " ".join(f"{100 * null.value:+.2f}" for null in part.nulls) or "-"
        rows.append(
            [
                "-" if part.layer is None else str(part.layer),
                part.family,
                accuracy,
                nulls,
                "-" if part.p is None else f"{part.p:.2g}",
                _short(part.nll),
                plain(part.kl).partition(" ")[0],
                f"{part.change:.2g}",
            ]
        )
    return Table(
        f"map-{benchmark}",
        f"What each part carries, on {benchmark}",
        f"Each part alone is {_done(content)}, and after's answers are read. `accuracy`: "
        f"percentage points minus after, with a 95 % interval for problems like these; `random`: "
        f"the same for random changes of the part that are as large; `p`: that the part does "
        f"no more than these, those of the whole column counted, by Holm's method over all parts; "
        f"`NLL`: of after's answers, minus after's, and `KL` from after, in nats per token; "
        f"`change`: ‖W′ − W‖/‖W‖. Parts interact, so they need not add up to the whole in the "
        f"last row.",
        ["layer", "part", "accuracy", "random", "p", "NLL", "KL", "change"],
        rows,
        benchmark,
    )


def _short(interval: Interval) -> str:
    return f"{interval.value:+.2e}"


def _figure(content: Content) -> Figure:
    """A panel for each benchmark: layers × module families, coloured by the change of accuracy."""
    panels = list(content.maps.items())
    rows = max(len({p.layer for p in parts[:-1]}) for _, parts in panels)
    columns = max(len(_columns(parts)) for _, parts in panels)
    width, height = max(6.5, 1.1 * columns + 2.5), max(3.0, 0.42 * rows + 2.2)
    figure, grid = drawing.new(len(panels), width=width * len(panels), height=height)
    for axes, (benchmark, parts) in zip(grid[0], panels, strict=True):
        _panel(axes, parts)
        axes.set(title=named(benchmark))
    return figure


def _columns(parts: Sequence[MapReading]) -> list[str]:
    """The columns, in the order of the cells."""
    return list(dict.fromkeys(part.family for part in parts[:-1]))


def _panel(axes: Axes, parts: Sequence[MapReading]) -> None:
    cells = parts[:-1]
    layers = sorted({-1 if p.layer is None else p.layer for p in cells})
    families = _columns(parts)
    found = {(p.layer, p.family) for p in found_parts(parts)}
    values = [[math.nan for _ in families] for _ in layers]
    for part in cells:
        if part.accuracy:
            place = layers.index(-1 if part.layer is None else part.layer)
            values[place][families.index(part.family)] = 100 * part.accuracy.value
    size = max((abs(v) for row in values for v in row if not math.isnan(v)), default=1.0) or 1.0
    image = axes.imshow(values, cmap="RdBu", vmin=-size, vmax=size, aspect="auto")
    for part in cells:
        y = layers.index(-1 if part.layer is None else part.layer)
        x = families.index(part.family)
        if part.accuracy is None:
            axes.text(x, y, part.refused or "-", ha="center", va="center", fontsize=7)
            continue
        value = 100 * part.accuracy.value
        if (part.layer, part.family) not in found:
            axes.add_patch(_grey(x, y))
        dark = abs(value) > 0.6 * size and (part.layer, part.family) in found
        axes.text(
            x, y, f"{value:+.2f}", ha="center", va="center", fontsize=8,
            color="white" if dark else "black",
        )  # fmt: skip
    axes.set_xticks(range(len(families)), [named(f) for f in families], rotation=30, ha="right")
    axes.set_yticks(range(len(layers)), ["-" if n < 0 else str(n) for n in layers])
    axes.set(ylabel="layer")
    axes.grid(visible=False)
    axes.figure.colorbar(image, ax=axes, label="accuracy minus after's, points", shrink=0.9)


def _grey(x: int, y: int) -> Patch:
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor="#d8d8d8", edgecolor="none")


def _tables(content: Content) -> Iterator[Table]:
    for benchmark in content.maps:
        yield map_table(content, benchmark)


def _pictures(content: Content) -> Iterator[Picture]:
    if content.maps and content.config.map:
        yield Picture(
            "map.png",
            "Where the change sits",
            f"Each cell is one part, {_done(content)} alone: the number is the "
            f"change of accuracy in points, read from after's answers. Red: the part carries some "
            f"of after's accuracy. Grey: not more than {_compared(content)}.",
            lambda: _figure(content),
        )


def _numbers(content: Content) -> Iterator[Row]:
    for benchmark, parts in content.maps.items():
        for part in parts:
            name = f"map: {part_name(part.layer, part.family)}"
            if part.accuracy:
                yield benchmark, name, "read_minus_after", part.accuracy
            for null in part.nulls:
                yield benchmark, name, "random_change_minus_after", null
            yield benchmark, name, "nll_minus_after", part.nll
            yield benchmark, name, "kl_from_after", part.kl
            if part.p is not None:
                yield benchmark, name, "p", Interval(value=part.p)


SECTION = Section(25, sentences=_sentences, tables=_tables, pictures=_pictures, numbers=_numbers)
