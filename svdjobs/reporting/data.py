"""The content of a report: numbers and text from a run, without markup."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple, TypeVar

from svdjobs.checkpoint.selection import layer_and_family
from svdjobs.config import SweepConfig
from svdjobs.records import (
    Agreement,
    BlendRecord,
    Interval,
    Likelihood,
    MapReading,
    Plan,
    Reading,
    Record,
    Summary,
    VariantChange,
)
from svdjobs.reporting.charts import Spec
from svdjobs.statistics import rounding_shift

R = TypeVar("R", bound=Record)
Row = tuple[str, str, str, Interval]
"""Benchmark (or `-`), checkpoint (or `-`), name of the number, and the number."""


class Cell(str):
    """A cell of a table: its text, and the numbers that the text shows, unrounded and in the
    text's units."""

    value: float | None
    low: float | None
    high: float | None
    random: float | None
    """The same for a random update of the same norm."""
    has_ends: bool
    """Whether the column has intervals, even if this cell has none."""

    def __new__(
        cls,
        text: str,
        value: float | None = None,
        low: float | None = None,
        high: float | None = None,
        random: float | None = None,
        *,
        has_ends: bool = False,
    ) -> Cell:
        """A cell with this text."""
        made = super().__new__(cls, text)
        made.value, made.low, made.high, made.random = value, low, high, random
        made.has_ends = has_ends
        return made


def number(value: float | None, form: str = "") -> Cell:
    """A number formatted by `form`; `-` if there is none."""
    return Cell("-") if value is None else Cell(format(value, form), float(value))


def of_interval(text: str, interval: Interval, scale: float = 1) -> Cell:
    """A text that shows an interval with its value, times `scale`."""
    ends = (interval.value, interval.low, interval.high)
    return Cell(text, *(None if end is None else scale * end for end in ends), has_ends=True)


@dataclass(frozen=True)
class Table:
    """A table of cells; `name` is the name of its files."""

    name: str
    title: str
    caption: str
    header: list[str]
    rows: Sequence[Sequence[str]]
    """Texts; a `Cell` has numbers, too."""
    benchmark: str = ""
    """The benchmark that the table is about, if it is about one."""
    shown: bool = True
    """Whether it is on the page; else it is in files only."""


@dataclass(frozen=True)
class Picture:
    """A figure; `name` is the name of its files, without an ending."""

    name: str
    title: str
    caption: str
    spec: Spec
    details: dict[str, Any] | None = None
    """What the page shows when a reader clicks on a cell of a heat map, by `layer column`."""


class Question(StrEnum):
    """A question that a report answers, in the order of the page."""

    GAIN = "What did RL change?"
    SPLIT = "Singular values or singular vectors?"
    VALUES = "What do the singular values carry?"
    BEST = "Which alpha is best?"
    WHERE = "Where does the gain sit?"
    CHANGED = "How much did the weights change, and where?"
    TURNED = "How far did singular values and bases move, and is that more than noise?"
    ROUNDING = "What does rounding keep?"
    TRUST = "Can the numbers be trusted?"
    LEFT_OUT = "What was left out?"
    NOT_MEASURED = "What could not be measured?"


class Answer(NamedTuple):
    """A sentence or two that answer a question, with numbers and their errors."""

    question: Question
    text: str
    benchmark: str = ""
    """The benchmark that it is about. Named before the text if the run has several."""


