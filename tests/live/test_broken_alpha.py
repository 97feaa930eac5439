"""`svdjobs workflow` on a sweep with an alpha that fails in every attempt, and is fixed later."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from svdjobs.storage.dev_server import S3Server
from svdjobs.storage.objects import write_bytes
from tests.live.faults import SWEEP, all_closed, attempts, exited, times
from tests.live.namespaces import Namespace, phases
from tests.live.node_image import submitted_with
from tests.live.sweeps import WORKFLOW
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

ALPHA = "checkpoints/alpha-0.0000/manifest.json"


def test_it_fails_alone_and_then_only_what_is_missing_is_made(
    live_server: S3Server, image: str, make_namespace: Callable[..., Namespace], tmp_path: Path
) -> None:
    space = make_namespace("svdjobs-faults")
    store = space.store()
    config = tmp_path / "faults.yaml"
    config.write_text(SWEEP)
    submit = (
        "workflow", "submit", str(config), "--store", space.url(), "--file", str(WORKFLOW),
        *submitted_with(image),
    )  # fmt: skip

    space.svdjobs(*submit, "--name", "broken")
    until(lambda: store.exists("plan/manifest.json"), 120, "plan is done")
    write_bytes(store, ALPHA, b'{"this is": "no manifest"}')
    shown = space.svdjobs("workflow", "watch", "faults", code=2, timeout=400)
    assert re.search(r"✗ alpha-0\.0000 +blend ✗ +evaluate –", shown)
    assert "Workflow broken ended as Failed" in shown
    failed = space.object("workflows", "broken")
    assert attempts(failed)["alphas(0:alpha-0.0000).blend"] == [exited(4)]
    assert attempts(failed)["report"] == [exited(2)]
    assert phases(failed)[".alphas(1:alpha-0.5000)"] == "Succeeded"
    logs = space.svdjobs("workflow", "logs", "broken", "--failed")
    assert f"alpha-0.0000/blend | Error: {space.url()}/{ALPHA}" in logs
    assert re.search(r"report \| +Not finished: checkpoints/alpha-0\.0000", logs)
    assert "checkpoints/alpha-0.0000" in bytes(store.read("report/report.md")).decode()
    before = times(space, live_server)
    assert "likelihoods/alpha-0.5000/demo/manifest.json" in before  # it reads and draws none

    store.delete(ALPHA)
    shown = space.svdjobs(*submit, "--name", "mended", "--watch", timeout=400)
    assert "✓ report" in shown
    assert "Workflow mended ended as Succeeded" in shown
    assert "has already ended as Succeeded" in space.svdjobs("workflow", "stop", "mended")
    now = times(space, live_server)
    kept = {key for key in before if not key.startswith("report/")} - {ALPHA}
    assert {key: now[key] for key in kept} == {key: before[key] for key in kept}
    new = {key for key in now if now[key] != before.get(key)}
    outputs = ("results", "grades", "second_grades", "likelihoods")
    own = (*(f"{output}/alpha-0.0000/demo" for output in outputs), "report")
    assert new == {ALPHA, *(f"{prefix}/manifest.json" for prefix in own)}
    all_closed(live_server, store)
