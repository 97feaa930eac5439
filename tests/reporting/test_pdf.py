"""PDFs of figures: the same bytes, and still what other readers open."""

from __future__ import annotations

import re

import pytest
import vl_convert

from svdjobs.reporting import charts
from svdjobs.reporting.pdf import sorted_pdf
from tests.reporting.test_charts import cells, curve, heat


@pytest.mark.parametrize("spec", [curve(), heat(cells(5), around=1.0)])
def test_sorting_changes_only_the_order(spec: charts.Spec) -> None:
    svg = charts.files(spec)["svg"].decode()
    plain = [vl_convert.svg_to_pdf(svg) for _ in range(6)]
    made = {sorted_pdf(pdf) for pdf in plain}
    assert len(made) == 1
    (pdf,) = made
    assert len(pdf) == len(plain[0])
    assert streams(pdf) == streams(plain[0])
    assert sorted_pdf(pdf) == pdf


def streams(pdf: bytes) -> list[bytes]:
    return sorted(re.findall(rb"stream\n.*?endstream", pdf, re.DOTALL))


def test_every_offset_of_the_table_is_that_of_its_object() -> None:
    pdf = charts.files(curve())["pdf"]
    start = int(re.search(rb"startxref\n(\d+)\n", pdf)[1])  # type: ignore[index]
    assert pdf[start : start + 5] == b"xref\n"
    rows = pdf[start:].splitlines()[2:]
    offsets = [int(row[:10]) for row in rows if row[17:18] == b"n"]
    assert offsets == sorted(offsets)
    for offset in offsets:
        assert re.match(rb"\d+ 0 obj", pdf[offset:])
