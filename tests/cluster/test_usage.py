"""Hours of pods, CPUs and GPUs, from a Workflow's document."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from svdjobs.cluster.watching.usage import Used, document, sentence, usage_of, words

DOCUMENTS = Path(__file__).parent / "documents"
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def pod(
    name: str, template: str, hours: float | None, phase: str = "Succeeded", **noted: int
) -> Any:
    """A pod that began at ten."""
    node = {
        "name": f"w.{name}", "type": "Pod", "templateName": template, "phase": phase,
        "startedAt": "2026-01-01T10:00:00Z", "finishedAt": None,
        "resourcesDuration": {key.replace("gpu", "nvidia.com/gpu"): n for key, n in noted.items()},
    }  # fmt: skip
    if hours is not None:
        node["finishedAt"] = f"2026-01-01T{10 + int(hours):02d}:{int(hours % 1 * 60):02d}:00Z"
    return node


def planted() -> Any:
    nodes = [
        pod("plan", "plan", 0.5, cpu=900, memory=100),
        pod("alphas(0:alpha-0.0000).blend", "blend", 1, cpu=7200),
        pod("alphas(0:alpha-0.0000).evaluate(0:demo-000)", "evaluate", 1, cpu=3600, gpu=3600),
        pod("alphas(1:alpha-0.5000).evaluate(0:demo-000)(0)", "evaluate", 1, "Failed", gpu=1800),
        pod("alphas(1:alpha-0.5000).evaluate(0:demo-000)(1)", "evaluate", None, "Running"),
        {"name": "w", "type": "DAG", "templateName": "sweep"},
    ]
    return {
        "metadata": {"name": "w"},
        "spec": {"arguments": {"parameters": [{"name": "gpus", "value": "2"}]}},
        "status": {"nodes": {str(i): node for i, node in enumerate(nodes)}},
    }


def test_hours_add_up_by_stage_and_by_alpha() -> None:
    found = usage_of(planted(), NOW)
    assert found.by_stage["plan"] == Used(1, 0, 1800, 900, 0)
    # 1 h and half an hour that Argo noted, and 2 GPUs for the 2 h since the pod that runs was made
    assert found.by_stage["evaluate"] == Used(3, 1, 4 * 3600, 3600, 3600 + 1800 + 2 * 7200)
    assert found.by_alpha == {
        "alpha-0.0000": Used(2, 0, 7200, 10800, 3600),
        "alpha-0.5000": Used(2, 1, 3 * 3600, 0, 1800 + 2 * 7200),
    }
    assert found.total == Used(5, 1, 1800 + 3600 + 4 * 3600, 900 + 7200 + 3600, 19800)
    assert sentence(found) == "Its 5 pods took 5.50 h: 3.25 h of CPUs, 5.50 h of GPUs."
    assert not sentence(found._replace(note="its nodes are elsewhere"))
    lines = list(words(found))
    assert max(map(len, lines)) <= 100
    (row,) = (line.split() for line in lines if line.startswith("evaluate"))
    assert row == ["evaluate", "3", "1", "4.00", "1.00", "5.50"]


def test_the_gpus_of_a_workflow_from_a_template() -> None:
    given = planted()
    given["status"]["storedWorkflowTemplateSpec"] = {"arguments": given["spec"].pop("arguments")}
    assert usage_of(given, NOW).total == usage_of(planted(), NOW).total


@pytest.mark.parametrize("name", ["sweep-failed", "sweep-running", "fan-out-running"])
def test_documents_of_a_real_cluster(name: str) -> None:
    saved = json.loads((DOCUMENTS / f"{name}.json").read_text())
    found = usage_of(saved, NOW)
    pods = [n for n in saved["status"]["nodes"].values() if n["type"] == "Pod"]
    assert found.total.pods == len(pods) > 0
    assert found.total.gpu == 0
    assert json.loads(json.dumps(document(found)))["total"]["pods"] == len(pods)


def test_nodes_that_the_controller_keeps_elsewhere_are_said_to_be_missing() -> None:
    given = {"metadata": {"name": "w"}, "status": {"offloadNodeStatusVersion": "1"}}
    assert "database" in "\n".join(words(usage_of(given, NOW)))
