"""A CI job's Workflow against a fake API server: it ends, runs out of time, or is cancelled."""

from __future__ import annotations

import gc
import os
import re
import signal
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from svdjobs.ci import cluster as on_cluster
from svdjobs.cluster.submit import Submission
from svdjobs.cluster.watching import updates
from svdjobs.cluster.watching.screen import closing_words
from svdjobs.cluster.watching.status import run_of
from tests.cluster.api_server import Answer, ApiServer, Body, answering, status, workflow

NAME = "demo-abcde"
# A signal may end a request between two lines of the HTTP library, which then leaves its socket to
# the interpreter.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "_PAUSE_SECONDS", 0.02)


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    """Hypothesis measures garbage collection in a callback, where Python drops exceptions: there a
    test's signal would be lost."""
    gc.disable()
    yield
    gc.enable()


def finished(phase: str, *ends: tuple[str, int], store: str = "s3://b/run") -> Body:
    """A Workflow whose stages ended with these exit codes."""
    document = workflow(phase, name=NAME)
    nodes: dict[str, Any] = {
        NAME: {"id": NAME, "name": NAME, "displayName": NAME, "type": "DAG", "phase": phase}
    }
    for stage, code in ends:
        nodes[stage] = {
            "id": stage, "name": f"{NAME}.{stage}", "displayName": stage, "type": "Pod",
            "phase": "Failed" if code else "Succeeded", "boundaryID": NAME,
            "outputs": {"exitCode": str(code)},
        }  # fmt: skip
    document["spec"]["arguments"] = {"parameters": [{"name": "store", "value": store}]}
    document["status"]["nodes"] = nodes
    return document


class Api:
    """Answers a creation, then shows the Workflow `shown`; records creations and patches."""

    def __init__(self, shown: Body, *, creates: bool = True) -> None:
        self.shown = shown
        self.creates = creates
        self.made: list[Body] = []
        self.patched: list[Body] = []
        self.containers: list[Body] = []

    def __call__(self, method: str, path: str, query: dict[str, str], body: Body) -> Answer:
        if method == "POST":
            self.made.append(body)
            return (201, body) if self.creates else (500, "busy")
        if method == "PATCH":
            self.patched.append(body)
            return (200, body) if self.creates else status(404, "NotFound", "none")
        if path.endswith("/pods"):
            notes = {"workflows.argoproj.io/node-id": "report"}
            pod = {"name": "pod-1", "annotations": notes}
            made = {"metadata": pod, "status": {"containerStatuses": self.containers}}
            return 200, {"items": [made]}
        if path.endswith("/log"):
            assert query["tailLines"] == str(on_cluster.LAST_LINES)
            return 200, "2026-01-01T00:00:00Z missing: alpha-0.5000\n"
        return (200, []) if query.get("watch") else (200, self.shown)


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    config = tmp_path / "sweep.yaml"
    config.write_text("name: demo\nbefore: a/b\nafter: a/c\nalphas: [0]\n")
    file = tmp_path / "workflow.yaml"
    names = [{"name": "config"}, {"name": "store"}]
    arguments = f"{{parameters: {names}}}".replace("'", "")
    file.write_text(f"kind: Workflow\nspec: {{arguments: {arguments}}}\n")
    return Submission(config, store="s3://bucket/run", workflow_file=file, name=NAME)


Told = list[str]


def run(server: ApiServer, submission: Submission, told: Told, **more: Any) -> on_cluster.Ended:
    options = {"timeout_seconds": 20.0, "keep_running": False, **more}
    cluster = server.cluster(patience_seconds=2)
    return on_cluster.run(cluster, submission, write=told.append, **options)


@pytest.mark.parametrize(
    ("phase", "ends", "code"),
    [
        ("Succeeded", [("report", 0), ("gate", 0)], 0),
        ("Failed", [("report", 0), ("gate", 3)], 3),
        ("Failed", [("report", 2)], 2),
        ("Failed", [("decompose", 137)], 4),
    ],
)
def test_the_code_is_the_workflow_s(
    submission: Submission, phase: str, ends: list[tuple[str, int]], code: int
) -> None:
    api, told = Api(finished(phase, *ends)), list[str]()
    with answering(api) as server:
        ended = run(server, submission, told)
    assert (ended.code, api.patched) == (code, [])
    assert ended.run is not None
    assert told == [f"Workflow {NAME} submitted to namespace here."]
    verdict = "s3://b/run/gate/gate.md"
    assert (verdict in ended.words) == any(stage == "gate" for stage, _ in ends)
    assert f"Its {len(ends)} pods took 0.00 h: 0.00 h of CPUs, 0.00 h of GPUs." in ended.words


