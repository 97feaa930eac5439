"""Two pods with an engine each share all evaluations of a sweep; both are lost once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from svdjobs.runs import leases
from svdjobs.storage.dev_server import S3Server
from tests.live.cluster_access import Site
from tests.live.faults import Deletions, all_closed, attempts, follow, once, sweep
from tests.live.namespaces import Namespace
from tests.live.sweeps import SWEEP, contents, counted, engine_starts, run_here

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

SHARED = (
    SWEEP.replace("  shards: 2\n", "  shards: 2\n  engines: 2\n")
    + "blend: {write_checkpoints: false}\n"
)


def test_one_is_killed_and_one_evicted_and_the_bytes_are_those_of_one_machine(
    cluster: Site,
    live_server: S3Server,
    image: str,
    make_namespace: Callable[..., Namespace],
    measured: Callable[[str], None],
    tmp_path: Path,
) -> None:
    space = make_namespace("svdjobs-engines")
    space.apply(sweep(space, "shared", SHARED, image=image))
    deletions = Deletions(space, {"evaluate": ["forced", "graceful"]})
    found, written = follow(space, "shared", deletions, live_server)
    space.check(found)
    tried = attempts(found)
    assert not deletions.left, "no engine was seen at work"
    measured(
        f"the same with evaluate.engines: 2: {counted(found, space.store())}; one was killed, one "
        f"deleted, and {len(deletions.again)} were made again under their names"
    )
    assert 2 <= engine_starts(found) <= 4, (
        "an engine for each pod, and one again for each that was lost"
    )
    assert {task.partition("(")[0] for task in tried} >= {"engines", "plan", "report"}
    once({key: when for key, when in written.items() if not key.startswith("plan/")})
    store = space.store()
    assert store.keys(leases.PREFIX) == store.keys("shares") == []
    there, here = contents(store), contents(run_here(cluster, SHARED, tmp_path / "here"))
    assert sorted(there) == sorted(here)
    assert [key for key in here if here[key] != there[key]] == []
    all_closed(live_server, store)
