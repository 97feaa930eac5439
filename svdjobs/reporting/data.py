"""The content of a report: numbers and text from a run, without markup."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


@dataclass(frozen=True)
class Table:
    """A table of text cells; `name` is the name of its CSV file."""

    name: str
    title: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    benchmark: str = ""
    """The benchmark that the table is about, if it is about one."""
    shown: bool = True
    """Whether it is on the page; else it is a CSV file only."""


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


def percent(share: float) -> str:
    """Format a fraction as `78.5 %`."""
    return f"{100 * share:.1f} %"


def interval_text(interval: Interval) -> str:
    """Format an interval in percent as `[71.2, 77.9]`; `-` if there is none."""
    if interval.low is None or interval.high is None:
        return "-"
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def points(difference: Interval) -> str:
    """Format a difference in percentage points as `+1.20 [-0.31, +2.71]`.

    Without an interval, only the value; `0 (same scores)` if it is zero.
    """
    value = 100 * difference.value
    if difference.low is None or difference.high is None:
        return "0 (same scores)" if difference.value == 0 else f"{value:+.2f}"
    return f"{value:+.2f} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"


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
