"""The tree and its lines, on documents saved from a real cluster and on larger copies of them."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from svdjobs.cluster.watching.logs import chosen, short_name, sortable
from svdjobs.cluster.watching.status import Task, exit_code, run_of
from svdjobs.cluster.watching.status_text import LIMIT, WIDTH, reason, time_left, to_lines

DOCUMENTS = Path(__file__).parent / "documents"


def document(name: str) -> dict[str, Any]:
    found = json.loads((DOCUMENTS / f"{name}.json").read_text())
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("name", ["sweep-running", "sweep-failed", "fan-out-running"])
def test_golden_text(name: str) -> None:
    run = run_of(document(name))
    assert run.started
    lines = to_lines(run, run.started + timedelta(seconds=33))
    assert "\n".join(lines) + "\n" == (DOCUMENTS / f"{name}.txt").read_text()


def test_packed_nodes_are_the_same_tree() -> None:
    plain = document("sweep-failed")
    packed = json.loads(json.dumps(plain))
    nodes = json.dumps(packed["status"].pop("nodes")).encode()
    packed["status"]["compressedNodes"] = base64.b64encode(gzip.compress(nodes)).decode()
    assert run_of(packed) == run_of(plain)


def test_offloaded_nodes_are_said_to_be_elsewhere() -> None:
    away = document("sweep-running")
    del away["status"]["nodes"]
    away["status"]["offloadNodeStatusVersion"] = "fnv:1"
    lines = to_lines(run_of(away))
    assert lines[0].startswith("bad  namespace svdjobs-client  Running  pods 6/13")
    assert "in its database" in lines[1]
    assert len(lines) == 2


def test_pods_are_counted_not_the_work_they_report() -> None:
    """Argo adds up the progress of pods: a pod with 40 steps would count as 40 pods."""
    found = document("sweep-running")
    plain = to_lines(run_of(found))[0]
    for node in found["status"]["nodes"].values():
        if node["type"] == "Pod":
            node["progress"] = "40/40"
    found["status"]["progress"] = "240/520"
    assert to_lines(run_of(found))[0] == plain


def test_a_workflow_nobody_has_looked_at() -> None:
    run = run_of({"metadata": {"name": "new", "namespace": "n"}, "spec": {}})
    assert to_lines(run, datetime.now(UTC)) == ["new  namespace n  Pending"]
    assert not run.ended


def test_retries_are_one_task_with_attempts() -> None:
    run = run_of(document("sweep-failed"))
    (task,) = chosen(run, step="after-001")
    assert (task.phase, task.exit_code, len(task.pod_nodes)) == ("Succeeded", 0, 2)


def test_what_has_not_started_comes_from_the_template() -> None:
    run = run_of(document("sweep-running"))
    assert [task.name for task in run.tasks] == [
        "plan", "decompose", "alphas", "rotations", "report",
    ]  # fmt: skip
    assert run.tasks[-1].phase == "Waiting"


def test_a_fan_out_knows_its_size_before_all_items_have_nodes() -> None:
    run = run_of(document("fan-out-running"))
    assert (run.tasks[0].items, len(run.tasks[0].children)) == (60, 32)


def with_alphas(count: int) -> dict[str, Any]:
    """The running sweep with `count` alphas: copies of its failed and of its running alpha."""
    found = document("sweep-running")
    nodes = found["status"]["nodes"]
    failed, running = (
        next(n for n in nodes.values() if n["displayName"].startswith(f"alphas({i}:"))
        for i in (1, 0)
    )
    for index in range(3, count):
        like = failed if index % 50 == 0 else running
        copy = {**like, "id": f"x{index}", "displayName": f"alphas({index}:alpha-{index:04d})"}
        nodes[copy["id"]] = copy
        inner = [n for n in nodes.values() if n.get("boundaryID") == like["id"]]
        for node in inner:
            fresh = {**node, "id": f"{node['id']}-{index}", "boundaryID": copy["id"]}
            nodes[fresh["id"]] = fresh
    return found


def test_many_alphas_are_folded() -> None:
    lines = to_lines(run_of(with_alphas(200)), datetime.now(UTC))
    assert len(lines) <= LIMIT
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.startswith("    ✗") for line in lines) == 4
    assert any(line.startswith("    … and ") and line.endswith(" running") for line in lines)
    assert "0/200  4 failed, 196 running" in "\n".join(lines)


def at(second: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second)


def items(*tasks: tuple[str, float, float | None], of: int) -> Task:
    children = tuple(
        Task(str(i), str(i), phase, at(start), at(end) if end is not None else None)
        for i, (phase, start, end) in enumerate(tasks)
    )
    return Task("evaluate", "evaluate", "Running", at(0), items=of, children=children)


def test_time_left_needs_ground() -> None:
    two_done = [("Succeeded", 0.0, 10.0)] * 2
    assert time_left(items(*two_done, ("Running", 10.0, None), of=9), at(14)) is None
    assert time_left(items(*[("Succeeded", 0.0, 10.0)] * 3, of=9), at(14)) is None


def test_time_left_of_a_fan_out() -> None:
    done = [("Succeeded", 0.0, 10.0)] * 3
    running = [("Running", 10.0, None)] * 2
    # Each of 2 running items needs 6 s more; 4 waiting items take 10 s each, two at a time.
    assert time_left(items(*done, *running, of=9), at(14)) == pytest.approx((2 * 6 + 4 * 10) / 2)


def test_time_left_of_a_pod_that_reports_progress() -> None:
    pod = Task("plan", "plan", "Running", at(0), share=0.25, pod_nodes=("x",))
    assert time_left(pod, at(10)) == pytest.approx(30)


def ended(phase: str, *failed: tuple[str, int | None], shutdown: str = "", said: str = "") -> int:
    nodes: dict[str, Any] = {
        "w": {"id": "w", "name": "w", "displayName": "w", "type": "DAG", "templateName": "t",
              "phase": phase},
    }  # fmt: skip
    for name, code in failed:
        nodes[name] = {
            "id": name, "name": f"w.{name}", "displayName": name, "type": "Pod", "phase": "Failed",
            "boundaryID": "w", "message": said,
            **({"outputs": {"exitCode": str(code)}} if code is not None else {}),
        }  # fmt: skip
    spec, status = {"shutdown": shutdown}, {"phase": phase, "nodes": nodes}
    return exit_code(run_of({"metadata": {"name": "w"}, "spec": spec, "status": status}))


def test_exit_codes() -> None:
    assert ended("Succeeded") == 0
    assert ended("Failed", ("blend", 137), ("report", 2)) == 2
    assert ended("Failed", ("report", 2), ("gate", 3)) == 3
    assert ended("Failed", ("plan", 2)) == 2
    assert ended("Failed", ("decompose", 75)) == 4
    assert ended("Failed", ("decompose", None)) == 4
    assert ended("Failed", ("decompose", 2), ("rotations", 4)) == 4
    assert ended("Failed", ("plan", 75), ("report", 2)) == 4
    assert ended("Failed", ("plan", 2), ("report", 2)) == 2
    assert ended("Error", ("report", 2)) == 4
    assert ended("Failed", ("report", 2), shutdown="Stop") == 4
    late = "Pod was active on the node longer than the specified deadline"
    assert ended("Failed", ("decompose", None), said=late) == 5


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        ("Error (exit code 4)", 4, "exit code 4"),
        ("main: Error (exit code 4)", 4, "exit code 4"),
        ("main: OOMKilled (exit code 137)", 137, "exit code 137, OOMKilled"),
        (
            "The node was low on resource: memory.\nmore",
            None,
            "The node was low on resource: memory.",
        ),
        ("", None, "failed"),
    ],
)
def test_why_a_pod_failed_is_said_once(message: str, code: int | None, said: str) -> None:
    task = Task("blend", "alphas/alpha-0.5000/blend", "Failed", message=message, exit_code=code)
    assert reason(task) == said


def test_tasks_are_chosen_by_whole_parts_of_their_path() -> None:
    run = run_of(document("sweep-failed"))
    paths = [task.path for task in chosen(run, step="alpha-0.0000/evaluate")]
    assert paths == [f"alphas/alpha-0.0000/evaluate/sums-00{i}" for i in (0, 1)]
    assert not chosen(run, step="alpha-0")
    assert [task.path for task in chosen(run, failed=True)] == [
        "alphas/alpha-0.5000/blend",
        "report",
    ]
    assert short_name(chosen(run, failed=True)[0]) == "alpha-0.5000/blend"


def test_times_of_log_lines_sort() -> None:
    assert sortable("2026-01-01T00:00:00.1Z") > sortable("2026-01-01T00:00:00.09Z")
    assert sortable("2026-01-01T00:00:00Z") < sortable("2026-01-01T00:00:00.000000001Z")
