"""What breaks while a sweep runs, and what becomes of the sweep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from svdjobs.storage.s3 import S3Store
from svdjobs.storage.store import Store, write_bytes
from tests.live.faults import (
    Deletions,
    Server,
    attempts,
    controller,
    drain,
    follow,
    running,
    sweep,
    times,
)
from tests.live.namespaces import Namespace, phases, until
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
# The same with fewer pods.
SMALL = SWEEP.replace("shards: 2", "shards: 1").partition("rotations")[0]
# Once each, and gone; what they were doing is done by another. Not notify: it is too quick.
EVERY_STAGE = {
    "plan": ["forced"],
    "decompose": ["graceful", "forced"],
    "evaluate": ["forced", "graceful"],
    "blend": ["graceful", "forced"],
    "rotations": ["graceful"],
    "report": ["forced"],
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


def exited(code: int) -> tuple[str, str, str]:
    """How an attempt ended whose container failed with that code."""
    return "Failed", str(code), f"main: Error (exit code {code})"


def once(written: dict[str, set[str]]) -> None:
    """Nothing that was finished was done again."""
    assert not {key: when for key, when in written.items() if len(when) > 1}


def all_closed(own: Server, store: Store) -> None:
    assert isinstance(store, S3Store)
    assert not open_uploads(own.server, store)
    assert not [key for key in store.keys("") if key.endswith("in-progress.json")]


def test_pods_of_every_stage_deleted_and_all_is_done_once(
    own: Server, image: str, make_namespace: Callable[..., Namespace]
) -> None:
    """While they work, gracefully and by force."""
    space = make_namespace("svdjobs-faults", server=own.server)
    space.apply(sweep(space, "deleted", SWEEP, image=image))
    deletions = Deletions(space, EVERY_STAGE)
    found, written = follow(space, "deleted", deletions, own.server)
    tried = attempts(found)
    assert found["status"]["phase"] == "Succeeded", tried
    assert not deletions.left, "no pod of these was seen at work"
    # A pod that goes within its first seconds is made again without counting as an attempt.
    assert any(len(ends) > 1 for ends in tried.values()), tried
    once(written)
    all_closed(own, space.store())


def test_an_alpha_that_fails_for_good_fails_alone_until_it_is_mended(
    own: Server, image: str, make_namespace: Callable[..., Namespace]
) -> None:
    """The report names it; then only what is missing is made, and all is as if nothing had been."""
    space = make_namespace("svdjobs-faults", server=own.server)
    store = space.store()
    space.apply(sweep(space, "broken", SMALL, image=image))
    until(lambda: store.exists("plan/manifest.json"), 120, "plan is done")
    write_bytes(store, ALPHA, b'{"this is": "no manifest"}')
    failed = space.wait("broken", "Failed")
    assert attempts(failed)["alphas(0:alpha-0.0000).blend"] == [exited(4)]
    assert attempts(failed)["report"] == [exited(2)]
    assert phases(failed)[".alphas(1:alpha-0.5000)"] == "Succeeded"
    assert "checkpoints/alpha-0.0000" in bytes(store.read("report/report.md")).decode()
    before = times(space, own.server)
    assert "results/alpha-0.5000/demo/manifest.json" in before

    store.delete(ALPHA)
    space.apply(sweep(space, "mended", SMALL, image=image))
    space.wait("mended")
    now = times(space, own.server)
    kept = {key for key in before if not key.startswith("report/")} - {ALPHA}
    assert {key: now[key] for key in kept} == {key: before[key] for key in kept}
    new = {key for key in now if now[key] != before.get(key)}
    own_results = ("results/alpha-0.0000/demo", "likelihoods/alpha-0.0000/demo", "report")
    assert new == {ALPHA, *(f"{prefix}/manifest.json" for prefix in own_results)}
    all_closed(own, store)


def test_node_drained_controller_restarted_store_away(
    own: Server, image: str, cluster: Site, make_namespace: Callable[..., Namespace]
) -> None:
    space = make_namespace("svdjobs-faults", server=own.server)
    space.apply(sweep(space, "shaken", SMALL, image=image))
    until(lambda: running(space, "decompose"), 120, "a decompose pod runs", 0.2)
    own.stop()
    time.sleep(20)
    own.start()
    (pod, *_) = until(lambda: running(space, "evaluate"), 400, "an evaluate pod runs", 0.2)
    assert "evicted" in drain(space, "shaken", pod["spec"]["nodeName"])
    until(lambda: running(space, "blend"), 400, "a blend pod runs", 0.2)
    if cluster.local:
        with controller(cluster.kubeconfig).gone():
            time.sleep(8)
    found, written = follow(space, "shaken", lambda: None, own.server)
    tried = attempts(found)
    assert found["status"]["phase"] == "Succeeded", tried
    assert any(len(ends) > 1 for task, ends in tried.items() if "evaluate" in task), tried
    once(written)
    all_closed(own, space.store())
