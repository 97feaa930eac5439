"""Figures: what a specification holds, and the files that are made of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pytest

from svdjobs.records import Interval
from svdjobs.reporting import charts
from tests import page_assets

AROUND = {0.0: Interval(value=0.5, low=0.4, high=0.6), 1.0: Interval(value=0.7)}


def curve(**options: Any) -> charts.Spec:
    series = [
        charts.Series("sampled", "points", AROUND),
        charts.Series("read", "line", AROUND),
        charts.Series("before", "level", {"before": Interval(value=0.1, low=0.0, high=0.2)}),
    ]
    return charts.curves(series, x="alpha", y="accuracy, %", scale=100, **options)


def cells(layers: int) -> list[charts.Row]:
    return [
        {"layer": layer, "column": column, "value": 1.0 + layer + len(column)}
        for layer in range(layers)
        for column in ("q", "down")
    ]


def heat(rows: list[charts.Row], **options: Any) -> charts.Spec:
    found = charts.Heat("size", **options)
    return charts.heat_map(rows, found, columns=["q", "down"], hover={"value": "size"})


ONE = {0.5: Interval(value=0.5)}
NAN = {0.0: Interval(value=float("nan")), 1.0: Interval(value=1.0, low=float("-inf"), high=2.0)}
BELOW = {0.0: Interval(value=1e-3, low=-1e-3, high=2e-3), 1.0: Interval(value=1e-5)}
EDGES: dict[str, Callable[[], charts.Spec]] = {
    "no rows": lambda: charts.curves([], x="alpha", y="y"),
    "levels only": lambda: charts.curves(
        [charts.Series("before", "level", {"before": Interval(value=0.1)})], x="alpha", y="y"
    ),
    "a single point": lambda: charts.curves([charts.Series("s", "line", ONE)], x="alpha", y="y"),
    "not finite": lambda: charts.curves([charts.Series("s", "line", NAN)], x="alpha", y="y"),
    "intervals below a log axis": lambda: charts.curves(
        [charts.Series("s", "line", BELOW)], x="alpha", y="y", log=True
    ),
    "all zero": lambda: heat([{**cell, "value": 0.0} for cell in cells(2)]),
    "all zero, around 0": lambda: heat([{**cell, "value": 0.0} for cell in cells(2)], around=0.0),
    "ratios of nothing": lambda: heat([{**cell, "value": 0.0} for cell in cells(2)], around=1.0),
    "nothing known": lambda: heat([{**cell, "value": None} for cell in cells(2)], around=1.0),
    "infinite": lambda: heat([{**cell, "value": float("inf")} for cell in cells(2)]),
    "one line": lambda: charts.lines(
        [{"series": "q", "style": "a", "x": 0, "y": 1.0}], x="layer", y="y", styles=("a",)
    ),
}


@pytest.mark.parametrize(
    "spec",
    [
        curve(),
        curve(log=True),
        *(make() for make in EDGES.values()),
        charts.curves(
            [charts.Series("s", "line", {"step 1": Interval(value=1), "b": Interval(value=2)})],
            x="checkpoint", y="y", places=["step 1", "b"],
        ),
        charts.beside([heat(cells(3)), heat(cells(80), around=1.0)], independent=("color",)),
        heat([{"layer": None, "column": "q", "value": None}], around=0.0),
        charts.lines(
            [{"series": "q", "style": "a", "x": x, "y": y} for x, y in ((0, 1e-30), (1, 1.0))],
            x="layer", y="MSE", styles=("a", "b"), title="U",
        ),
    ],
)  # fmt: skip
def test_every_file_of_a_figure_is_what_its_ending_says(spec: charts.Spec) -> None:
    files = charts.files(spec)
    assert ElementTree.fromstring(files["svg"]).tag.endswith("svg")
    assert files["pdf"].startswith(b"%PDF")
    assert files["png"].startswith(b"\x89PNG")
    document = json.loads(files["vl.json"])
    assert document["$schema"] == charts.SCHEMA
    assert all(charts.files(spec) == files for _ in range(4))


def test_a_figure_s_numbers_are_a_file_too() -> None:
    rows = list(csv.DictReader(io.StringIO(charts.files(curve())["csv"].decode())))
    assert rows[0] == {
        "series": "sampled", "kind": "points", "x": "0.0", "y": "50.0", "low": "40.0",
        "high": "60.0",
    }  # fmt: skip
    assert rows[1]["low"] == ""


def test_a_figure_holds_its_numbers() -> None:
    rows = curve()["data"]["values"]
    assert {"series": "sampled", "kind": "points", "x": 0.0, "y": 50, "low": 40, "high": 60} in rows
    assert {"series": "read", "kind": "line", "x": 1.0, "y": 70, "low": None, "high": None} in rows


def test_a_log_axis_takes_no_number_that_is_rounding() -> None:
    found = {0.0: Interval(value=1e-5), 1.0: Interval(value=0), 2.0: Interval(value=1e-30)}
    spec = charts.curves([charts.Series("s", "line", found)], x="a", y="b", log=True)
    assert [row["x"] for row in spec["data"]["values"]] == [0.0]


def test_ratios_are_coloured_around_1_and_cut_at_the_ends() -> None:
    rows = [{"layer": 0, "column": "q", "value": value} for value in (0.0, 0.5, 1.0, 2.0)]
    spec = heat(rows, around=1.0)
    low, high = spec["layer"][0]["encoding"]["color"]["scale"]["domain"]
    assert low * high == pytest.approx(1)
    assert [row["colour"] for row in spec["data"]["values"]] == [low, 0.5, 1.0, 2.0]


def test_numbers_are_written_in_a_map_that_has_room_for_them() -> None:
    assert len(heat(cells(30))["layer"]) == 2
    assert len(heat(cells(80))["layer"]) == 1
    assert heat(cells(80))["height"] == {"step": 8}


def test_long_names_are_cut_in_their_middle() -> None:
    assert charts.name("a" * 40) == "a" * 40
    assert charts.name("a" * 20 + "b" * 30 + "c" * 19) == "a" * 20 + "…" + "c" * 19
    assert charts.name("x\n\x1b") == r"x\n\x1b"


def test_the_page_draws_with_the_vega_of_the_files() -> None:
    with (page_assets.ASSETS / "vega.min.js").open(encoding="utf-8") as file:
        assert file.readline().strip() == page_assets.first_line()
