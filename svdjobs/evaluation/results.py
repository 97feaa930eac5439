"""Finished results of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from svdjobs.config import REPEAT_ID, SweepConfig
from svdjobs.evaluation.benchmarks.load import load_benchmark
from svdjobs.evaluation.session import settings_of
from svdjobs.records import Manifest
from svdjobs.runs import layout
from svdjobs.runs.outputs import (
    readable_manifest,
)
from svdjobs.storage.store import Store


def in_order_of_work(checkpoint_ids: Sequence[str]) -> list[str]:
    """After first: a reused engine starts with it, and the others read its answers."""
    rank = {"after": 0, REPEAT_ID: 1, "before": 3}  # before differs in all its weights
    return sorted(checkpoint_ids, key=lambda checkpoint_id: rank.get(checkpoint_id, 2))


def current_results(config: SweepConfig, store: Store) -> dict[str, Manifest | None]:
    """Manifest of every evaluation the config asks for, by prefix.

    None where there is none, a damaged one, or one made with other settings or problems: pairing
    such results would compare answers to different questions. What the config leaves to `auto` must
    agree among the results themselves.
    """
    found: dict[str, Manifest | None] = {}
    chosen: dict[str, Any] = {}
    for section in config.evaluate.benchmarks if config.evaluate else ():
        assert config.evaluate is not None
        sha256 = load_benchmark(section).sha256
        for checkpoint_id in in_order_of_work(layout.evaluated_ids(config)):
            prefix = layout.results_prefix(checkpoint_id, section.name)
            manifest = readable_manifest(store, prefix)
            settled = config.evaluate
            if manifest is not None:
                for key in ("engine", "dtype"):
                    if getattr(settled, key) == "auto":
                        value = chosen.setdefault(key, manifest.config.get(key))
                        settled = settled.model_copy(update={key: value})
            settings = settings_of(settled, checkpoint_id)
            fits = manifest is not None and (manifest.config, manifest.inputs["benchmark"]) == (
                settings,
                sha256,
            )
            found[prefix] = manifest if fits else None
    return found
