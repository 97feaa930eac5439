from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from svdjobs import local
from svdjobs.config import SweepConfig
from svdjobs.errors import IncompleteError
from svdjobs.evaluation.engine_weights import has_files_to_start_from
from svdjobs.stages import blend, decompose, drop_weights, evaluate, plan, report
from svdjobs.storage.local import LocalStore
from svdjobs.storage.objects import clear

MakeConfig = Callable[..., SweepConfig]


def test_weight_files_are_deleted_and_results_stay(make_config: MakeConfig) -> None:
    """Nothing is computed again, the report is the same, and the alpha can still be evaluated."""
    config = make_config(blend={"max_shard_bytes": 100_000})
    store = LocalStore(config.store_url)
    local.sweep(config)
    folder = Path(store.url) / "checkpoints" / "alpha-0.5000"
    assert len(list(folder.glob("*.safetensors"))) > 1
    before = (Path(store.url) / "report" / "report.md").read_bytes()
    drop_weights.run(config, store, alpha=0.5)
    assert not list(folder.glob("*.safetensors*"))
    assert not has_files_to_start_from(store, "alpha-0.5000")
    assert has_files_to_start_from(store, "alpha-1.0000")
    drop_weights.run(config, store, alpha=0.5)
    local.sweep(config)
    assert not list(folder.glob("*.safetensors*"))
    assert not report.unfinished(config, store)
    assert (Path(store.url) / "report" / "report.md").read_bytes() == before
    results = "results/alpha-0.5000/sums"
    completions = store.read(f"{results}/completions.jsonl")
    clear(store, results)
    evaluate.run_shard(config, store, checkpoint_id="alpha-0.5000", shard_id="sums-000")
    assert store.read(f"{results}/completions.jsonl") == completions


def test_needed_weights_stay(make_config: MakeConfig) -> None:
    config = make_config()
    store = LocalStore(config.store_url)
    plan.run(config, store)
    decompose.run(config, store)
    with pytest.raises(IncompleteError, match=r"checkpoints/alpha-0\.5000"):
        drop_weights.run(config, store, alpha=0.5)
    blend.run(config, store, alphas=[0.5])
    with pytest.raises(IncompleteError, match=r"needed: results/alpha-0\.5000/sums is missing"):
        drop_weights.run(config, store, alpha=0.5)
    assert has_files_to_start_from(store, "alpha-0.5000")


def test_killed_between_manifest_and_files(make_config: MakeConfig) -> None:
    """The next run deletes the files that the killed one has left."""
    config = make_config(evaluate=None)
    store = LocalStore(config.store_url)
    local.sweep(config)
    key = "checkpoints/alpha-0.5000/model.safetensors"
    data = bytes(store.read(key))
    drop_weights.run(config, store, alpha=0.5)
    with store.sink(key) as sink:
        sink.write(data)
    drop_weights.run(config, store, alpha=0.5)
    assert not store.exists(key)
