"""Run the command lines of workflows/demo.yaml as processes, on a real S3 server.

Pods are evicted while they work; the result must have the bytes of a sweep in one process.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from svdjobs import local
from svdjobs.config_file import read_config
from svdjobs.storage.dev_server import S3Server
from svdjobs.storage.objects import read_json, write_bytes
from svdjobs.storage.open import open_store
from svdjobs.storage.s3.store import S3Store
from svdjobs.storage.store import Store
from tests.argo_emulator.interpreter import run_workflow
from tests.cluster.pods import EVICTED, Pod
from tests.cluster.run_tree import Node, Run
from tests.storage.s3_server import open_uploads

ROOT = Path(__file__).parent.parent.parent
SWEEP = """
name: contract
before: demo:base
after: demo:rl2
alphas: [0, 0.5]
decompose: {parts: 2, shards: 2}
evaluate:
  benchmarks: [{name: demo, limit: 16}]
  engine: transformers
  n_samples: 2
  max_tokens: 32
  batch_size: 8
  shards: 2
rotations: {rl1: demo:rl1}
gate: {}
"""


def contents(store: Store) -> dict[str, bytes]:
    """Every object of a run but those with places and times: plan, logs, config, file versions."""
    beside = ("plan/", "logs/", "config.json", "identities.json")
    return {k: bytes(store.read(k)) for k in store.keys("") if not k.startswith(beside)}


def sweep(bucket: str, directory: Path, text: str, **more: Any) -> Run:
    document = yaml.safe_load((ROOT / "workflows" / "demo.yaml").read_text())
    return run_workflow(
        document,
        directory=directory,
        parameters={"config": text, "store": f"s3://{bucket}/run"},
        commands={"svdjobs": []},
        environment={
            **{k: v for k, v in os.environ.items() if k.startswith("AWS_")},
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        },
        **more,
    )


class Evictions:
    """Evicts the first pod of each chosen node, as soon as it has written to the store."""

    def __init__(self, store: Store, chosen: dict[str, str]) -> None:
        self._store = store
        self._left = dict(chosen)
        self._lock = threading.Lock()
        self.done: list[str] = []

    def __call__(self, node: Node, pod: Pod) -> None:
        with self._lock:
            name = next((name for name in self._left if node.name.endswith(name)), None)
            trace = self._left.pop(name) if name else ""
        if name is None:
            return
        deadline = time.monotonic() + 60
        while not self._store.keys(trace) and pod.process.poll() is None:
            assert time.monotonic() < deadline, f"{name} has written nothing to {trace}"
            time.sleep(0.05)
        pod.disrupt(EVICTED, grace_seconds=8)
        self.done.append(name)


@pytest.mark.slow
def test_evicted_pods_and_all_the_sweep_comes_to_the_same_bytes(
    s3_environment: S3Server, bucket: str, tmp_path: Path
) -> None:
    store = open_store(f"s3://{bucket}/run")
    evictions = Evictions(
        store,
        {
            "decompose(2:after-000)": "factors/after",
            "alphas(1:alpha-0.5000).blend": "checkpoints/alpha-0.5000",
            "alphas(0:alpha-0.0000).evaluate(1:demo-001)": "shares/alpha-0.0000/demo-001",
        },
    )
    run = sweep(bucket, tmp_path / "pods", SWEEP, on_start=evictions)
    assert run.phase == "Succeeded", run.root.tree()
    ends = {name: run.node(name).exit_codes for name in evictions.done}
    assert len(ends) == 3
    # A pod that is evicted just as it ends has done its work, and is started again all the same.
    assert all(codes in (["143", "0"], ["0", "0"], ["0"]) for codes in ends.values()), ends
    assert ["143", "0"] in ends.values(), "all of them were done before they could be evicted"
    assert run.node("gate").phase == "Succeeded"
    there, here = contents(store), contents(local_run(tmp_path))
    assert sorted(there) == sorted(here)
    assert [key for key in here if here[key] != there[key]] == []
    assert isinstance(store, S3Store)
    assert not open_uploads(s3_environment, store)
    secret = s3_environment.secret_key
    assert not [path for path in (tmp_path / "pods").rglob("*") if said(path, secret)]


def local_run(folder: Path) -> Store:
    """The same sweep in this process, into a folder."""
    url = str(folder / "one")
    config = read_config(SWEEP, [f"store={url}"], where="test")
    local.sweep(config)
    local.judge(config)
    return open_store(url)


def said(path: Path, secret: str) -> bool:
    return path.is_file() and secret.encode() in path.read_bytes()


@pytest.mark.slow
def test_an_alpha_that_fails_fails_alone_and_report_names_it(
    s3_environment: S3Server, bucket: str, tmp_path: Path
) -> None:
    """The blend finds a broken marker under its prefix; a retry would find it, too."""
    text = SWEEP.replace("rotations: {rl1: demo:rl1}", "").replace("shards: 2\n", "shards: 1\n")
    store = open_store(f"s3://{bucket}/run")
    write_bytes(store, "checkpoints/alpha-0.0000/in-progress.json", b"{")
    config = read_config(text, [f"store=s3://{bucket}/run"], where="test")
    write_bytes(store, "config.json", config.model_dump_json().encode())
    run = sweep(bucket, tmp_path / "pods", text)
    assert run.phase == "Failed"
    assert run.node("alphas(0:alpha-0.0000).blend").exit_codes == ["4"]
    assert run.node("alphas(0:alpha-0.0000).evaluate").phase == "Omitted"
    assert run.node("alphas(1:alpha-0.5000)").phase == "Succeeded"
    assert run.node("rotations").phase == "Skipped"
    report = run.node("report")
    assert report.exit_codes == ["2"]
    assert run.node("gate").phase == "Omitted"
    lacking = "checkpoints/alpha-0.0000, results/alpha-0.0000/demo"
    assert f"Not finished: {lacking}" in report.attempts[0].log.read_text()
    assert read_json(store, "report/verdict.json")["missing"] == lacking.split(", ")
    assert b"alpha-0.0000" in store.read("report/report.html")
    assert run.exit_node is not None
    assert "Failed" in run.exit_node.attempts[0].log.read_text()
