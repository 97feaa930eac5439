"""Measure a large sweep on the real control plane, and compare it with the estimate of `svdjobs`.

The sweep is small by default; SVDJOBS_TEST_ALPHAS=200 is the size that svdjobs promises to fit.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import datetime

import pytest
import yaml

from svdjobs.cluster.manifests import sizes
from svdjobs.cluster.manifests.yaml_text import dump
from svdjobs.cluster.watching.status import nodes_of
from svdjobs.config import SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.runs import shards
from tests.cluster.test_render import big
from tests.live.cluster_access import Site
from tests.live.faults import controller, sweep
from tests.live.namespaces import Document, Namespace, ended
from tests.live.simulated_node import LABEL, TOLERATION, paper_node

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ALPHAS = int(os.environ.get("SVDJOBS_TEST_ALPHAS", "20"))
PROMISED = 200
SHARES = 16
TOLERANCE = 0.2


def large_sweep(space: Namespace, alphas: int) -> tuple[SweepConfig, Document]:
    """A sweep of `alphas` alphas on 4 benchmarks in 4 shards each, for the simulated node."""
    text = yaml.safe_dump({**big(alphas, 4), "decompose": {"parts": SHARES, "shards": SHARES}})
    where = {"node_selector": LABEL, "tolerations": [TOLERATION]}
    document = sweep(
        space, "svdjobs-sweep-abcde", text, image="nothing:1",
        limits={"parallelism": 500}, gpu={"count": 0, **where}, **where,
    )  # fmt: skip
    return parse_config(yaml.safe_load(text), where="test"), document


def test_size_and_time_of_a_sweep_on_paper(
    cluster: Site,
    make_namespace: Callable[..., Namespace],
    measured: Callable[[str], None],
) -> None:
    """Alphas × 4 benchmarks × 4 shards: all pods are scheduled, and none computes."""
    space = make_namespace("svdjobs-scale")
    config, document = large_sweep(space, ALPHAS)
    planned = shards.fan_outs(config, None)
    memory: list[float] = []
    watched = controller(cluster.kubeconfig) if cluster.local else None
    with paper_node(space.api, {"plan": planned}):
        space.apply(document)
        deadline = time.monotonic() + 180 + 4 * ALPHAS
        path = space.api.path("workflows", "svdjobs-sweep-abcde")
        while not (found := ended(space.api.get(path))):
            assert time.monotonic() < deadline, space.api.get(path)["status"]["progress"]
            if watched and (now := watched.memory_mib) is not None:
                memory.append(now)
            time.sleep(2)
    assert found["status"]["phase"] == "Succeeded", found["status"].get("message")

    size = sizes.estimate(config, dump(document))
    nodes, _ = nodes_of(found["status"])
    packed = sizes.packed(nodes)
    begun, over = (
        datetime.fromisoformat(found["status"][key]) for key in ("startedAt", "finishedAt")
    )
    seconds = (over - begun).total_seconds()
    found["metadata"].pop("managedFields", None)
    rest = {**found, "status": {k: v for k, v in found["status"].items() if "odes" not in k}}
    stored = packed + len(json.dumps(rest, separators=(",", ":")))
    pods = sum(node["type"] == "Pod" for node in nodes.values())
    grown = max(memory, default=0) - min(memory, default=0)
    measured(
        f"{ALPHAS} alphas: {len(nodes):,} nodes, {pods:,} pods in {seconds:.0f} s, "
        f"{1000 * seconds / len(nodes):.0f} ms a node; status {packed:,} bytes packed, document "
        f"{stored:,} bytes (foreseen {size.status_bytes:,} and {size.stored_bytes:,}); controller "
        f"{min(memory, default=0):.0f} MiB and {grown:.0f} more"
    )
    much, document = large_sweep(space, PROMISED)
    promised = sizes.estimate(much, dump(document))
    times = promised.nodes / len(nodes)
    measured(
        f"{PROMISED} alphas, in proportion: {promised.nodes:,} nodes in {times * seconds / 60:.0f} "
        f"min, status {times * packed:,.0f} bytes (foreseen {promised.status_bytes:,}), "
        f"{times * grown:.0f} MiB more for the controller"
    )
    assert (size.nodes, size.pods) == (len(nodes), pods)
    assert abs(size.status_bytes - packed) <= TOLERANCE * packed
    assert abs(size.stored_bytes - stored) <= TOLERANCE * stored
    if "compressedNodes" in found["status"]:
        assert abs(len(found["status"]["compressedNodes"]) - packed) <= 0.02 * packed
