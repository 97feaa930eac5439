"""What a real API server does not do on request: outages, refusals, cut watches, lost versions."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from svdjobs.cluster.api import action_of, connect
from svdjobs.cluster.submit import Submission, submit
from svdjobs.cluster.watching import logs, updates
from svdjobs.errors import ClusterError, ConfigError, RefusedError, UnavailableError, exit_code
from tests.cluster.api_server import Answer, Body, answering, event, status, workflow
from tests.waiting import no_hang

WORKFLOWS = "/apis/argoproj.io/v1alpha1/namespaces/here/workflows"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(logs, "_PAUSE_SECONDS", 0.01)


def test_an_outage_is_outlasted_and_told_once() -> None:
    told: list[str] = []
    with answering(lambda *_: (200, workflow("Running"))) as server:
        cluster = server.cluster(patience_seconds=20, notice=told.append)
        server.stop()
        threading.Timer(1.5, server.start).start()
        assert updates.find(cluster, "w")["metadata"]["name"] == "w"
    assert len(told) == 1
    assert "does not answer (connection refused); trying for 20 s" in told[0]


def test_an_api_server_that_stays_away() -> None:
    with answering(lambda *_: (200, {})) as server:
        cluster = server.cluster(patience_seconds=0.5)
        server.stop()
        with pytest.raises(UnavailableError, match=r"connection refused.*a Workflow goes on"):
            cluster.get("/version")


def test_refused_after_an_outage_is_not_believed_at_once() -> None:
    """A server that has just started refuses every request until it has read its rules."""
    answers: list[Answer] = [
        (503, "starting"),
        status(403, "Forbidden", "no"),
        (404, "404 page not found"),
    ]

    def respond(method: str, path: str, query: dict[str, str], body: Body) -> Answer:
        return answers.pop(0) if answers else (200, workflow("Running"))

    with answering(respond) as server:
        assert updates.find(server.cluster(), "w")["status"] == {"phase": "Running"}
    assert not answers


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            status(403, "Forbidden", 'User "ann" cannot list resource'),
            r"may not get workflows.argoproj.io in namespace here: User \"ann\" cannot(.|\n)*"
            r"kubectl create role svdjobs-get -n here --verb=get --resource=workflows.argoproj.io"
            r"(.|\n)*--user=ann",
        ),
        (
            status(403, "Forbidden", 'User "system:serviceaccount:a:b" cannot'),
            r"--serviceaccount=a:b",
        ),
        (status(401, "Unauthorized", "Unauthorized"), r"does not know who you are \(401\)"),
        ((404, "404 page not found\n"), r"has no Argo Workflows: it knows no workflows.*Install"),
        (status(422, "Invalid", "spec.x: " + "long " * 200), r"refused to get .*\(422\): spec.*…"),
    ],
)  # fmt: skip
def test_refusals_say_what_to_do(answer: Answer, words: str) -> None:
    with answering(lambda *_: answer) as server, pytest.raises(ConfigError, match=words):
        updates.find(server.cluster(), "w")


def test_what_a_path_asks_for() -> None:
    assert action_of("GET", f"{WORKFLOWS}/w", {})[:2] == ("get", "workflows.argoproj.io")
    assert action_of("GET", WORKFLOWS, {"watch": "true"}).verb == "watch"
    log = action_of("GET", "/api/v1/namespaces/here/pods/p/log", {})
    assert log == ("get", "pods/log", "here", "p")
    assert action_of("GET", "/api/v1/namespaces/here", {}) == ("get", "namespaces", "", "here")
    assert action_of("GET", "/api/v1/nodes", {}) == ("list", "nodes", "", "")


def test_what_is_no_api_server_is_no_cluster_to_talk_to() -> None:
    with (
        answering(lambda *_: (200, "<html>")) as server,
        pytest.raises(ClusterError, match=r"something that is no JSON object") as raised,
    ):
        updates.find(server.cluster(), "w")
    assert exit_code(raised.value) == 4


def test_no_kubeconfig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(
        ClusterError, match=r"no cluster to talk to.*not a usable kubeconfig"
    ) as raised:
        connect()
    assert exit_code(raised.value) == 4


class Watched:
    """A Workflow whose watch answers one list of lines after another."""

    def __init__(self, *watches: list[str] | Answer, gets: list[Answer]) -> None:
        self.watches, self.gets = list(watches), gets
        self.versions: list[str] = []

    def __call__(self, method: str, path: str, query: dict[str, str], body: Body) -> Answer:
        if query.get("watch"):
            self.versions.append(query["resourceVersion"])
            watch = self.watches.pop(0)
            return (200, watch) if isinstance(watch, list) else watch
        return self.gets.pop(0) if len(self.gets) > 1 else self.gets[0]


def phases(watched: Watched) -> list[str]:
    with answering(watched) as server:
        cluster = server.cluster(patience_seconds=5)
        return [w["status"]["phase"] for w in updates.changes(cluster, "w")]


def test_a_cut_watch_goes_on_from_where_it_was() -> None:
    half = event("MODIFIED", workflow("Running", 9))[:40]
    watched = Watched(
        [event("MODIFIED", workflow("Running", 2)), half],
        [event("BOOKMARK", workflow("", 5))],
        [event("MODIFIED", workflow("Succeeded", 7))],
        gets=[(200, workflow("Pending", 1))],
    )
    assert phases(watched) == ["Pending", "Running", "Succeeded"]
    assert watched.versions == ["1", "2", "5"]


@pytest.mark.parametrize(
    "gone",
    [
        status(410, "Expired", "too old resource version"),
        (200, [event("ERROR", {"kind": "Status", "code": 410})]),
    ],
)
def test_a_forgotten_version_means_asking_anew(gone: Answer) -> None:
    gets: list[Answer] = [(200, workflow("Running", 1)), (200, workflow("Failed", 50))]
    assert phases(Watched(gone, gets=gets)) == ["Running", "Failed"]


def test_an_end_that_was_missed_during_an_outage() -> None:
    gets: list[Answer] = [
        (200, workflow("Running", 1)),
        (503, "away"),
        (200, workflow("Failed", 9)),
    ]
    assert phases(Watched((200, None), [], gets=gets)) == ["Running", "Failed"]


def test_a_deleted_workflow_ends_the_watch() -> None:
    watched = Watched([event("DELETED", workflow("Running", 3))], gets=[(200, workflow("Running"))])
    with pytest.raises(ClusterError, match="was deleted while it was watched"):
        phases(watched)


def test_another_workflow_of_the_same_name_is_not_the_same() -> None:
    gets: list[Answer] = [(200, workflow("Running")), (200, workflow("Running", uid="other"))]
    with pytest.raises(ClusterError, match="was deleted"):
        phases(Watched([], gets=gets))


def test_the_latest_workflow_of_a_sweep_is_found() -> None:
    def respond(method: str, path: str, query: dict[str, str], body: Body) -> Answer:
        if path != WORKFLOWS:
            return status(404, "NotFound", "not found")
        assert query["labelSelector"] == "svdjobs.io/run=demo"
        old, new = workflow("Failed", name="demo-a"), workflow("Running", name="demo-b")
        new["metadata"]["creationTimestamp"] = "2026-01-02T00:00:00Z"
        return 200, {"items": [new, old]}

    with answering(respond) as server:
        assert updates.find(server.cluster(), "demo")["metadata"]["name"] == "demo-b"


def submission(tmp_path: Path, **more: object) -> Submission:
    config = tmp_path / "sweep.yaml"
    if not config.exists():
        config.write_text("name: Demo_1\nbefore: a/b\nafter: a/c\n")
    file = Path(__file__).parent / "workflows" / "sweep.yaml"
    given = {"config_file": config, "store": "s3://bucket/demo", "workflow_file": file, **more}
    return Submission(**given)  # type: ignore[arg-type]


class Creating:
    """Records creations; the answers to the first `lost` of them are lost."""

    def __init__(self, *, lost: int = 0, taken: Body | None = None) -> None:
        self.made: list[Body] = [taken] if taken else []
        self.lost = lost

    def __call__(self, method: str, path: str, query: dict[str, str], body: Body) -> Answer:
        if method == "GET":
            return 200, self.made[0]
        if self.made:
            return status(409, "AlreadyExists", "already exists")
        self.made.append(body)
        self.lost -= 1
        return (200, None) if self.lost >= 0 else (201, body)


def test_a_creation_whose_answer_is_lost_is_not_done_twice(tmp_path: Path) -> None:
    creating = Creating(lost=1)
    with answering(creating) as server:
        made = submit(server.cluster(patience_seconds=5), submission(tmp_path))
        assert server.asked.count(("POST", WORKFLOWS)) == 2
    assert [made] == creating.made
    assert made["metadata"]["name"].startswith("demo-1-")
    assert made["metadata"]["labels"]["svdjobs.io/run"] == "Demo_1"
    values = {p["name"]: p["value"] for p in made["spec"]["arguments"]["parameters"]}
    assert values["store"] == "s3://bucket/demo"
    assert values["config"] == (tmp_path / "sweep.yaml").read_text()
    assert values["seconds"] == "1"


def test_a_name_that_someone_else_took(tmp_path: Path) -> None:
    with (
        answering(Creating(taken=workflow("Running", name="mine"))) as server,
        pytest.raises(ConfigError, match=r"there is a Workflow 'mine'.*another --name"),
    ):
        submit(server.cluster(), submission(tmp_path, name="mine"))


def test_from_a_template_only_what_is_given_is_set(tmp_path: Path) -> None:
    template = {"spec": {"arguments": {"parameters": [{"name": "config"}, {"name": "store"}]}}}

    def respond(method: str, path: str, query: dict[str, str], body: Body) -> Answer:
        return (200, template) if method == "GET" else (201, body)

    with answering(respond) as server:
        made = submit(server.cluster(), submission(tmp_path, template="svdjobs-sweep"))
    assert made["spec"]["workflowTemplateRef"] == {"name": "svdjobs-sweep"}
    assert [p["name"] for p in made["spec"]["arguments"]["parameters"]] == ["config", "store"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"store": None}, "no store: .* name none"),
        ({"store": "runs/demo"}, "'runs/demo' is a folder, which pods do not share"),
        ({"parameters": {"colour": "red"}}, "has no parameter colour; it has alphas, broken, conf"),
        ({"store": "s3://bucket/{{workflow.name}}"}, "--store is .*: Argo would replace"),
        ({"parameters": {"alphas": "{{x}}"}}, "-p alphas is '{{x}}': Argo would replace"),
        ({"name": "No Good"}, "a Workflow's name has at most 63 lower-case"),
        ({"workflow_file": Path("none.yaml")}, "no Workflow at none.yaml.*workflow render"),
        ({"workflow_file": Path("pyproject.toml")}, "cannot read|expected one document of kind"),
    ],
)
def test_wrong_submissions(tmp_path: Path, more: dict[str, object], words: str) -> None:
    with answering(lambda *_: (500, "unasked")) as server:
        with pytest.raises(ConfigError, match=words):
            submit(server.cluster(), submission(tmp_path, **more))
        assert not server.asked


def test_a_config_that_argo_would_change_is_refused(tmp_path: Path) -> None:
    text = "name: x\nbefore: a/b\nafter: a/c\nreport: {title: 'of {{workflow.name}}'}\n"
    (tmp_path / "sweep.yaml").write_text(text)
    with (
        answering(lambda *_: (500, "unasked")) as server,
        pytest.raises(ConfigError, match=r"sweep.yaml line 4: Argo would replace '\{\{'"),
    ):
        submit(server.cluster(), submission(tmp_path))


def test_a_log_is_taken_up_without_repeating_a_line() -> None:
    lines = [f"2026-01-01T00:00:0{i}.5Z line {i}\n" for i in range(4)]
    streams: list[list[str]] = [[*lines[:2], lines[2][:25]], lines[1:]]
    since: list[str | None] = []

    def respond(method: str, path: str, query: dict[str, str], body: Body) -> Answer:
        if path.endswith("/log"):
            since.append(query.get("sinceTime"))
            return (200, streams.pop(0)) if len(streams) > 1 else (200, "".join(streams[0]))
        return 200, {"status": {"phase": "Succeeded"}}

    written: list[str] = []
    with answering(respond) as server:
        assert logs._copy(server.cluster(), "p", written.append, follow=True)
    assert written == [f"line {i}" for i in range(4)]
    assert since == [None, "2026-01-01T00:00:01.5Z"]


def test_the_log_of_a_pod_that_is_gone() -> None:
    with answering(lambda *_: status(404, "NotFound", "pods p not found")) as server:
        assert not logs._copy(server.cluster(), "p", print, follow=False)


def test_a_refusal_keeps_its_status() -> None:
    with (
        answering(lambda *_: status(403, "Forbidden", "no")) as server,
        pytest.raises(RefusedError) as caught,
    ):
        server.cluster().patch(f"{WORKFLOWS}/w", {"spec": {"shutdown": "Stop"}})
    assert caught.value.status == 403
    assert "you may not patch workflows" in str(caught.value)


def test_patience_is_bounded() -> None:
    with (
        no_hang(),
        answering(lambda *_: (503, "away")) as server,
        pytest.raises(UnavailableError, match="503"),
    ):
        server.cluster(patience_seconds=0.3).get("/version")
