"""Puts runs side by side: their settings, their accuracies, and tests between them."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from svdjobs.config import SweepConfig, alpha_id
from svdjobs.errors import ConfigError, DamagedError, IncompleteError
from svdjobs.evaluation.comparability import differences, version_notes
from svdjobs.evaluation.grades import Evaluation, find
from svdjobs.records import Comparison, Interval, Summary
from svdjobs.runs.outputs import read_finished
from svdjobs.runs.stored_config import stored_config
from svdjobs.stages import report
from svdjobs.statistics import compare, holm
from svdjobs.storage.open import open_store
from svdjobs.storage.store import Store

NUMBERS = "tables/numbers.csv"
MOST_RUNS = 4
_OWN = {"name", "store"}
"""Keys that differ between any two runs."""


class Side(NamedTuple):
    """One of the runs."""

    label: str
    """`A`, `B` and so on."""
    store: Store
    config: SweepConfig
    numbers: Mapping[tuple[str, str, str], Interval]
    """By benchmark, checkpoint and quantity; empty without a report."""
    note: str
    """Why it has no numbers; empty if it has."""

    def number(self, benchmark: str, checkpoint_id: str, quantity: str) -> Interval | None:
        """A number of the run's report; None if it has none."""
        return self.numbers.get((benchmark, checkpoint_id, quantity))


class Test(NamedTuple):
    """A checkpoint of a run against the same checkpoint of the first run, on one benchmark."""

    benchmark: str
    checkpoint_id: str
    label: str
    comparison: Comparison | None
    """Paired by problem, this run minus the first; None if they are unlike."""
    unlike: list[str]
    """Why they cannot be paired."""
    pair: tuple[Evaluation, Evaluation]

    @property
    def same_checkpoint(self) -> bool:
        """Whether the weights are the same, and so is the score of every problem."""
        weights = {evaluation.completions.inputs["checkpoint"] for evaluation in self.pair}
        return len(weights) == 1 and self.comparison is not None and not self.comparison.changed

    @property
    def p(self) -> float | None:
        """The p-value of no difference; None if they are not paired, or there is none to test."""
        made = self.comparison
        if made is None or self.same_checkpoint:
            return None
        return made.p if made.mcnemar_p is None else made.mcnemar_p


class Compared(NamedTuple):
    """Runs side by side; the first is the one that the others are compared with."""

    sides: list[Side]
    settings: dict[str, list[Any]]
    """Key of the config → its value in each run, where they differ. A missing key is None."""
    tests: list[Test]

    @property
    def benchmarks(self) -> list[str]:
        """Names of the benchmarks of any run."""
        return list(dict.fromkeys(b.name for side in self.sides for b in side.config.benchmarks))

    @property
    def notes(self) -> list[str]:
        """Runs without numbers, and engines whose versions differ from the first run's."""
        notes = [side.note for side in self.sides if side.note]
        for side in self.sides[1:]:
            pairs = [test.pair for test in self.tests if test.label == side.label]
            notes += version_notes(pairs, (side.label, "A"))
        return notes

    @property
    def adjusted(self) -> dict[tuple[str, str, str], float]:
        """p of each test by benchmark, checkpoint and run, by Holm's method over all of them."""
        return holm({(*test[:3],): test.p for test in self.tests if test.p is not None})


def run(urls: Sequence[str]) -> Compared:
    """Read runs and compare them.

    Raises:
        ConfigError: there are fewer than two or more than four, or one is no run.
    """
    if not 2 <= len(urls) <= MOST_RUNS:
        raise ConfigError(f"give two to {MOST_RUNS} runs; found {len(urls)}.")
    sides = [_side(label, url) for label, url in zip("ABCD", urls, strict=False)]
    documents = [side.config.model_dump(mode="json", exclude=_OWN) for side in sides]
    first, *others = sides
    tests = [test for other in others for test in _tests(first, other)]
    return Compared(sides, dict(_differing(documents, "")), tests)


def _side(label: str, url: str) -> Side:
    store = open_store(url)
    config = stored_config(store)
    numbers, note = {}, ""
    try:
        numbers = dict(_numbers(read_finished(store, report.PREFIX, NUMBERS)))
    except IncompleteError:
        note = f"{label} has no report, so no numbers; `svdjobs status {url}` says what to run."
    except DamagedError as error:
        note = f"{label} has no numbers: {error}"
    except (KeyError, ValueError):
        note = f"{label} has no numbers: another version of svdjobs wrote its {NUMBERS}."
    return Side(label, store, config, numbers, note)


