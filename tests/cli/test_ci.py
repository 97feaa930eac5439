"""`svdjobs ci run`: its exit code, its folder and its summary."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from svdjobs.ci.fetch_results import clear
from svdjobs.config import SweepConfig
from tests.ci.test_cluster import NAME, Api, finished
from tests.cluster.api_server import answering
from tests.forked import run as svdjobs

MakeConfig = Callable[..., SweepConfig]


@pytest.fixture
def config_file(make_config: MakeConfig, tmp_path: Path) -> Path:
    config = make_config(alphas=[], rotations=None, gate={"margin": 0.02})
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return path


def ci(folder: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `svdjobs ci run` in a folder, to which it writes."""
    step = {"GITHUB_STEP_SUMMARY": str(folder / "step.md")}
    return svdjobs("ci", "run", *words, cwd=folder, env={**os.environ, **step, **environment})


def test_on_this_machine(config_file: Path, tmp_path: Path) -> None:
    """The second run does no finished work again, and appends to the step's summary."""
    store = f"{tmp_path}/ci/{{name}}"
    done = ci(tmp_path, config_file, "--local", "--store", store)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "ci-report"
    assert not (tmp_path / "ci/mini/factors").exists()  # nothing is blended, nothing rotated
    there = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {"summary.md", "report/report.html", "report/junit.xml", "gate/junit.xml"} <= there
    summary = (folder / "summary.md").read_text()
    assert summary.startswith("## Gate: inconclusive, which passes")
    assert "| sums | 0.0 % | 0.0 % | 0 (same scores) | inconclusive | " in summary
    assert f"Report: {tmp_path}/ci/mini/report/report.html" in summary
    assert (tmp_path / "step.md").read_text() == f"{summary}\n"
    assert "Gate: inconclusive" in done.stdout
    strict = ["--set", "gate.inconclusive=fail"]
    again = ci(tmp_path, config_file, "--local", "--store", store, *strict)
    assert again.returncode == 3, again.stderr
    assert "evaluate" not in again.stderr
    assert (tmp_path / "step.md").read_text().count("## Gate: inconclusive, which") == 2


def test_what_fails_is_in_the_summary(config_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out" / "gate").mkdir(parents=True)
    (tmp_path / "out/gate/junit.xml").write_text("<testsuites/>")
    missing = ["--set", f"gate.baseline={tmp_path}/nowhere", "--into", "out"]
    done = ci(tmp_path, config_file, "--local", *missing)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    summary = (tmp_path / "out/summary.md").read_text()
    assert summary.startswith("## mini: incomplete, or not possible as configured")
    assert not (tmp_path / "out/gate").exists()  # the verdict of an earlier job is removed
    assert f"{tmp_path}/nowhere/results/after/sums" in summary
    assert (tmp_path / "out/report/report.html").exists()


def test_what_an_earlier_job_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("report/junit.xml", "report/figures/a.png", "gate/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    clear(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["notes.txt"]
    clear(tmp_path / "none")


def test_out_of_time_on_this_machine(config_file: Path, tmp_path: Path) -> None:
    done = ci(
        tmp_path, config_file, "--local", "--timeout", "1s", "--set", "evaluate.n_samples=200"
    )
    assert done.returncode == 5, done.stderr
    assert "did not end within the 1 s of --timeout" in done.stdout
    summary = (tmp_path / "ci-report/summary.md").read_text()
    assert summary.startswith("## mini: out of time; nothing was judged")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--timeout", "6"], "--timeout '6': expected a positive number and s, m, h or d"),
        (["--timeout", "0h"], "--timeout '0h'"),
        (["--local", "--from-template", "x"], "--local takes no options of a cluster"),
        (["--file", "x", "--from-template", "x"], "give either --file or --from-template"),
        (["--set", "gate.marign=1"], "did you mean 'margin'"),
    ],
)
def test_wrong_use(words: list[str], said: str, config_file: Path, tmp_path: Path) -> None:
    done = ci(tmp_path, config_file, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def workflow_file(tmp_path: Path) -> Path:
    path = tmp_path / "workflow.yaml"
    names = [{"name": "config"}, {"name": "store"}]
    document = {"kind": "Workflow", "spec": {"arguments": {"parameters": names}}}
    path.write_text(yaml.safe_dump(document))
    return path


def on_cluster(folder: Path, api: Api, *words: object) -> subprocess.CompletedProcess[str]:
    """Run `svdjobs ci run` against an API server that answers with `api`."""
    with answering(api) as server:
        address = server.cluster().server
        kubeconfig = {
            "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "c", "user": {"token": "t"}}],
            "contexts": [
                {"name": "c", "context": {"cluster": "c", "user": "c", "namespace": "here"}}
            ],
        }
        (folder / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
        return ci(folder, *words, KUBECONFIG=str(folder / "kubeconfig"))


def test_on_a_cluster(config_file: Path, workflow_file: Path, tmp_path: Path) -> None:
    """The exit code comes from the Workflow; report and gate come from its store, here a folder."""
    own = ["--local", "--store", f"{tmp_path}/run", "--into", "own"]
    assert ci(tmp_path, config_file, *own).returncode == 0
    given = [config_file, "--store", "s3://bucket/{name}", "--file", workflow_file]
    ended = finished("Failed", ("report", 0), ("gate", 3), store=f"{tmp_path}/run")
    api = Api(ended)
    done = on_cluster(tmp_path, api, *given, "--timeout", "1h")
    assert done.returncode == 3, done.stderr
    (made,) = api.made
    values = {p["name"]: p["value"] for p in made["spec"]["arguments"]["parameters"]}
    assert values["store"] == "s3://bucket/mini"
    assert made["spec"]["activeDeadlineSeconds"] == 3600
    assert "report | missing: alpha" not in done.stdout  # report did not fail
    assert "benchmark" in done.stdout
    summary = (tmp_path / "ci-report/summary.md").read_text()
    assert summary.startswith("## Gate: ")
    assert f"Look further: `svdjobs workflow logs {NAME} --namespace here --failed`" in summary
    assert (tmp_path / "ci-report/gate/junit.xml").exists()


def test_a_store_that_cannot_be_read_from_here(
    config_file: Path, workflow_file: Path, tmp_path: Path
) -> None:
    given = [config_file, "--store", "s3://bucket/x", "--file", workflow_file]
    ended = finished("Failed", ("report", 2), store=f"{tmp_path}/elsewhere")
    done = on_cluster(tmp_path, Api(ended), *given)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"The store {tmp_path}/elsewhere cannot be read from here" in done.stdout
    assert "report | missing: alpha-0.5000" in done.stdout
    summary = (tmp_path / "ci-report/summary.md").read_text()
    assert summary.startswith("## mini: incomplete")
    assert f"In the store: {tmp_path}/elsewhere/report" in summary
