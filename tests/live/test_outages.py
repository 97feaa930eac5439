"""One sweep while the store is stopped, then the node drained, then the controller killed."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.live.cluster_access import Site
from tests.live.faults import (
    SWEEP,
    Server,
    all_closed,
    attempts,
    controller,
    drain,
    follow,
    once,
    running,
    sweep,
)
from tests.live.namespaces import Namespace
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def test_store_away_node_drained_controller_killed(
    own_server: Server, image: str, cluster: Site, make_namespace: Callable[..., Namespace]
) -> None:
    space = make_namespace("svdjobs-faults", server=own_server.server)
    space.apply(sweep(space, "shaken", SWEEP, image=image))
    until(lambda: running(space, "decompose"), 120, "a decompose pod runs", 0.2)
    own_server.stop()
    time.sleep(20)
    own_server.start()
    (pod, *_) = until(lambda: running(space, "evaluate"), 400, "an evaluate pod runs", 0.2)
    assert "evicted" in drain(space, "shaken", pod["spec"]["nodeName"])
    until(lambda: running(space, "blend"), 400, "a blend pod runs", 0.2)
    if cluster.local:
        with controller(cluster.kubeconfig).gone():
            time.sleep(8)
    found, written = follow(space, "shaken", lambda: None, own_server.server)
    space.check(found)
    tried = attempts(found)
    assert any(len(ends) > 1 for task, ends in tried.items() if "evaluate" in task), tried
    once(written)
    all_closed(own_server.server, space.store())