def _numbers(data: bytes) -> Iterator[tuple[tuple[str, str, str], Interval]]:
    for row in csv.DictReader(io.StringIO(data.decode())):
        value, *others = (float(row[name]) for name in ("value", "low", "high", "standard_error"))
        low, high, error = (None if math.isnan(other) else other for other in others)
        if not math.isnan(value):
            found = Interval(value=value, low=low, high=high, standard_error=error)
            yield (row["benchmark"], row["checkpoint"], row["quantity"]), found


def _differing(values: Sequence[Any], key: str) -> Iterator[tuple[str, list[Any]]]:
    """The keys below `key` whose values differ, with all values."""
    names: list[Any] = []
    if all(isinstance(value, Mapping) for value in values):
        names = list(dict.fromkeys(name for value in values for name in value))
        inner = [[value.get(name) for value in values] for name in names]
    elif all(isinstance(value, list) and len(value) == len(values[0]) for value in values) and any(
        isinstance(item, Mapping) for value in values for item in value
    ):
        names = list(range(len(values[0])))
        inner = [list(items) for items in zip(*values, strict=True)]
    elif any(value != values[0] for value in values):
        yield key, list(values)
    if names:
        for name, items in zip(names, inner, strict=True):
            yield from _differing(items, f"{key}.{name}".lstrip("."))


def checkpoint_ids(config: SweepConfig) -> list[str]:
    """Ids of the checkpoints that are compared: before, after and alpha = 0."""
    zero = [alpha_id(0.0)] if 0.0 in config.alphas else []
    return ["before", "after", *zero]


def _tests(first: Side, other: Side) -> Iterator[Test]:
    shared = {benchmark.name for benchmark in first.config.benchmarks}
    ids = [i for i in checkpoint_ids(other.config) if i in checkpoint_ids(first.config)]
    for benchmark in (b.name for b in other.config.benchmarks if b.name in shared):
        for checkpoint_id in ids:
            own, reference = (_answers(side, checkpoint_id, benchmark) for side in (other, first))
            if own and reference:
                yield _test(benchmark, checkpoint_id, other.label, own, reference)


def _answers(side: Side, checkpoint_id: str, benchmark: str) -> tuple[Evaluation, Summary] | None:
    """The finished evaluation of a checkpoint; None if it has drawn nothing."""
    found = find(side.store, checkpoint_id, benchmark)
    return (found, found.summary(side.store)) if found else None


def _test(
    benchmark: str,
    checkpoint_id: str,
    label: str,
    own: tuple[Evaluation, Summary],
    reference: tuple[Evaluation, Summary],
) -> Test:
    unlike = differences(*own, *reference, names=(label, "A"))
    scores = own[1].problem_scores, reference[1].problem_scores
    comparison = None if unlike else compare(*scores, own[1].n)
    return Test(benchmark, checkpoint_id, label, comparison, unlike, (own[0], reference[0]))


def document(found: Compared) -> dict[str, Any]:
    """The comparison for scripts, with fractions instead of percent."""
    adjusted = found.adjusted
    return {
        "runs": [
            {
                "label": side.label,
                "url": side.store.url,
                "name": side.config.name,
                "before": side.config.before,
                "after": side.config.after,
            }
            for side in found.sides
        ],
        "settings": found.settings,
        "numbers": [
            {"run": side.label, "benchmark": benchmark, "checkpoint": i, "quantity": quantity,
             **interval.model_dump()}
            for side in found.sides
            for (benchmark, i, quantity), interval in side.numbers.items()
        ],
        "tests": [
            {
                "benchmark": test.benchmark,
                "checkpoint": test.checkpoint_id,
                "run": test.label,
                "against": "A",
                "paired": test.comparison is not None,
                "unlike": test.unlike,
                "p_adjusted": adjusted.get((test.benchmark, test.checkpoint_id, test.label)),
                **(test.comparison.model_dump(mode="json") if test.comparison else {}),
            }
            for test in found.tests
        ],
        "notes": found.notes,
    }  # fmt: skip
