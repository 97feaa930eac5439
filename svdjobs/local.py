"""The whole sweep on this machine: the same stages, in order, in one process."""

from __future__ import annotations

from svdjobs.config import SweepConfig
from svdjobs.evaluation import forecast
from svdjobs.progress import say
from svdjobs.records import Gate, Manifest
from svdjobs.reporting.plan_text import describe, lacks
from svdjobs.stages import blend, decompose, evaluate, gate, plan, report, rotations
from svdjobs.storage.open import open_store


def sweep(config: SweepConfig, *, force: bool = False) -> Manifest:
    """Run every stage of a sweep up to the report; what is finished is skipped. Returns the
    report's manifest; the verdict on it is `judge`'s."""
    store = open_store(config.store_url)
    made = plan.run(config, store, force=force)
    for line in describe(made, store.free_bytes()):
        say(line)
    if words := gate.foresee(config):
        say(words)
    evaluate.foresee(config, store)
    for line in (*forecast.foresee(config, store), *lacks(config)):
        say(line)
    decompose.run(config, store, force=force)
    blend.run(config, store, force=force)
    if config.rotations:
        rotations.run(config, store, force=force)
    if config.evaluate:  # after all that computes here: vLLM keeps torch's threads to itself
        evaluate.run(config, store, force=force)
    return report.run(config, store, force=force)


def judge(config: SweepConfig, *, force: bool = False) -> Gate | None:
    """The verdict on a finished sweep; None without a gate."""
    if config.gate is None:
        return None
    store = open_store(config.store_url)
    gate.run(config, store, force=force)
    return gate.load(store)
