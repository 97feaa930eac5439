"""Cache keys of evaluations: all that determines a checkpoint's completions on a benchmark."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from svdjobs.config import REPEAT_ID, EvaluateConfig, SweepConfig
from svdjobs.errors import IncompleteError
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.engines.protocol import engine_kind
from svdjobs.evaluation.prompt_sets import tokenizer_source
from svdjobs.fingerprint import derived_seed, fingerprint
from svdjobs.records import Manifest
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import (
    Output,
    OutputKey,
    read_finished,
    readable_manifest,
    require,
)
from svdjobs.storage.store import Store
from svdjobs.variant_config import MapConfig, VariantConfig

STAGE = "evaluate"
VERSION = "4"
"""Raise it when the same key would give other completions. Every run then generates them again."""
VARIANTS_VERSION = "1"
"""Raise it when the same variant would get other weights."""
SOURCE = "source.json"
OPERATIONAL = {
    "benchmarks", "devices", "reuse_engine", "gpu_memory_utilization", "tensor_parallel_size",
    "enforce_eager", "read", "sampled", "repeat_after", "allow_lossy_dtype",
    "grade_timeout_seconds", "second_grader", "shards", "tokenizer_of_before", "engines",
}  # fmt: skip
"""Settings that are not in the key, since they do not change completions. `tensor_parallel_size`,
`enforce_eager` and `gpu_memory_utilization` change completions by rounding at most. The benchmarks
and the tokenizer of `before` do change them, but the key has them as inputs."""


def evaluation_keys(
    checkpoints: RunCheckpoints,
    evaluate: EvaluateConfig,
    store: Store,
    checkpoint_ids: Sequence[str],
    benchmarks: Sequence[Benchmark],
) -> dict[tuple[str, str], OutputKey]:
    """Keys of evaluations, by checkpoint id and benchmark name.

    `evaluate` is the section with every `auto` resolved.

    Raises:
        IncompleteError: the run has no checkpoint with an id, or has not blended it yet.
    """
    keys = {}
    for checkpoint_id in checkpoint_ids:
        tokenizer = checkpoints.companions(tokenizer_source(checkpoints.config, checkpoint_id))
        weights = _weights(checkpoints, store, checkpoint_id)
        settings = settings_of(evaluate, checkpoint_id)
        for benchmark in benchmarks:
            inputs = {
                "checkpoint": weights,
                "benchmark": benchmark.sha256,
                "tokenizer": tokenizer,
            }
            keys[checkpoint_id, benchmark.name] = OutputKey(STAGE, VERSION, settings, inputs)
    return keys


def _weights(checkpoints: RunCheckpoints, store: Store, checkpoint_id: str) -> str:
    """Fingerprint of a checkpoint's weights and companion files."""
    config = checkpoints.config
    named = {"before": config.before, "after": config.after, REPEAT_ID: config.after}
    if source := {**named, **config.checkpoints}.get(checkpoint_id):
        # With the companion files, which determine where a completion stops.
        return f"{checkpoints.identity(source, store)}/{checkpoints.companions(source)}"
    if spec := config.variants.get(checkpoint_id):
        return variant_fingerprint(checkpoints, store, spec)
    if checkpoint_id in layout.evaluated_ids(config):
        (manifest,) = require(store, [f"{layout.CHECKPOINTS}/{checkpoint_id}"], stage=STAGE)
        return manifest.fingerprint
    raise IncompleteError(
        f"no checkpoint {checkpoint_id!r} in this run; it has "
        f"{', '.join(layout.evaluated_ids(config))}."
    )


def variant_fingerprint(
    checkpoints: RunCheckpoints, store: Store, spec: VariantConfig | MapConfig
) -> str:
    """Fingerprint of all that determines the weights of a variant, or of the cells of a map."""
    config = checkpoints.config
    before, after = (
        checkpoints.identity(layout.source(config, role), store) for role in ("before", "after")
    )
    return _variant_print(config, before, after, checkpoints.companions(config.after), spec)


def _variant_print(
    config: SweepConfig, before: str, after: str, companions: str, spec: VariantConfig | MapConfig
) -> str:
    return fingerprint(
        {
            "before": before,
            "after": after,
            "companions": companions,
            "selection": config.selection.model_dump(mode="json"),
            "spec": spec.settings(),
            "version": VARIANTS_VERSION,
        }
    )


def write_source(output: Output, config: SweepConfig, checkpoint_id: str) -> None:
    """Note where a further checkpoint comes from, for `has_other_weights`."""
    if source := config.checkpoints.get(checkpoint_id):
        output.write_json(SOURCE, source)


def has_other_weights(
    config: SweepConfig, store: Store, checkpoint_id: str, prefix: str, manifest: Manifest
) -> bool:
    """Whether an evaluation was made with other weights than the config gives a checkpoint now.

    It opens no checkpoint, so it knows what the store says: the blend at an alpha; the source of a
    further checkpoint; the rule of a variant, and the weights of `before` and `after` that others
    were evaluated with. Older runs do not say all of this.
    """
    weights = manifest.inputs.get("checkpoint")
    if spec := config.variants.get(checkpoint_id):
        wanted = variant_print(config, store, spec)
        return wanted is not None and weights != wanted
    if source := config.checkpoints.get(checkpoint_id):
        if not manifest.file(SOURCE):
            return False
        return bool(json.loads(read_finished(store, prefix, SOURCE, manifest)) != source)
    blend = readable_manifest(store, f"{layout.CHECKPOINTS}/{checkpoint_id}")
    return blend is not None and weights != blend.fingerprint


def variant_print(config: SweepConfig, store: Store, spec: VariantConfig | MapConfig) -> str | None:
    """`variant_fingerprint`, from what the evaluations of `before` and `after` in the run say about
    their weights; None if they say nothing."""
    found = {}
    for role in ("before", "after"):
        for prefix in (layout.results_prefix, layout.likelihoods_prefix):
            for benchmark in config.benchmarks:
                if manifest := readable_manifest(store, prefix(role, benchmark.name)):
                    found[role] = manifest.inputs["checkpoint"].partition("/")
    if len(found) < 2 or not found["after"][2]:
        return None
    return _variant_print(config, found["before"][0], found["after"][0], found["after"][2], spec)


def settings_of(evaluate: EvaluateConfig, checkpoint_id: str) -> dict[str, Any]:
    """The settings in the key of a checkpoint."""
    settings = evaluate.model_dump(mode="json", exclude=OPERATIONAL)
    if engine_kind(evaluate.engine).makes_own_batches:
        del settings["batch_size"]
    return {**settings, "seed": seed_of(evaluate, checkpoint_id)}


def seed_of(evaluate: EvaluateConfig, checkpoint_id: str) -> int:
    """Base of a checkpoint's seeds; the second evaluation of `after` has another one."""
    if checkpoint_id == REPEAT_ID:
        return derived_seed(evaluate.seed, REPEAT_ID)
    return evaluate.seed
