"""What a report says, gathered from a run and ready to be drawn: numbers and words, no markup."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from svdjobs.checkpoint.selection import layer_and_family
from svdjobs.config import SweepConfig
from svdjobs.records import Agreement, BlendRecord, Interval, Likelihood, Plan, RotationRow, Summary
from svdjobs.statistics import rounding_shift

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = tuple[str, str, str, Interval]
"""Benchmark (or `-`), checkpoint (or `-`), quantity, and its number."""


@dataclass(frozen=True)
class Table:
    """A titled table of text cells; `name` is its CSV file."""

    name: str
    title: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    benchmark: str = ""
    """The one whose answers it is about, if it is one's."""


@dataclass(frozen=True)
class Picture:
    """A figure to be drawn; `name` is its file."""

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Content:
    """Everything a report is made of."""

    config: SweepConfig
    plan: Plan
    summaries: dict[str, dict[str, Summary]]
    """Benchmark → checkpoint id → summary."""
    blends: dict[float, list[BlendRecord]]
    rotations: list[RotationRow]
    spectra: dict[str, tuple[list[float], list[float]]]
    """Tensor name → singular values before and after, for the tensors that are drawn."""
    missing: list[str]
    """Outputs the config asks for that are not finished."""
    provenance: dict[str, str] = field(default_factory=dict)
    likelihoods: dict[str, dict[str, list[Likelihood]]] = field(default_factory=dict)
    """Benchmark → checkpoint id → how likely it finds after's answers."""
    agreements: dict[str, dict[str, Agreement]] = field(default_factory=dict)
    """Benchmark → checkpoint id → how far the second grader agrees."""

    @property
    def title(self) -> str:
        """Heading of the report."""
        return self.config.report.title or f"Singular-value sweep: {self.config.name}"

    def rounding_alone(self) -> float | None:
        """How far storing weights in 16 bits is expected to move the singular values of all blended
        matrices, in parts of their norm; None where neither is known."""
        records = next((records for records in self.blends.values() if records), [])
        if not records or not self.plan.rounding:
            return None
        matrices = [(layer_and_family(r.name)[1], r.shape, r.weight_norm) for r in records]
        return rounding_shift(matrices, self.plan.rounding)


def percent(share: float) -> str:
    """`78.5 %`."""
    return f"{100 * share:.1f} %"


def interval_text(interval: Interval) -> str:
    """`[71.2, 77.9]` in percent, or a dash where there is no interval."""
    if interval.low is None or interval.high is None:
        return "-"
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def points(difference: Interval) -> str:
    """`+1.20 [-0.31, +2.71]` percentage points; where every problem scored the same, that."""
    value = 100 * difference.value
    if difference.low is None or difference.high is None:
        return "0 (same scores)" if difference.value == 0 else f"{value:+.2f}"
    return f"{value:+.2f} [{100 * difference.low:+.2f}, {100 * difference.high:+.2f}]"


def _nothing(_: Content) -> list[Any]:
    return []


@dataclass(frozen=True)
class Section:
    """A topic of the report: what it says, in words, tables, figures and numbers.

    Each is made from the content, and empty where that has nothing about the topic.
    """

    place: int
    """Where in the report: the lowest comes first."""
    sentences: Callable[[Content], Iterable[str]] = _nothing
    tables: Callable[[Content], Iterable[Table]] = _nothing
    pictures: Callable[[Content], Iterable[Picture]] = _nothing
    numbers: Callable[[Content], Iterable[Row]] = _nothing
