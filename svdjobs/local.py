"""Runs a whole sweep on this machine: its stages in order, in one process."""

from __future__ import annotations

from importlib import import_module

from svdjobs import pipeline
from svdjobs.config import SweepConfig
from svdjobs.evaluation import preview
from svdjobs.progress import say
from svdjobs.records import Gate, Manifest, Plan
from svdjobs.reporting.plan_text import describe, lacks
from svdjobs.stages import evaluate, gate, plan, report
from svdjobs.storage.open import open_store
from svdjobs.storage.store import Store


def sweep(config: SweepConfig, *, force: bool = False) -> Manifest:
    """Run every stage of a sweep up to the report, and skip finished outputs.

    Returns the report's manifest. `judge` gives the verdict.
    """
    store = open_store(config.store_url)
    _preview_and_check(config, store, plan.run(config, store, force=force))
    for stage in pipeline.STAGES:
        if stage.in_sweep and stage.wanted(config) and stage.name not in (plan.STAGE, report.STAGE):
            import_module(stage.module).run(config, store, force=force)
    return report.run(config, store, force=force)


def _preview_and_check(config: SweepConfig, store: Store, made: Plan) -> None:
    """Print what the sweep will compute, and fail now if it would fail hours later."""
    for line in describe(made, store.free_bytes()):
        say(line)
    if warning := gate.warning_before_sweep(config):
        say(warning)
    evaluate.check_engine_before_sweep(config, store)
    for line in (*preview.preview_evaluation(config, store), *lacks(config)):
        say(line)


def judge(config: SweepConfig, *, force: bool = False) -> Gate | None:
    """The verdict on a finished sweep; None without a `gate` section."""
    if config.gate is None:
        return None
    store = open_store(config.store_url)
    gate.run(config, store, force=force)
    return gate.load(store)
