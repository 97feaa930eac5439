"""The outputs that a config wants, and which of them a run has."""

from __future__ import annotations

from collections.abc import Mapping

from svdjobs import pipeline
from svdjobs.config import SweepConfig
from svdjobs.evaluation import likelihoods, mapping, second_grades
from svdjobs.evaluation.results import current_results
from svdjobs.records import Manifest
from svdjobs.runs import layout
from svdjobs.runs.outputs import content_print, readable_manifest
from svdjobs.storage.store import Store

EVALUATE = "evaluate"
Found = dict[str, Manifest | None]
"""Manifests by prefix; None if an output is missing or out of date."""


def prefixes(config: SweepConfig) -> dict[str, list[str]]:
    """Prefixes of the outputs that a config wants, by stage, up to the report."""
    wanted = {
        "plan": [layout.PLAN_PREFIX],
        "decompose": [
            layout.factors_prefix(target.checkpoint_id)
            for target in layout.decompose_targets(config)
        ],
        "blend": [layout.checkpoint_prefix(alpha) for alpha in config.alphas],
        **{stage.name: [stage.name] for stage in pipeline.stages_with_rows(config)},
    }
    ids = {*layout.sampled_ids(config), *layout.read_ids(config)}
    for benchmark in config.benchmarks:
        evaluations = wanted.setdefault(EVALUATE, [])
        evaluations += [
            layout.evaluation_prefix(config, checkpoint_id, benchmark.name)
            for checkpoint_id in layout.evaluated_ids(config)
            if checkpoint_id in ids
        ]
        evaluations += [layout.map_prefix(benchmark.name)] if config.map else []
    return wanted


def by_stage(
    config: SweepConfig, store: Store, digests: Mapping[str, str] | None = None
) -> dict[str, Found]:
    """What a run has of the outputs that a config wants, by stage, up to the report.

    `digests` are those of the benchmarks (`current_results`).
    """
    found: dict[str, Found] = {
        stage: {prefix: readable_manifest(store, prefix) for prefix in wanted}
        for stage, wanted in prefixes(config).items()
        if stage != EVALUATE
    }
    if config.evaluate:
        found[EVALUATE] = _evaluations(config, store, digests)
    return found


def manifests(config: SweepConfig, store: Store) -> Found:
    """Manifests of all outputs that the config wants; None if one is missing or out of date."""
    return {
        prefix: manifest
        for found in by_stage(config, store).values()
        for prefix, manifest in found.items()
    }


def _evaluations(config: SweepConfig, store: Store, digests: Mapping[str, str] | None) -> Found:
    found: Found = {}
    sampled, evaluations = layout.sampled_ids(config), current_results(config, store, digests)
    for benchmark in config.benchmarks:
        for checkpoint_id in layout.evaluated_ids(config):
            prefix = layout.results_prefix(checkpoint_id, benchmark.name)
            if (done := evaluations[prefix]) or checkpoint_id in sampled:
                found[prefix] = done.grades if done else None
            elif checkpoint_id in layout.read_ids(config):
                manifest = likelihoods.current(store, checkpoint_id, benchmark.name, config)
                found[layout.likelihoods_prefix(checkpoint_id, benchmark.name)] = manifest
        if config.map:
            prefix = layout.map_prefix(benchmark.name)
            found[prefix] = mapping.current(config, store, benchmark.name)
    return found


def inputs_of_report(config: SweepConfig, store: Store, manifests: Found) -> dict[str, str]:
    """Fingerprints of all that a report is made from, by prefix."""
    return {
        **{prefix: m.fingerprint if m else "missing" for prefix, m in manifests.items()},
        **_answers(config, store, manifests),
    }


def _answers(config: SweepConfig, store: Store, manifests: Found) -> dict[str, str]:
    """Content fingerprints of grades, likelihoods and second grades, by prefix.

    The same key may have other bytes after it was generated or graded again. Second grades are
    optional, and so are likelihoods of checkpoints that draw completions: the report uses those
    that exist.
    """
    prints = {}
    for benchmark in config.benchmarks:
        for checkpoint_id in layout.evaluated_ids(config):
            results = layout.results_prefix(checkpoint_id, benchmark.name)
            if answered := manifests.get(results):
                prints[results] = content_print(answered)
            manifest = likelihoods.current(store, checkpoint_id, benchmark.name, config)
            if manifest and checkpoint_id in layout.read_ids(config):
                prefix = layout.likelihoods_prefix(checkpoint_id, benchmark.name)
                prints[prefix] = content_print(manifest)
            if manifest := second_grades.current(store, checkpoint_id, benchmark.name):
                prefix = layout.second_grades_prefix(checkpoint_id, benchmark.name)
                prints[prefix] = content_print(manifest)
        if manifest := mapping.current(config, store, benchmark.name) if config.map else None:
            prints[layout.map_prefix(benchmark.name)] = content_print(manifest)
    return prints
