"""A sweep of hub checkpoints on a cluster: each leaves the hub once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import svdjobs
from svdjobs.storage.dev_server import S3Server
from tests.checkpoint.hub import serving
from tests.checkpoints import write_problems
from tests.live.cluster_access import Site
from tests.live.faults import attempts, sweep
from tests.live.namespaces import Namespace

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

DEMO = Path(svdjobs.__file__).parent / "demo" / "checkpoints"
SWEEP = """
name: hub
before: lab/base
after: lab/rl2@main
alphas: [0, 0.5]
decompose: {parts: 2, shards: 2}
evaluate:
  benchmarks: [{name: sums, data: lab/sums, limit: 4}]
  engine: transformers
  n_samples: 1
  max_tokens: 8
metrics: {null_draws: 1}
"""


def test_every_checkpoint_and_benchmark_leaves_the_hub_once(
    cluster: Site,
    live_server: S3Server,
    image: str,
    make_namespace: Callable[..., Namespace],
    tmp_path: Path,
    measured: Callable[[str], None],
) -> None:
    models = {"lab/base": DEMO / "base", "lab/rl2": DEMO / "rl2"}
    write_problems(tmp_path / "test.jsonl")
    with serving({**models, "datasets/lab/sums": tmp_path}, cluster.address) as hub:
        space = make_namespace("svdjobs-hub")
        given = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
        secret = {"metadata": {"name": "svdjobs-store"}, "stringData": given}
        space.apply({"apiVersion": "v1", "kind": "Secret", **secret})
        space.apply(sweep(space, "hub", SWEEP, image=image))
        found = space.wait("hub")
        tried = attempts(found)
        assert [len(tried[f"fetch({i}:lab--{name})"]) for i, name in enumerate(NAMES)] == [1, 1]
        files = [path for folder in models.values() for path in folder.glob("*.safetensors")]
        weights = sum(path.stat().st_size for path in files)
        headers = hub.weight_bytes - weights
        assert 0 < headers < weights, "the weights once, and headers for plan"
        assert hub.data_files == 1
        measured(
            f"hub: {weights:,} bytes of weights once, {headers:,} for plan; the benchmark once"
        )
    kept = space.store().sizes("fetched")
    assert sum(n for key, n in kept.items() if key.endswith(".safetensors")) == weights


NAMES = ("base", "rl2@main")
