"""Cache keys of evaluations: all that determines a checkpoint's completions on a benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from svdjobs.config import REPEAT_ID, EvaluateConfig
from svdjobs.errors import IncompleteError
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.engines.protocol import engine_kind
from svdjobs.evaluation.prompt_sets import tokenizer_source
from svdjobs.fingerprint import derived_seed, fingerprint
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import OutputKey, require
from svdjobs.storage.store import Store
from svdjobs.variant_config import MapConfig, VariantConfig

STAGE = "evaluate"
VERSION = "4"
"""Raise it when the same key would give other completions. Every run then generates them again."""
VARIANTS_VERSION = "1"
"""Raise it when the same variant would get other weights."""
OPERATIONAL = {
    "benchmarks", "devices", "reuse_engine", "gpu_memory_utilization", "tensor_parallel_size",
    "enforce_eager", "read", "sampled", "repeat_after", "allow_lossy_dtype",
    "grade_timeout_seconds", "second_grader", "shards", "tokenizer_of_before",
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
    inputs = {
        role: checkpoints.identity(layout.source(config, role), store)
        for role in ("before", "after")
    }
    return fingerprint(
        {
            **inputs,
            "companions": checkpoints.companions(config.after),
            "selection": config.selection.model_dump(mode="json"),
            "spec": spec.settings(),
            "version": VARIANTS_VERSION,
        }
    )


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
