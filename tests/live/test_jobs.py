"""A sweep as plain Jobs, file after file: one pod is deleted, one index fails in every attempt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from svdjobs.cluster.manifests.settings import load_settings
from svdjobs.storage.objects import write_bytes
from tests.images.parsed import ROOT
from tests.live.cluster_access import Site
from tests.live.namespaces import Document, Namespace, manifests
from tests.live.node_image import parts
from tests.live.sweeps import SWEEP, contents, run_here
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

TRIED = "batch.kubernetes.io/job-index-failure-count"
INDEX = "batch.kubernetes.io/job-completion-index"
BROKEN = "checkpoints/alpha-0.0000/manifest.json"
ONE_SHARE = SWEEP.replace("  shards: 2\n", "")


class Jobs:
    """The manifests of a sweep, rendered for one namespace."""

    def __init__(self, space: Namespace, folder: Path) -> None:
        self.space = space
        self.files = sorted((folder / "jobs" / "kubernetes").glob("*.yaml"))
        self.applied: set[str] = set()

    def apply(self, stage: str) -> str:
        """Apply the file of a stage; return the name of its Job."""
        self.applied.add(stage)
        (file,) = (one for one in self.files if one.stem[3:] == stage)
        self.space.kubectl("apply", "-f", str(file))
        return str(list(yaml.safe_load_all(file.read_text()))[-1]["metadata"]["name"])

    def wait(self, name: str, condition: str = "Complete") -> Document:
        limit = ("--timeout=300s", f"--for=condition={condition}")
        self.space.kubectl("wait", *limit, f"job/{name}", timeout=320)
        found: Document = self.space.object("jobs", name)["status"]
        return found

    def pods(self, name: str) -> list[Document]:
        return self.space.objects("pods", f"batch.kubernetes.io/job-name={name}")


@pytest.fixture
def jobs(image: str, make_namespace: Callable[..., Namespace], tmp_path: Path) -> Jobs:
    space = make_namespace("svdjobs-jobs", account=False)
    config, settings = tmp_path / "sweep.yaml", tmp_path / "settings.yaml"
    config.write_text(ONE_SHARE)
    given = load_settings(ROOT / "workflows" / "demo-settings.yaml").model_dump(mode="json")
    given |= {"images": parts(image), "store": space.url()}
    settings.write_text(yaml.safe_dump(given))
    options = ("--settings", str(settings), "--into", str(tmp_path))
    space.tool("workflow", "render", str(config), *options)
    return Jobs(space, tmp_path)


def test_a_sweep_file_after_file(jobs: Jobs, cluster: Site, tmp_path: Path) -> None:
    jobs.space.kubectl("apply", "-f", str(jobs.files[0]))
    jobs.wait(jobs.apply("plan"))

    decompose = jobs.apply("decompose")
    victim = until(lambda: running(jobs, decompose), 60, "a pod of decompose runs", pause=0.2)
    jobs.space.kubectl("delete", "pod", victim["metadata"]["name"], "--wait=false")
    assert jobs.wait(decompose)["completedIndexes"] == "0-7"
    again = [pod for pod in jobs.pods(decompose) if annotation(pod, TRIED) not in (None, "0")]
    assert [annotation(pod, INDEX) for pod in again] == [annotation(victim, INDEX)]

    beside = [jobs.apply(stage) for stage in ("evaluate-after", "rotations", "metrics")]
    write_bytes(jobs.space.store(), BROKEN, b'{"this is": "no manifest"}')
    blend = jobs.apply("blend")
    status = jobs.wait(blend, "Failed")
    assert (status["failedIndexes"], status["completedIndexes"]) == ("0", "1")
    assert [annotation(pod, INDEX) for pod in jobs.pods(blend)].count("0") == 1, "for good"

    jobs.space.store().delete(BROKEN)
    before = manifests(jobs.space.store())
    jobs.space.kubectl("delete", "job", blend)
    jobs.wait(jobs.apply("blend"))
    after = manifests(jobs.space.store())
    assert {key for key in after if before.get(key) != after[key]} >= {BROKEN}
    kept = {key for key in before if key.startswith(("factors/", "checkpoints/"))}
    assert {key: after[key] for key in kept} == {key: before[key] for key in kept}

    for name in (*beside, jobs.apply("evaluate")):
        jobs.wait(name)
    assert {file.stem[3:] for file in jobs.files[1:]} - jobs.applied == {"report"}
    jobs.wait(jobs.apply("report"))
    there = contents(jobs.space.store())
    here = contents(run_here(cluster, ONE_SHARE, tmp_path / "here"))
    assert sorted(there) == sorted(here)
    assert [key for key in here if here[key] != there[key]] == []


def running(jobs: Jobs, name: str) -> Document | None:
    """A pod of a Job whose container has started."""
    for pod in jobs.pods(name):
        states = [one["state"] for one in pod["status"].get("containerStatuses", [])]
        if any("running" in state for state in states):
            return pod
    return None


def annotation(pod: Document, key: str) -> str | None:
    found: str | None = pod["metadata"]["annotations"].get(key)
    return found
