"""What a metric says of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from svdjobs.kernels.metrics.pair import Pair

Values = Mapping[str, float | None]
Compute = Callable[[Pair], float | Values | None]
C = TypeVar("C", bound=Compute)


@dataclass(frozen=True)
class Metric:
    """A metric of a pair of matrices. All texts go into docs/metrics.md."""

    name: str
    group: str
    """The module that it is in."""
    what: str
    """What it tells, in a sentence; the function's docstring."""
    formula: str
    unit: str
    null: str
    """What a random update of the same norm gives."""
    clusters: str
    """What near-equal singular values do to it."""
    pitfalls: str
    """What fools it."""
    source: str
    compute: Compute


METRICS: dict[str, Metric] = {}
"""All metrics, by name, in the order of the catalogue."""


def metric(
    *,
    formula: str,
    null: str,
    clusters: str,
    pitfalls: str,
    source: str,
    unit: str = "1",
) -> Callable[[C], C]:
    """Register a function of a pair as the metric of its name.

    It returns a number, or a mapping from suffixes to numbers; None where it is not defined.
    """

    def register(compute: C) -> C:
        name, group = compute.__name__, compute.__module__.rpartition(".")[2]
        assert compute.__doc__
        what = " ".join(compute.__doc__.split())
        METRICS[name] = Metric(
            name, group, what, formula, unit, null, clusters, pitfalls, source, compute
        )
        return compute

    return register
