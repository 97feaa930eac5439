"""Figures as Vega-Lite specifications, and their export to files.

A figure is one specification with its data in it (https://vega.github.io/vega-lite/). The page
draws it with Vega, and vl-convert, which contains the same Vega, writes SVG, PDF and PNG.

A specification is one view, or views side by side (`concat`). It has no width: a page gives it that
of the window, and a file that of `sized`.
"""

from __future__ import annotations

import copy
import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from svdjobs import escape
from svdjobs.records import Interval
from svdjobs.reporting.pdf import sorted_pdf

Spec = dict[str, Any]
Row = dict[str, Any]
VERSION = "6.4"
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
"""Of the Vega-Lite that `assets/vega.min.js` holds and that vl-convert is asked for."""

# Okabe & Ito's palette, distinguishable with any colour vision (https://jfly.uni-koeln.de/color/).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
NOT_FOUND = "#c9cdd2"
# Below this a number is zero up to float64 rounding; a reader must not take it for a value.
ROUNDING_NOISE = 1e-24
FILE_WIDTH = 560
LABEL_LENGTH = 40
"""Longest name in a figure; a longer name would leave no room for the axes."""
MOST_NUMBERED = 420
"""Cells of a heat map that have their number written in them."""
_HEIGHT = 300


def name(text: str) -> str:
    """A name for a figure: on one line, and cut in its middle if it is long."""
    return escape.shortened(escape.line(text), LABEL_LENGTH)


class Series(NamedTuple):
    """A series of a chart: `points` have bars, a `line` has a band, a `level` is a horizontal line
    with a band."""

    title: str
    kind: Literal["points", "line", "level"]
    values: Mapping[Any, Interval]
    """Value by x. A level has one, at any x."""


