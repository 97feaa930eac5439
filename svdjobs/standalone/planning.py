"""What `svdjobs plan` says of a sweep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from svdjobs.checkpoint.selection import coverage
from svdjobs.config import SweepConfig
from svdjobs.evaluation.amounts import Questions
from svdjobs.evaluation.preview import preview_evaluation
from svdjobs.records import Plan
from svdjobs.reporting.plan_text import describe, lacks
from svdjobs.stages import gate
from svdjobs.storage.store import Store


def document(made: Plan, lines: list[str]) -> dict[str, Any]:
    """A plan for scripts: what is blended, what it costs, and the lines for the user."""
    skipped = Counter(tensor.skip for tensor in made.tensors if tensor.skip)
    return {
        "before": made.before,
        "after": made.after,
        "architecture": made.architecture,
        "blended": [tensor.name for tensor in made.selected],
        "not_blended": dict(skipped),
        "parameters": coverage(made.tensors),
        "estimate": made.estimate.model_dump(mode="json"),
        "lines": lines,
    }


def lines(
    config: SweepConfig, store: Store, made: Plan, asked: Questions | None = None
) -> Iterator[str]:
    """Lines for the user: what the planned sweep does, what it costs, what its report lacks.

    Raises:
        BenchmarkError, CheckpointError, StorageError: what the evaluation needs cannot be loaded.
    """
    yield from describe(made, store.free_bytes())
    if warning := gate.warning_before_sweep(config):
        yield warning
    yield from preview_evaluation(config, store, asked)
    yield from lacks(config)
