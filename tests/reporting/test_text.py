"""Tables as files: one number a cell for scripts, and LaTeX for papers."""

from __future__ import annotations

import csv
import io

import pyarrow.parquet

from svdjobs.records import Interval
from svdjobs.reporting import text
from svdjobs.reporting.data import Cell, Table, interval_text, number, percent, points

TABLE = Table(
    "t", "A title", "100 % of `it`",
    ["checkpoint", "avg@4", "interval", "minus after", "NSS", "p"],
    [
        ["before", percent(2 / 3), interval_text(Interval(value=0, low=0.1, high=0.2)),
         points(Interval(value=-0.1, low=-0.2, high=0.0)), Cell("1 (2)", 1.0, random=2.0), "-"],
        ["=x_1", percent(0.5), interval_text(Interval(value=0)), "too far from after",
         Cell("3 (4)", 3.0, random=4.0), number(0.1234567, ".2g")],
    ],
)  # fmt: skip


def test_columns_have_one_number_a_cell() -> None:
    assert text.columns(TABLE) == {
        "checkpoint": ["before", "=x_1"],
        "avg@4": [100 * (2 / 3), 50.0],
        "interval low": [10.0, None],
        "interval high": [20.0, None],
        "minus after": [-10.0, None],
        "minus after low": [-20.0, None],
        "minus after high": [0.0, None],
        "minus after note": ["", "too far from after"],
        "NSS": [1.0, 3.0],
        "NSS random update": [2.0, 4.0],
        "p": [None, 0.1234567],
    }


def test_csv_is_unrounded_and_holds_no_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(text.csv_table(TABLE).decode())))
    assert float(rows[0]["avg@4"]) == 100 * (2 / 3)
    assert rows[1]["interval low"] == ""
    assert rows[1]["checkpoint"] == "'=x_1"


def test_parquet_has_numbers_and_is_the_same_every_time() -> None:
    data = text.parquet_table(TABLE)
    found = pyarrow.parquet.read_table(io.BytesIO(data))
    assert found.to_pydict() == text.columns(TABLE)
    assert str(found.schema.field("p").type) == "double"
    assert data == text.parquet_table(TABLE)


def test_an_empty_table_is_a_file_too() -> None:
    empty = Table("e", "t", "c", ["a", "b"], [])
    assert text.csv_table(empty) == b"a,b\n"
    assert pyarrow.parquet.read_table(io.BytesIO(text.parquet_table(empty))).num_rows == 0


def test_latex_takes_no_command_from_a_cell() -> None:
    hostile = Table(
        "h", "t\n\\input{x}", "c", ["‖ΔW‖", "k̂"], [["\\input{/etc/passwd}", "50 % & $x$ ^~#_"]]
    )
    lines = text.latex_table(hostile).decode().splitlines()
    assert lines[0].startswith("% t\\n")
    assert lines[3] == r"$\|$$\Delta$W$\|$ & $\hat{k}$ \\"
    assert lines[5] == (
        r"\textbackslash{}input\{/etc/passwd\} & "
        r"50 \% \& \$x\$ \textasciicircum{}\textasciitilde{}\#\_ \\"
    )
    assert len(lines) == 8
