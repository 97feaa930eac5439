"""Delete pods of every stage while they work: new pods take over, and redo no finished work."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from svdjobs.storage.dev_server import S3Server
from tests.live.faults import SWEEP, Deletions, all_closed, attempts, follow, once, sweep
from tests.live.namespaces import Namespace

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

# One deletion for each stage. notify is left out: it ends too quickly.
EVERY_STAGE = {
    "plan": ["forced"],
    "decompose": ["graceful", "forced"],
    "evaluate": ["forced", "graceful"],
    "blend": ["graceful", "forced"],
    "rotations": ["graceful"],
    "metrics": ["forced"],
    "report": ["forced"],
}
SHARED = SWEEP + "  shards: 2\nrotations: {rl1: demo:rl1}\nmetrics: {null_draws: 8}\n"


def test_pods_of_every_stage_deleted_and_all_is_done_once(
    live_server: S3Server, image: str, make_namespace: Callable[..., Namespace]
) -> None:
    """Pods are deleted while they work, gracefully and by force."""
    space = make_namespace("svdjobs-faults")
    space.apply(sweep(space, "deleted", SHARED, image=image))
    deletions = Deletions(space, EVERY_STAGE)
    found, written = follow(space, "deleted", deletions, live_server)
    space.check(found)
    tried = attempts(found)
    assert not deletions.left, "no pod of these was seen at work"
    retried = [task for task, ends in tried.items() if len(ends) > 1]
    assert len(deletions.again) + len(retried) >= 4, "hardly a pod was deleted in its work"
    once(written)
    all_closed(live_server, space.store())
