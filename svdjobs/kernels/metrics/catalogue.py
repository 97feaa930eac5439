"""All metrics, and the function that computes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# Importing the modules registers their metrics.
from svdjobs.kernels.metrics import spectra, subspaces, updates
from svdjobs.kernels.metrics.pair import Pair
from svdjobs.kernels.metrics.registry import METRICS

__all__ = ["GROUPS", "METRICS", "measure"]

GROUPS = {"spectra": spectra, "updates": updates, "subspaces": subspaces}
"""Modules of the catalogue by name, in its order."""


def measure(pair: Pair) -> dict[str, float]:
    """All metrics of a pair that are defined for it, by `name` or `name.suffix`."""
    return dict(_measured(pair))


def _measured(pair: Pair) -> Iterator[tuple[str, float]]:
    for name, found in METRICS.items():
        value = found.compute(pair)
        values = value if isinstance(value, Mapping) else {"": value}
        for suffix, number in values.items():
            if number is not None:
                yield f"{name}.{suffix}" if suffix else name, float(number)