def test_out_of_time_it_is_stopped(submission: Submission) -> None:
    api, told = Api(workflow("Running", name=NAME)), list[str]()
    with answering(api) as server:
        ended = run(server, submission, told, timeout_seconds=0.5)
    assert (ended.code, ended.run) == (5, None)
    assert api.patched == [{"spec": {"shutdown": "Stop"}}]
    assert "is being stopped" in ended.words
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)


def test_out_of_time_it_is_kept_if_that_was_asked_for(submission: Submission) -> None:
    api = Api(workflow("Running", name=NAME))
    with answering(api) as server:
        ended = run(server, submission, [], timeout_seconds=0.5, keep_running=True)
    assert (ended.code, api.patched) == (5, [])
    assert f"svdjobs workflow watch {NAME} --namespace here" in ended.words


def interrupted(number: int) -> None:
    threading.Timer(0.5, os.kill, (os.getpid(), number)).start()


def test_a_cancelled_job_stops_it(submission: Submission) -> None:
    api, told = Api(workflow("Running", name=NAME)), list[str]()
    with answering(api) as server:
        interrupted(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run(server, submission, told)
    assert api.patched == [{"spec": {"shutdown": "Stop"}}]
    assert "is being stopped. Finished outputs are kept" in told[-1]


def test_a_terminated_job_stops_it(submission: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    from svdjobs.cli.main import _terminate

    earlier = signal.signal(signal.SIGTERM, _terminate)
    api = Api(workflow("Running", name=NAME))
    try:
        with answering(api) as server:
            interrupted(signal.SIGTERM)
            with pytest.raises(SystemExit) as caught:
                run(server, submission, [])
    finally:
        signal.signal(signal.SIGTERM, earlier)
    assert caught.value.code == 143
    assert api.patched == [{"spec": {"shutdown": "Stop"}}]


def test_cancelled_before_it_was_created(submission: Submission) -> None:
    api, told = Api(workflow("Running", name=NAME), creates=False), list[str]()
    with answering(api) as server:
        interrupted(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            run(server, submission, told)
    assert told == [f"Workflow {NAME} was not created."]


def test_an_api_server_that_stays_away_is_infrastructure(submission: Submission) -> None:
    api = Api(workflow("Running", name=NAME))
    with answering(api) as server:
        threading.Timer(0.5, server.stop).start()
        ended = run(server, submission, [], timeout_seconds=60)
    assert (ended.code, ended.run) == (4, None)
    assert "does not answer" in ended.words
    assert "workflow watch" in ended.words


def test_pods_without_their_image_end_the_job_and_the_workflow(submission: Submission) -> None:
    """Argo itself waits for ever."""
    waiting = running_pod("plan")
    message = 'ImagePullBackOff: Back-off pulling image "svdjobs:9"'
    waiting["status"]["nodes"]["plan"] |= {"phase": "Pending", "message": message}
    api = Api(waiting)
    with answering(api) as server:
        ended = run(server, submission, [])
    assert (ended.code, ended.run) == (4, None)
    assert re.search(r"1 pods of Workflow .* have not got their image for 10 minutes", ended.words)
    assert 'plan: ImagePullBackOff: Back-off pulling image "svdjobs:9"' in ended.words
    assert "is being stopped" in ended.words
    assert api.patched == [{"spec": {"shutdown": "Stop"}}]


@pytest.mark.parametrize("minutes_ago", [9, 11])
def test_pods_that_lost_argo_s_container_end_the_job_and_the_workflow(
    submission: Submission, minutes_ago: float
) -> None:
    """The node stays Running as long as the stage's own container runs."""
    api = Api(running_pod("report"))
    killed = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    ended = {"reason": "OOMKilled", "exitCode": 137, "finishedAt": f"{killed:%Y-%m-%dT%H:%M:%SZ}"}
    api.containers = [
        {"name": "main", "state": {"running": {}}},
        {"name": "wait", "state": {"terminated": ended}},
    ]
    with answering(api) as server:
        job = run(server, submission, [], timeout_seconds=1)
    if minutes_ago < 10:
        assert job.code == 5
        return
    assert (job.code, job.run) == (4, None)
    assert (
        "lost Argo's container wait more than 10 minutes ago, e.g. report: OOMKilled" in job.words
    )
    assert "is being stopped" in job.words


def running_pod(stage: str) -> Body:
    """A Workflow with one pod, whose stage runs."""
    running = workflow("Running", name=NAME)
    running["status"]["nodes"] = {
        NAME: {
            "id": NAME, "name": NAME, "type": "DAG", "phase": "Running", "templateName": "sweep",
            "children": [stage],
        },
        stage: {
            "id": stage, "name": f"{NAME}.{stage}", "displayName": stage, "type": "Pod",
            "phase": "Running", "templateName": stage, "boundaryID": NAME,
            "startedAt": "2026-01-01T00:00:00Z",
        },
    }  # fmt: skip
    return running


def test_one_that_cannot_be_stopped_is_named(submission: Submission) -> None:
    with answering(lambda *_: status(403, "Forbidden", "no")) as server:
        words = on_cluster.stopped(server.cluster(), NAME, keep_running=False)
    assert words.startswith(f"Workflow {NAME} could not be stopped: you may not patch")
    assert f"svdjobs workflow watch {NAME}" in words


def test_what_is_submitted(submission: Submission) -> None:
    from dataclasses import replace

    wanted = replace(
        submission,
        overrides=("alphas=[0.5]", "name=other"),
        annotations=on_cluster.origin({"CI_COMMIT_SHA": "abc", "GITHUB_REF_NAME": "main"}),
        deadline_seconds=60,
    )
    api = Api(finished("Succeeded"))
    with answering(api) as server:
        run(server, wanted, [])
    (made,) = api.made
    assert made["metadata"]["annotations"] == {
        "svdjobs.io/commit": "abc", "svdjobs.io/branch": "main",
    }  # fmt: skip
    assert made["spec"]["activeDeadlineSeconds"] == 60
    values = {p["name"]: p["value"] for p in made["spec"]["arguments"]["parameters"]}
    assert values["config"] == "name: other\nbefore: a/b\nafter: a/c\nalphas:\n- 0.5\n"
    assert made["metadata"]["labels"]["svdjobs.io/run"] == "other"
    assert on_cluster.origin({}) == {}


def test_the_ends_of_failed_logs_are_shown() -> None:
    told: list[str] = []
    ended = run_of(finished("Failed", ("blend", 4), ("report", 2)))
    with answering(Api({})) as server:
        on_cluster.show_failures(server.cluster(), ended, told.append)
    assert told[0] == "report | missing: alpha-0.5000"
    assert told[1].startswith("1 more failed pods: svdjobs workflow logs demo-abcde")


def test_logs_that_may_not_be_read_are_no_failure() -> None:
    told: list[str] = []
    with answering(lambda *_: status(403, "Forbidden", "no")) as server:
        on_cluster.show_failures(
            server.cluster(), run_of(finished("Failed", ("plan", 2))), told.append
        )
    assert told[0].startswith("The logs of failed pods cannot be read: you may not list pods")


@pytest.mark.parametrize(("ends", "named"), [([("gate", 3)], True), ([("gate", 2)], False)])
def test_only_a_verdict_is_a_verdict(ends: list[tuple[str, int]], named: bool) -> None:
    words = closing_words(run_of(finished("Failed", ("report", 0), *ends)))
    assert ("Verdict: s3://b/run/gate/gate.md" in words) == named


@pytest.mark.parametrize(
    ("ends", "there"),
    [
        ([("plan", 0), ("report", 0)], True),
        ([("plan", 0), ("report", 2)], True),
        ([("plan", 137), ("report", 2)], False),
        ([("plan", 0), ("report", 137)], False),
    ],
)
def test_a_report_is_named_where_there_is_one(ends: list[tuple[str, int]], there: bool) -> None:
    words = closing_words(run_of(finished("Failed", *ends)))
    assert ("Report: s3://b/run/report/report.html" in words) == there
