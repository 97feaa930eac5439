"""The map: what each layer and module family carries of the change from before to after."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from svdjobs.checkpoint.selection import part_name
from svdjobs.records import Interval, MapReading
from svdjobs.reporting import charts
from svdjobs.reporting.data import (
    Answer,
    Content,
    Picture,
    Question,
    Row,
    Section,
    Table,
    number,
    of_interval,
)
from svdjobs.reporting.sections.reading import LEVEL, cell, not_read, words

MOST_NAMED = 3
REWOUND = {
    "matrix": "set back to before",
    "values": "given before's singular values",
    "vectors": "given before's singular vectors",
}


def found_parts(parts: Sequence[MapReading]) -> list[MapReading]:
    """The cells that differ from random changes of the same size, the largest effect first."""
    cells = [p for p in parts[:-1] if p.accuracy and p.p is not None and p.p < LEVEL]
    return sorted(cells, key=lambda part: -abs(part.accuracy.value if part.accuracy else 0.0))


def _sum(parts: Sequence[MapReading]) -> float:
    return math.fsum(part.accuracy.value for part in parts if part.accuracy)


def _answers(content: Content) -> Iterator[Answer]:
    for benchmark, parts in content.maps.items() if content.config.map else ():
        for text in _sentences(content, parts):
            yield Answer(Question.WHERE, text, benchmark)


def _sentences(content: Content, parts: Sequence[MapReading]) -> Iterator[str]:
    config = content.config.map
    if config is None:
        return
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
            f"Of {len(cells)} parts, each {done} alone, {len(found)} change accuracy by more than "
            f"{_compared(content)}: {largest}{' and others' if len(found) > MOST_NAMED else ''}."
        )
    else:
        yield (
            f"None of {len(cells)} parts, each {done} alone, changes accuracy by more than "
            f"{_compared(content)}."
        )
    together = words(whole.accuracy) if whole.accuracy else not_read(whole.refused)
    # Each layer has a cell for each rewind: those of one rewind add up to a whole.
    once = [p for p in cells if config.by != "rewind" or p.family == config.rewind]
    yield (
        f"The parts' changes add up to {100 * _sum(once):+.2f} points; all parts "
        f"{REWOUND[config.rewind]} together change it by {together}."
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
        rows.append(
            [
                "-" if part.layer is None else str(part.layer),
                part.family,
                accuracy,
                _nulls(part),
                number(part.p, ".2g"),
                of_interval(f"{part.nll.value:+.2e}", part.nll),
                of_interval(f"{part.kl.value:.3g}", part.kl),
                number(part.change, ".2g"),
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


def _chart(parts: Sequence[MapReading]) -> charts.Spec:
    """Layers × columns, coloured by the change of accuracy; grey: no more than a random change."""
    found = {(part.layer, part.family) for part in found_parts(parts)}
    cells = [
        {
            "layer": part.layer,
            "column": charts.name(part.family),
            "value": None if part.accuracy is None else 100 * part.accuracy.value,
            "interval": cell(part.accuracy) if part.accuracy else not_read(part.refused),
            "p": part.p,
            "random": _nulls(part),
            "found": (part.layer, part.family) in found,
        }
        for part in parts[:-1]
    ]
    return charts.heat_map(
        cells,
        charts.Heat("accuracy minus after's, points", around=0, format="+.2f", warm_is_high=False),
        columns=[charts.name(column) for column in dict.fromkeys(p.family for p in parts[:-1])],
        hover={"interval": "points", "random": "random changes", "p": "p"},
    )


def _nulls(part: MapReading) -> str:
    return " ".join(f"{100 * null.value:+.2f}" for null in part.nulls) or "-"


def _tables(content: Content) -> Iterator[Table]:
    for benchmark in content.maps:
        yield map_table(content, benchmark)


def _pictures(content: Content) -> Iterator[Picture]:
    for benchmark, parts in content.maps.items() if content.config.map else ():
        yield Picture(
            f"map-{benchmark}",
            f"Where the change sits, on {benchmark}",
            f"Each cell is one part, {_done(content)} alone: the number is the change of accuracy "
            f"in points, read from after's answers. Red: the part carries some of after's "
            f"accuracy. Grey: not more than {_compared(content)}.",
            _chart(parts),
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


SECTION = Section(
    25, "The map", answers=_answers, tables=_tables, pictures=_pictures, numbers=_numbers
)
