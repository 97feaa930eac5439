"""A table as text: as Markdown, as LaTeX, in aligned columns; and as columns of numbers."""

from __future__ import annotations

import csv
import io
from typing import Any

from svdjobs import escape
from svdjobs.reporting.data import Cell, Table

_NUMBERS = {"": "value", " low": "low", " high": "high", " random update": "random"}


def markdown_rows(table: Table) -> list[str]:
    """The lines of a table in Markdown."""
    rows = [table.header, ["---"] * len(table.header), *table.rows]
    return ["| " + " | ".join(escape.markdown(cell) for cell in row) + " |" for row in rows]


def columns(table: Table) -> dict[str, list[Any]]:
    """The table with one number or one text a cell, by column.

    A column of numbers gives a column for each kind that it has: the value, the ends of its
    interval, a random update's value. Words in such a column (`too far from after`) are in one of
    their own, with the ending ` note`.
    """
    found: dict[str, list[Any]] = {}
    for place, title in enumerate(table.header):
        cells = [row[place] for row in table.rows]
        kinds = {
            ending: [getattr(cell, kind, None) for cell in cells]
            for ending, kind in _NUMBERS.items()
        }
        ends = any(getattr(cell, "has_ends", False) for cell in cells)
        known = {
            ending: values
            for ending, values in kinds.items()
            if any(v is not None for v in values) or (ends and ending in (" low", " high"))
        }
        for ending, values in known.items():
            found[title + ending] = values
        words = [cell if known and cell != "-" and not _is_number(cell) else "" for cell in cells]
        if not known:
            found[title] = list(cells)
        elif any(words):
            found[f"{title} note"] = words
    return found


def _is_number(cell: str) -> bool:
    return isinstance(cell, Cell) and (cell.value is not None or cell.low is not None)


def csv_table(table: Table) -> bytes:
    """`columns` as CSV, in unrounded floats; an empty cell where there is no number."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    found = columns(table)
    writer.writerow(map(escape.csv_cell, found))
    for row in zip(*found.values(), strict=True):
        writer.writerow([escape.csv_cell(c) if isinstance(c, str) else _float(c) for c in row])
    return buffer.getvalue().encode()


def _float(value: float | None) -> str:
    return "" if value is None else repr(value)


def parquet_table(table: Table) -> bytes:
    """`columns` as Parquet: float64 and text."""
    import pyarrow
    from pyarrow import parquet

    found = {
        escape.line(name): [escape.line(c) if isinstance(c, str) else c for c in values]
        for name, values in columns(table).items()
    }
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table(found), buffer)
    return buffer.getvalue()


def latex_table(table: Table) -> bytes:
    """The table as a LaTeX tabular for the package booktabs, with its caption as a comment."""
    lines = [
        f"% {escape.line(table.title)}. {escape.line(table.caption)}",
        f"\\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        "\\toprule",
        f"{' & '.join(map(escape.latex, table.header))} \\\\",
        "\\midrule",
        *(f"{' & '.join(map(escape.latex, row))} \\\\" for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return ("\n".join(lines) + "\n").encode()


def plain_table(table: Table) -> str:
    """The table in aligned columns, for a terminal."""
    rows = [[escape.line(cell) for cell in row] for row in (table.header, *table.rows)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])