@dataclass(frozen=True)
class Content:
    """Everything that the sections of a report read."""

    config: SweepConfig
    plan: Plan
    summaries: dict[str, dict[str, Summary]]
    """Benchmark → checkpoint id → summary."""
    blends: dict[float, list[BlendRecord]]
    rows: dict[type[Record], list[Record]]
    """Rows of the stages that have some (`pipeline.Stage.rows`), by the kind of record."""
    spectra: dict[str, tuple[list[float], list[float]]]
    """Name in the figure → singular values before and after, for one tensor per module family."""
    missing: list[str]
    """Prefixes of outputs that the config wants and that are not finished."""
    provenance: dict[str, str] = field(default_factory=dict)
    likelihoods: dict[str, dict[str, list[Likelihood]]] = field(default_factory=dict)
    """Benchmark → checkpoint id → its likelihoods of after's completions."""
    readings: dict[str, dict[str, Reading]] = field(default_factory=dict)
    """Benchmark → checkpoint id → its accuracy, read from after's completions."""
    changes: dict[str, VariantChange] = field(default_factory=dict)
    """Variant → how far it is from after, if it has read."""
    maps: dict[str, list[MapReading]] = field(default_factory=dict)
    """Benchmark → the parts of the map; the last one is all parts together."""
    outcomes: dict[str, dict[str, dict[int, str]]] = field(default_factory=dict)
    """Benchmark → checkpoint id → problem → its outcomes (`answers.signs`)."""
    agreements: dict[str, dict[str, Agreement]] = field(default_factory=dict)
    """Benchmark → checkpoint id → agreement with the second grader."""

    def rows_of(self, kind: type[R]) -> list[R]:
        """The rows of a kind; none if no stage of the sweep makes them, or it is not finished."""
        return [row for row in self.rows.get(kind, ()) if isinstance(row, kind)]

    @property
    def benchmarks(self) -> list[str]:
        """The benchmarks with something in the report."""
        return list({**self.summaries, **self.readings, **self.maps, **self.agreements})

    @property
    def title(self) -> str:
        """Heading of the report."""
        return self.config.report.title or f"Singular-value sweep: {self.config.name}"

    @property
    def alpha_axis(self) -> str:
        """The label of the alpha axis, which says what its ends are."""
        words = f"0: {self.config.values_of}'s singular values, 1: {self.config.bases_of}'s"
        return f"alpha ({words})"

    def rounding_alone(self) -> float | None:
        """Expected change of the singular values of all blended matrices by 16-bit storage alone.

        It is a fraction of their norm. None if there are no blends, or no weights on a 16-bit grid.
        """
        records = next((records for records in self.blends.values() if records), [])
        if not records or not self.plan.rounding:
            return None
        matrices = [(layer_and_family(r.name)[1], r.shape, r.weight_norm) for r in records]
        return rounding_shift(matrices, self.plan.rounding)


def percent(share: float) -> Cell:
    """Format a fraction as `78.5 %`."""
    return Cell(f"{100 * share:.1f} %", 100 * share)


def two_digits(share: float) -> str:
    """Format a fraction as `1.3 %`, `75 %` or `100 %`."""
    value = 100 * share
    return f"{value:.0f} %" if abs(value) >= 10 else f"{value:.2g} %"


def interval_text(interval: Interval) -> Cell:
    """Format an interval in percent as `[71.2, 77.9]`; `-` if there is none."""
    if interval.low is None or interval.high is None:
        return Cell("-", has_ends=True)
    low, high = 100 * interval.low, 100 * interval.high
    return Cell(f"[{low:.1f}, {high:.1f}]", None, low, high, has_ends=True)


def points(difference: Interval) -> Cell:
    """Format a difference in percentage points as `+1.20 [-0.31, +2.71]`.

    Without an interval, only the value; `0 (same scores)` if it is zero.
    """
    text = f"{100 * difference.value:+.2f}"
    if difference.low is not None and difference.high is not None:
        text += f" [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"
    elif difference.value == 0:
        text = "0 (same scores)"
    return of_interval(text, difference, 100)


def _nothing(_: Content) -> list[Any]:
    return []


@dataclass(frozen=True)
class Section:
    """A topic of the report: functions that give its answers, tables, figures and numbers.

    Each is empty if the content has nothing about the topic.
    """

    place: int
    """Position in the report: the lowest comes first."""
    title: str
    """Heading of its figures and tables."""
    answers: Callable[[Content], Iterable[Answer]] = _nothing
    tables: Callable[[Content], Iterable[Table]] = _nothing
    pictures: Callable[[Content], Iterable[Picture]] = _nothing
    numbers: Callable[[Content], Iterable[Row]] = _nothing
