"""The words and tables of a comparison of runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from svdjobs.escape import line, shortened
from svdjobs.reporting.data import Table, interval_text, percent, points
from svdjobs.reporting.sections.reading import cell
from svdjobs.reporting.text import plain_table
from svdjobs.standalone.compare import Compared, checkpoint_ids

_WIDTH = 100
_LONGEST_KEY = 34


def words(found: Compared) -> Iterator[str]:
    """Lines for the user. Tables are at most 100 columns wide."""
    for side in found.sides:
        config = side.config
        yield f"{side.label}  {side.store.url}: {config.name}, {config.before} → {config.after}"
    yield ""
    if found.settings:
        yield "Settings that differ:"
        yield from plain_table(_settings_table(found)).splitlines()
    else:
        yield "All settings are equal."
    for benchmark in found.benchmarks:
        yield f"\n{benchmark}: share of correct completions, and percentage points (95 % intervals)"
        yield from plain_table(_accuracy_table(found, benchmark)).splitlines()
        yield from _unlike(found, benchmark)
    if any(test.comparison for test in found.tests):
        yield "\nEach run minus A: same problems, prompts and seeds, paired by problem, in points"
        yield from plain_table(_tests_table(found)).splitlines()
        yield "p: of no difference, by Holm's method over all tests of this table."
    if notes := found.notes:
        yield ""
        yield from notes


def _settings_table(found: Compared) -> Table:
    labels = [side.label for side in found.sides]
    keys = {key: shortened(line(key), _LONGEST_KEY) for key in found.settings}
    width = (_WIDTH - max(map(len, keys.values()))) // len(labels) - 2
    rows = [
        [keys[key], *(shortened(line(_shown(value)), width) for value in values)]
        for key, values in found.settings.items()
    ]
    return Table("settings", "", "", ["key", *labels], rows)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _accuracy_table(found: Compared, benchmark: str) -> Table:
    unlike = {test.label for test in found.tests if test.benchmark == benchmark and test.unlike}
    bases = {side.config.bases_of for side in found.sides}
    rows = []
    for checkpoint_id in dict.fromkeys(i for s in found.sides for i in checkpoint_ids(s.config)):
        for side in found.sides:
            avg = side.number(benchmark, checkpoint_id, "avg")
            minus = side.number(benchmark, checkpoint_id, f"minus_{side.config.bases_of}")
            read = side.number(benchmark, checkpoint_id, "read_minus_after")
            rows.append(
                [
                    checkpoint_id if side is found.sides[0] else "",
                    f"{side.label}{' *' if side.label in unlike else '  '}",
                    f"{percent(avg.value)} {interval_text(avg)}" if avg else "-",
                    points(minus) if minus else "-",
                    cell(read),
                ]
            )
    versus = f"minus {bases.pop()}" if len(bases) == 1 else "minus its bases"
    header = ["checkpoint", "run", "accuracy", versus, "read minus after"]
    return Table("accuracy", "", "", header, rows)


def _unlike(found: Compared, benchmark: str) -> Iterator[str]:
    """Why the numbers of runs are no answers to the same questions as those of the first run."""
    reasons: dict[str, list[str]] = {}
    for test in found.tests:
        if test.benchmark == benchmark:
            reasons.setdefault(test.label, []).extend(test.unlike)
    for label, whole in reasons.items():
        if whole:
            yield f"* {label} is unpaired with A, since its questions are not A's:"
            yield from (f"    {reason}" for reason in dict.fromkeys(whole))


def _tests_table(found: Compared) -> Table:
    rows, adjusted = [], found.adjusted
    for test in found.tests:
        if test.comparison:
            p = adjusted.get((test.benchmark, test.checkpoint_id, test.label))
            changed = f"{test.comparison.changed} of {test.comparison.problems}"
            difference = points(test.comparison.difference)
            rows.append(
                [
                    f"{shortened(line(test.benchmark), 24)}, {test.checkpoint_id}",
                    f"{test.label} − A",
                    difference,
                    changed,
                    "same weights" if p is None else f"{p:.2g}",
                ]
            )
    header = ["checkpoint", "runs", "difference", "problems changed", "p"]
    return Table("tests", "", "", header, rows)
