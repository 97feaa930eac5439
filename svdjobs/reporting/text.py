"""A table as text: as Markdown, as CSV, and in aligned columns."""

from __future__ import annotations

import csv
import io

from svdjobs import escape
from svdjobs.reporting.data import Table


def markdown_rows(table: Table) -> list[str]:
    """The lines of a table in Markdown."""
    rows = [table.header, ["---"] * len(table.header), *table.rows]
    return ["| " + " | ".join(escape.markdown(cell) for cell in row) + " |" for row in rows]


def csv_table(table: Table) -> bytes:
    """The table as CSV."""
    buffer = io.StringIO()
    rows = [[escape.csv_cell(cell) for cell in row] for row in (table.header, *table.rows)]
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


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
