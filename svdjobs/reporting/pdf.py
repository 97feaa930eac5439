"""The same bytes for the same figure as PDF.

The writer of PDFs in vl-convert puts objects, and the entries of resource dictionaries, in the
order of a hash table with random keys. Their numbers and names are the same every time, so sorting
both makes the file the same.
"""

from __future__ import annotations

import re
from itertools import pairwise

# Lines such as `      /gs20 28 0 R`, one after the other.
_ENTRIES = re.compile(rb"(?:^ +/\w+ \d+ 0 R\n){2,}", re.MULTILINE)
_TABLE = re.compile(rb"xref\r?\n0 (\d+)\r?\n")
_START = re.compile(rb"startxref\n\d+\n")


def sorted_pdf(pdf: bytes) -> bytes:
    """The PDF with its objects in the order of their numbers, and the entries of its resources in
    that of their names. Its cross-reference table is written again."""
    start = pdf.rindex(b"xref\n0 ")
    table = _TABLE.match(pdf, start)
    if table is None:
        raise ValueError("a PDF without a cross-reference table")
    count, first = int(table[1]), table.end()
    rows = [pdf[first + 20 * i : first + 20 * (i + 1)] for i in range(count)]
    offsets = {i: int(row[:10]) for i, row in enumerate(rows) if row[17:18] == b"n"}
    ends = [*sorted(offsets.values()), start]
    after = dict(pairwise(ends))
    body = bytearray(pdf[: ends[0]])
    for number, offset in sorted(offsets.items()):
        rows[number] = b"%010d" % len(body) + rows[number][10:]
        body += _sorted_entries(pdf[offset : after[offset]])
    trailer = _START.sub(b"startxref\n%d\n" % len(body), pdf[first + 20 * count :])
    return bytes(body) + table[0] + b"".join(rows) + trailer


def _sorted_entries(item: bytes) -> bytes:
    """An object with the entries of its dictionary sorted; its stream stays as it is."""
    head, stream, rest = item.partition(b"stream")
    lines = _ENTRIES.sub(lambda found: b"".join(sorted(found[0].splitlines(True))), head)
    return lines + stream + rest