def curves(
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    scale: float = 1,
    log: bool = False,
    places: Sequence[str] = (),
) -> Spec:
    """A chart of series against `x`, e.g. alpha; against the names `places` if given."""
    rows = [
        {"series": one.title, "kind": one.kind, "x": at, **_ends(found, scale)}
        for one in series
        for at, found in one.values.items()
        if math.isfinite(found.value) and (not log or found.value > ROUNDING_NOISE)
    ]
    if not rows:
        return _nothing()
    if log:
        _above_zero(rows)
    titles = [one.title for one in series]
    colour = {
        "field": "series", "type": "nominal",
        "scale": {"domain": titles, "range": _palette(len(titles))},
        "legend": {"title": None, "orient": "top", "columns": 2, "labelLimit": 340},
    }  # fmt: skip
    across: Spec = {"field": "x", "title": x}
    if places:
        across |= {"type": "ordinal", "sort": list(places), "axis": {"labelAngle": -30}}
    else:
        numbers = [row["x"] for row in rows if row["kind"] != "level"]
        low, high = min([0.0, *numbers]), max([1.0, *numbers])
        room = 0.02 * (high - low)
        across |= {"type": "quantitative", "axis": {"tickCount": 11, "labelOverlap": True}}
        across["scale"] = {"domain": [low - room, high + room], "nice": False}
    up: Spec = {"field": "y", "type": "quantitative", "title": y}
    up |= _logarithmic(rows) if log else {"scale": {"zero": False}}
    hover = [
        {"field": "series", "type": "nominal", "title": "title"},
        {"field": "x", "type": "nominal", "title": x.partition(" (")[0]},
        *(
            {"field": field, "type": "quantitative", "format": ".4~g", "title": title}
            for field, title in (("y", "value"), ("low", "95 % from"), ("high", "to"))
        ),
    ]  # fmt: skip
    zoom = {
        "name": "zoom", "select": {"type": "interval", "zoom": "wheel![event.shiftKey]"},
        "bind": "scales",
    }  # fmt: skip
    layers: list[Spec] = []
    for kind in ("level", "line", "points"):
        own = [row for row in rows if row["kind"] == kind]
        level = kind == "level"  # it has no x of its own
        error, value = _layers(
            kind, {} if level else {"x": across}, up, colour, hover[:1] + hover[1 + level :]
        )
        layers += [error] if any(row["low"] is not None for row in own) else []
        layers += [value] if own else []
        if own and not level:
            layers.append(_near(value, 500))
    layers[-1]["params"] = [
        {"name": "shown", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"},
        *([zoom] if not places and "x" in layers[-1]["encoding"] else []),
    ]
    return {"height": _HEIGHT, "data": {"values": rows}, "layer": layers}


def _nothing() -> Spec:
    """A figure for which there is no number."""
    text = {"type": "text", "align": "left", "x": 0, "text": "There is no number to draw."}
    return {"height": 30, "data": {"values": [{}]}, "mark": text}


def _above_zero(rows: list[Row]) -> None:
    """Let intervals that reach below what a log axis can show end a decade below all values."""
    floor = min((row["y"] for row in rows), default=1.0) / 10
    for row in rows:
        if row["low"] is not None and row["low"] < floor:
            row["low"] = floor


def _finite(value: float | None) -> float | None:
    """The value, or None for what JSON cannot hold."""
    return value if value is not None and math.isfinite(value) else None


def _logarithmic(rows: Sequence[Row]) -> Spec:
    """A log axis with its ticks at powers of ten, if the values span two or more."""
    logs = [math.log10(row["y"]) for row in rows]
    low, high = (math.floor(min(logs)), math.ceil(max(logs))) if logs else (0, 0)
    axis: Spec = {"format": ".0e"}
    if high - low > 1:
        every = max(1, (high - low) // 6)
        axis["values"] = [10.0**power for power in range(low, high + 1, every)]
    return {"scale": {"type": "log"}, "axis": axis}


def _palette(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)]


def _ends(found: Interval, scale: float) -> Row:
    ends = {"y": found.value, "low": _finite(found.low), "high": _finite(found.high)}
    return {key: None if end is None else scale * end for key, end in ends.items()}


def _layers(kind: str, across: Spec, up: Spec, colour: Spec, hover: list[Spec]) -> list[Spec]:
    """The error and the value of one kind of series."""
    only = f"datum.kind == '{kind}'"
    low = {**up, "field": "low"}
    error: dict[str, Any] = {"level": {"type": "rect"}, "line": {"type": "area"}}.get(
        kind, {"type": "rule", "strokeWidth": 2}
    )
    mark: dict[str, Any] = {
        "level": {"type": "rule", "strokeDash": [6, 4], "strokeWidth": 1.5},
        "line": {"type": "line", "point": {"size": 22}, "strokeWidth": 1.8},
    }.get(kind, {"type": "point", "filled": True, "size": 55})
    faint = 1 if kind == "points" else 0.15
    return [
        {
            "transform": [{"filter": f"{only} && isValid(datum.low) && isValid(datum.high)"}],
            "mark": error,
            "encoding": {
                **across, "y": low, "y2": {"field": "high"}, "color": colour,
                "opacity": _if_shown(faint),
            },
        },
        {
            "transform": [{"filter": only}],
            "mark": mark,
            "encoding": {
                **across, "y": up, "color": colour, "opacity": _if_shown(1), "tooltip": hover,
            },
        },
    ]  # fmt: skip


def _near(layer: Spec, size: int) -> Spec:
    """Unseen points around those of a layer: a mouse need not hit a small point."""
    mark = {"type": "point", "filled": True, "size": size, "opacity": 0}
    encoding = {channel: how for channel, how in layer["encoding"].items() if channel != "opacity"}
    return {**layer, "mark": mark, "encoding": encoding}


def _if_shown(opacity: float) -> Spec:
    """Opacity of a series that its entry in the legend can switch off."""
    return {"condition": {"param": "shown", "value": opacity}, "value": 0.04 * opacity}


class Heat(NamedTuple):
    """How the cells of a heat map are coloured."""

    title: str
    """Of the scale of colours."""
    around: float | None = None
    """The value in the middle of a diverging scale: 0, or 1 for a ratio; None: small to large."""
    format: str = ".2~g"
    warm_is_high: bool = True


def heat_map(
    cells: Sequence[Row],
    heat: Heat,
    *,
    columns: Sequence[str],
    hover: Mapping[str, str],
    rows: str = "layer",
    across: str | None = None,
) -> Spec:
    """Layers, or other `rows`, from below × `columns`, with the title `across`.

    A cell is a row with `layer` (None for matrices of no layer), `column`, `value` (None: it is not
    known), and optionally `found` (False: grey). `hover` maps fields to titles.
    """
    layers = sorted({-1 if cell["layer"] is None else cell["layer"] for cell in cells})
    own: list[Row] = [
        {
            **{k: _finite(v) if isinstance(v, float) else v for k, v in cell.items()},
            "row": "-" if cell["layer"] is None else str(cell["layer"]),
        }
        for cell in cells
    ]
    known = [row["value"] for row in own if row["value"] is not None]
    if not known:
        return _nothing()
    scale, strong = _colours(known, heat)
    for row in own:
        if heat.around == 1 and row["value"] is not None:
            row["colour"] = min(max(row["value"], scale["domain"][0]), scale["domain"][1])
        else:
            row["colour"] = row["value"]
    place = {
        "x": {
            "field": "column", "type": "nominal", "sort": list(columns), "title": across,
            "axis": {"labelAngle": 0 if max(map(len, columns), default=0) < 4 else -40,
                     "labelLimit": 120, "labelOverlap": True},
        },
        "y": {
            "field": "row", "type": "ordinal", "title": rows,
            "sort": ["-" if layer < 0 else str(layer) for layer in reversed(layers)],
            "axis": {"labelOverlap": True},
        },
    }  # fmt: skip
    colour: Spec = {
        "field": "colour", "type": "quantitative", "scale": scale,
        "legend": {
            "title": heat.title, "orient": "top", "gradientLength": 200, "titleLimit": 340,
            "format": heat.format,
            **({"values": [scale["domain"][0], 1, scale["domain"][1]]} if heat.around == 1 else {}),
        },
    }  # fmt: skip
    layer: list[Spec] = [
        {
            "mark": {"type": "rect"},
            "encoding": {
                "color": {
                    "condition": {"test": "datum.found === false || !isValid(datum.value)",
                                  "value": NOT_FOUND}, **colour,
                },
                "tooltip": [
                    {"field": field, "title": title, **_shown(own, field, heat)}
                    for field, title in {"column": "title", "row": rows, **hover}.items()
                ],
            },
        }
    ]  # fmt: skip
    if len(own) <= MOST_NUMBERED and len(layers) <= 40:
        layer.append(
            {
                "transform": [{"filter": "isValid(datum.value)"}],
                "mark": {"type": "text", "fontSize": 10},
                "encoding": {
                    "text": {"field": "value", "type": "quantitative", "format": heat.format},
                    "color": {
                        "condition": {
                            "test": f"datum.found !== false && {strong}",
                            "value": "#fff",
                        },
                        "value": "#111",
                    },
                },
            }
        )
    step = max(8, min(34, 620 // max(1, len(layers))))
    return {
        "height": {"step": step}, "data": {"values": own}, "encoding": place, "layer": layer
    }  # fmt: skip


def _shown(rows: Sequence[Row], field: str, heat: Heat) -> Spec:
    """How a field is written on hover."""
    if any(isinstance(row.get(field), float) for row in rows):
        return {"type": "quantitative", "format": heat.format if field == "value" else ".3~g"}
    return {"type": "nominal"}


def _colours(known: Sequence[float], heat: Heat) -> tuple[Spec, str]:
    """The scale of colours, and a test for a cell so dark that its text is white."""
    if heat.around is None:
        top = max(known, default=1.0)
        return {
            "scheme": "viridis",
            "zero": True,
        }, f"datum.found !== false && datum.value < {0.55 * top}"
    if heat.around == 1:
        logs = [abs(math.log(value)) for value in known if value > 0]
        size = math.exp(min(max([*logs, math.log(1.5)]), math.log(1e4)))
        scale: Spec = {"type": "log", "domain": [1 / size, size]}
        strong = f"abs(log(datum.colour)) > {0.6 * math.log(size)}"
    else:
        size = max((abs(value) for value in known), default=0.0) or 1.0
        scale = {"domain": [-size, size]}
        strong = f"abs(datum.value) > {0.6 * size}"
    scale |= {"scheme": "redblue", "reverse": heat.warm_is_high}
    return scale, f"datum.found !== false && {strong}"


def lines(
    rows: Sequence[Row],
    *,
    x: str,
    y: str,
    styles: Sequence[str],
    title: str = "",
    subtitle: str = "",
    series: Sequence[str] = (),
    log_x: bool = False,
) -> Spec:
    """Lines on a log axis: `series` has a colour, `style` (of `styles`) a kind of line.

    A row has `series`, `style`, `x` and `y`; a `y` that a log axis cannot show is a gap. Views
    beside each other get all their `series`, so that they share the colours.
    """
    rows = [row for row in rows if (_finite(row["y"]) or 0.0) > ROUNDING_NOISE]
    if not rows:
        return _nothing()
    series = series or list(dict.fromkeys(row["series"] for row in rows))
    dashes = [[1, 0], [6, 3], [1, 3]]
    legend = {"title": None, "orient": "bottom", "columns": 4, "labelLimit": 240}
    colours = {"domain": list(series), "range": _palette(len(series))}
    encoding = {
        "x": {"field": "x", "type": "quantitative", "title": x,
              "axis": ({} if log_x else _whole_ticks(rows)) or {"tickCount": 8},
              "scale": {"nice": False, **({"type": "log"} if log_x else {})}},
        "y": {"field": "y", "type": "quantitative", "title": y, **_logarithmic(rows)},
        "color": {"field": "series", "type": "nominal", "scale": colours, "legend": legend},
        "opacity": _if_shown(1),
        "tooltip": [
            {"field": "series", "type": "nominal", "title": "title"},
            {"field": "style", "type": "nominal", "title": "line"},
            {"field": "x", "type": "quantitative", "title": x, "format": ".4~g"},
            {"field": "y", "type": "quantitative", "title": y, "format": ".3~g"},
        ],
    }  # fmt: skip
    dash = {
        "field": "style", "type": "nominal",
        "scale": {"domain": list(styles), "range": dashes[: len(styles)]},
        "legend": {**legend, "columns": 1, "symbolType": "stroke", "symbolSize": 400,
                   "symbolStrokeWidth": 2, "symbolStrokeColor": "#888"},
    }  # fmt: skip
    shown = {"name": "shown", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "strokeWidth": 1.4},
            "encoding": {**encoding, "strokeDash": dash},
            "params": [shown],
        }
    ]
    if len(rows) <= 40 * max(1, len(series)) * len(styles):
        points: Spec = {
            "mark": {"type": "point", "filled": True, "size": 18}, "encoding": encoding
        }  # fmt: skip
        layers += [points, _near(points, 300)]
    found: Spec = {"height": 240, "data": {"values": rows}, "layer": layers}
    if title:
        found["title"] = {"text": title, "subtitle": subtitle, "fontSize": 12, "limit": 330}
    return found


def _whole_ticks(rows: Sequence[Row]) -> Spec:
    """Ticks at whole numbers, such as layers, at most a dozen; empty if x has others."""
    places = sorted({row["x"] for row in rows})
    if any(place != int(place) for place in places):
        return {}
    return {"values": places[:: math.ceil(len(places) / 12)], "format": "d"}


def beside(views: Iterable[Spec], *, independent: Sequence[str] = ()) -> Spec:
    """Views side by side, as many in a row as there is room for.

    `independent` names the channels, e.g. `color`, whose scales the views do not share.
    """
    resolve = {"scale": dict.fromkeys(independent, "independent")} if independent else {}
    return {"concat": list(views), "columns": 2, "resolve": resolve}


def sized(spec: Spec, width: int = FILE_WIDTH) -> Spec:
    """The specification for a file: with its schema, widths, and dark text on white."""
    found = {"$schema": SCHEMA, **copy.deepcopy(spec), "background": "#fff", "config": CONFIG}
    for view in found.get("concat", [found]):
        view["width"] = width * 2 // 3 if "concat" in found else width
    return found


# One font, regular: the writer of PDFs numbers several fonts in random order.
CONFIG: Spec = {
    "font": "sans-serif",
    "view": {"stroke": None},
    "axis": {"gridOpacity": 0.35, "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": 400},
    "legend": {
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": 400,
        "symbolOpacity": 1,
    },
    "title": {"fontWeight": 400, "subtitleFontSize": 10},
}


def files(spec: Spec) -> dict[str, bytes]:
    """The figure as SVG, PDF, PNG (192 pixels an inch), its specification and its numbers, by
    ending."""
    import vl_convert

    document = sized(spec)
    svg = _same_ids(vl_convert.vegalite_to_svg(document, VERSION))
    return {
        "svg": svg.encode(),
        "pdf": sorted_pdf(vl_convert.svg_to_pdf(svg)),
        "png": vl_convert.svg_to_png(svg, scale=2),
        "vl.json": json.dumps(document, sort_keys=True, allow_nan=False).encode(),
        "csv": _numbers_csv(spec),
    }


def _numbers_csv(spec: Spec) -> bytes:
    """The rows that a figure draws, those of all its views."""
    rows = [row for view in spec.get("concat", [spec]) for row in view["data"]["values"]]
    buffer = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {k: escape.csv_cell(v) if isinstance(v, str) else v for k, v in row.items()}
        writer.writerow(cells)
    return buffer.getvalue().encode()


def _same_ids(svg: str) -> str:
    """Number the ids of gradients and clips in a figure from 0: Vega numbers them in a process."""
    ids = dict.fromkeys(re.findall(r'\bid="((?:gradient_|clip)\d+)"', svg))
    new = {old: f"{old.rstrip('0123456789')}{number}" for number, old in enumerate(ids)}
    return re.sub(r'(?<=[#"])(?:gradient_|clip)\d+(?=[")])', lambda found: new[found[0]], svg)
