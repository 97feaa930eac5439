"""All numbers of a report in one CSV file for programs: a row per number, in unrounded floats."""

from __future__ import annotations

import csv
import io
import math

from svdjobs import escape
from svdjobs.reporting.data import Content
from svdjobs.reporting.sections import numbers

HEADER = ("benchmark", "checkpoint", "quantity", "value", "low", "high", "standard_error")


def numbers_csv(content: Content) -> bytes:
    """The numbers as CSV, with fractions instead of percent, and `nan` for a missing number."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(HEADER)
    for *names, found in numbers(content):
        cells = (found.value, found.low, found.high, found.standard_error)
        writer.writerow([*map(escape.csv_cell, names), *map(_float, cells)])
    return buffer.getvalue().encode()


def _float(value: float | None) -> str:
    return repr(float(math.nan if value is None else value))
