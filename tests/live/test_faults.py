"""What breaks while a sweep runs, and what becomes of the sweep."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from svdjobs.storage.s3 import S3Store
from svdjobs.storage.store import Store, write_bytes
from tests.live.faults import (
    STAGE,
    Controller,
    Deletions,
    Server,
    attempts,
    drain,
    follow,
    running,
    sweep,
    times,
)
from tests.live.namespaces import BESIDE, Namespace, phases, until
from tests.live.site import Site
from tests.storage.s3_server import open_uploads

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SWEEP = """
name: faults
before: demo:base
after: demo:rl2
alphas: [0, 0.5]
decompose: {parts: 2, shards: 2}
evaluate:
  benchmarks: [{name: demo, limit: 8}]
  engine: transformers
  n_samples: 1
  max_tokens: 32
  batch_size: 4
  shards: 2
rotations: {rl1: demo:rl1}
"""
# Once each, and gone; what they were doing is done by another.
EVERY_STAGE = {
    "plan": ["forced"],
    "decompose": ["graceful", "forced"],
    "evaluate": ["forced", "graceful"],
    "blend": ["graceful", "forced"],
    "rotations": ["graceful"],
    "report": ["forced"],
    "notify": ["forced"],
}
ALPHA = "checkpoints/alpha-0.0000/manifest.json"


@pytest.fixture
def own(cluster: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that a test may stop."""
    made = Server(tmp_path / "s3", cluster.address)
    for name, value in made.server.environment.items():
        monkeypatch.setenv(name, value)
    yield made
    made.stop()


def once(written: dict[str, set[str]]) -> None:
    """Nothing that was finished was done again."""
    assert not {key: when for key, when in written.items() if len(when) > 1}


def contents(store: Store) -> dict[str, bytes]:
    """Every object of a run but those that tell where and when."""
    return {key: bytes(store.read(key)) for key in store.keys("") if not key.startswith(BESIDE)}


def all_closed(own: Server, store: Store) -> None:
    assert isinstance(store, S3Store)
    assert not open_uploads(own.server, store)
    assert not [key for key in store.keys("") if key.endswith("in-progress.json")]


def test_pods_deleted_and_all_is_done_once(
    own: Server, image: str, make_namespace: Callable[..., Namespace]
) -> None:
    """Pods of every stage, gracefully and by force; then an alpha that fails for good."""
    space = make_namespace("svdjobs-faults", server=own.server)
    space.apply(sweep(space, "deleted", SWEEP, image=image))
    deletions = Deletions(space, EVERY_STAGE)
    found, written = follow(space, "deleted", deletions, own.server)
    tried = attempts(found)
    print(json.dumps(tried, indent=1))
    assert found["status"]["phase"] == "Succeeded", tried
    assert not any(deletions.left.values()), deletions.left
    again = {task for task, ends in tried.items() if len(ends) > 1}
    assert len(again) >= 4, "hardly a pod was deleted in the middle of its work"
    once(written)
    store = space.store()
    all_closed(own, store)
    before, bytes_before = times(space, own.server), contents(store)

    manifest = bytes(store.read(ALPHA))
    write_bytes(store, ALPHA, b'{"this is": "no manifest"}')
    space.apply(sweep(space, "broken", SWEEP, image=image))
    failed = space.wait("broken", "Failed", 600)
    assert attempts(failed)["alphas(0:alpha-0.0000).blend"] == [("Failed", "4", EXITED.format(4))]
    assert attempts(failed)["report"] == [("Failed", "2", EXITED.format(2))]
    assert phases(failed)[".alphas(1:alpha-0.5000)"] == "Succeeded"
    assert "checkpoints/alpha-0.0000" in bytes(store.read("report/report.md")).decode()
    kept = {key for key in before if not key.startswith("report/")} - {ALPHA}
    now = times(space, own.server)
    assert {key: now[key] for key in kept} == {key: before[key] for key in kept}

    write_bytes(store, ALPHA, manifest)
    space.apply(sweep(space, "mended", SWEEP, image=image))
    space.wait("mended", seconds=600)
    now = times(space, own.server)
    assert {key: now[key] for key in kept} == {key: before[key] for key in kept}
    assert contents(store) == bytes_before


EXITED = "main: Error (exit code {})"


def test_node_drained_controller_restarted_store_away(
    own: Server, image: str, cluster: Site, make_namespace: Callable[..., Namespace]
) -> None:
    space = make_namespace("svdjobs-faults", server=own.server)
    space.apply(sweep(space, "shaken", SWEEP, image=image))
    until(lambda: running(space, "decompose"), 120, "a decompose pod runs", 0.2)
    own.stop()
    time.sleep(20)
    own.start()
    until(lambda: running(space, "evaluate"), 400, "an evaluate pod runs", 0.2)
    node = space.objects("pods", f"{STAGE}=evaluate")[0]["spec"]["nodeName"]
    assert "evicted" in drain(space, "shaken", node)
    until(lambda: running(space, "blend"), 400, "a blend pod runs", 0.2)
    if cluster.local:
        with Controller(cluster.kubeconfig).gone():
            time.sleep(8)
    found, written = follow(space, "shaken", lambda: None, own.server)
    tried = attempts(found)
    print(json.dumps(tried, indent=1))
    assert found["status"]["phase"] == "Succeeded", tried
    assert any(len(ends) > 1 for task, ends in tried.items() if "evaluate" in task), tried
    once(written)
    all_closed(own, space.store())
