"""Where evaluations run, and how many at once. The GPUs are simulated; the scheduler is real."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.checkpoint.hub import serving
from tests.cluster_script import SCRIPT
from tests.images.parsed import ROOT
from tests.live.cluster_access import Site
from tests.live.faults import STAGE, sweep
from tests.live.namespaces import Document, Namespace, ended
from tests.live.node_image import parts, submitted_with
from tests.live.sleeping_pods import hollow
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

WORKFLOW = ROOT / "workflows" / "sweep.yaml"
DEMO = ROOT / "svdjobs" / "demo" / "checkpoints"
GPU = "nvidia.com/gpu"
PRODUCT = "NVIDIA-H100-80GB-HBM3"
PLANNED = {
    "decompose": ["before-000", "after-000"],
    "alphas": ["alpha-0.0000"],
    "baselines": ["before"],
    "evaluate": ["demo-000", "demo-001"],
    "rotations": True,
    "metrics": False,
    "gate": False,
}
EVALUATIONS = 6
AT_ONCE = 2


@pytest.fixture
def gpus(cluster: Site) -> Iterator[Callable[[int], None]]:
    """A function that sets the number of the node's GPUs; the end removes GPUs and labels."""
    if not cluster.local:
        pytest.skip("NO SIMULATED GPUS: only the cluster of SVDJOBS_CLUSTER can simulate them")

    def give(count: int) -> None:
        cluster.run(SCRIPT, "gpus", str(count), PRODUCT)

    yield give
    give(0)
    labels = (f"{GPU}.present", f"{GPU}.product")
    cluster.run("kubectl", "label", "nodes", "-l", labels[0], *(f"{name}-" for name in labels))


def requested(pod: Document) -> set[str]:
    """The numbers of GPUs that a pod's containers request."""
    return {
        container["resources"]["requests"][GPU]
        for container in pod["spec"]["containers"]
        if GPU in container.get("resources", {}).get("requests", {})
    }


def refused(pod: Document) -> str:
    """Why the scheduler found no node for a pod; empty if it found one."""
    for condition in pod["status"].get("conditions", []):
        if (condition["type"], condition["status"]) == ("PodScheduled", "False"):
            return str(condition["message"])
    return ""


def evaluates(pod: Document) -> bool:
    return bool(pod["metadata"]["labels"][STAGE] == "evaluate")


MODELS = {
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": DEMO / "base",
    "agentica-org/DeepScaleR-1.5B-Preview": DEMO / "rl2",
}


def test_the_sweep_on_gpus_as_it_is_submitted(
    gpus: Callable[[int], None],
    cluster: Site,
    image: str,
    make_namespace: Callable[..., Namespace],
    tmp_path: Path,
) -> None:
    """`argo submit workflows/sweep.yaml`: a hub has small weights under the names of the pair, the
    questions are few, the pods ask for what this node has, and engines compute on its CPUs."""
    gpus(2)
    with serving(dict(MODELS), cluster.address) as hub:
        space = make_namespace("svdjobs-real")
        given = {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1"}
        secret = {"metadata": {"name": "svdjobs-store"}, "stringData": given}
        space.apply({"apiVersion": "v1", "kind": "Secret", **secret})
        path = tmp_path / "sweep.yaml"
        path.write_text(yaml.safe_dump(smaller(yaml.safe_load(WORKFLOW.read_text()))))
        options = ["-p", f"store={space.url()}", *submitted_with(image)]
        name = space.argo("submit", str(path), "-o", "name", *options).split()[-1]
        seen: dict[str, Document] = {}
        deadline = time.monotonic() + 600
        while not (found := ended(space.object("workflows", name))):
            assert time.monotonic() < deadline, space.argo("get", name)
            seen.update((pod["metadata"]["name"], pod) for pod in space.objects("pods"))
            time.sleep(0.3)
        space.check(found)
        weights = sum(p.stat().st_size for f in MODELS.values() for p in f.glob("*.safetensors"))
        assert weights < hub.weight_bytes < 1.5 * weights, "the weights once, and headers for plan"
    engines = [pod for pod in seen.values() if evaluates(pod)]
    assert len(engines) == 2
    for pod in seen.values():
        assert requested(pod) == ({"1"} if evaluates(pod) else set())
        wanted = pod["spec"].get("nodeSelector", {}).get(f"{GPU}.product")
        assert wanted == (PRODUCT if evaluates(pod) else None)
    names = {
        container["image"].rpartition("/")[2]
        for pod in seen.values()
        for container in pod["spec"]["containers"]
    }
    tag = parts(image)["tag"]
    stages = ("plan", "fetch", "decompose", "blend", "metrics", "evaluate", "report")
    assert names >= {f"svdjobs-{stage}:{tag}" for stage in stages}
    kept = space.store().sizes("")
    weights_of_blends = r"checkpoints/[^/]+/[^/]+\.safetensors"
    assert not [key for key in kept if re.fullmatch(weights_of_blends, key)]
    assert (
        sum(key.startswith("likelihoods/") and key.endswith("manifest.json") for key in kept) >= 7
    )
    assert "report/report.html" in kept
    assert re.search(r"evaluate .*\d", space.svdjobs("workflow", "usage", name))


def smaller(workflow: Document) -> Document:
    """The Workflow with few questions, and with requests that a small node can grant."""
    (config,) = (p for p in workflow["spec"]["arguments"]["parameters"] if p["name"] == "config")
    sweep = yaml.safe_load(config["value"])
    sweep["evaluate"] |= {
        "benchmarks": [{"name": "demo", "limit": 6}], "prompt": "plain", "n_samples": 2,
        "max_tokens": 32, "engine": "transformers", "engines": 2, "shards": 2,
    }  # fmt: skip
    config["value"] = yaml.safe_dump({**sweep, "metrics": {"null_draws": 1}})
    for template in workflow["spec"]["templates"]:
        if container := template.get("container"):
            asked = {"cpu": "50m", "memory": "64Mi", "ephemeral-storage": "64Mi"}
            most = {"memory": "8Gi", "ephemeral-storage": "4Gi"}
            container["resources"] = {"requests": asked, "limits": most}
    return dict(workflow)


def test_evaluations_wait_for_gpus_and_nothing_else_does(
    gpus: Callable[[int], None], image: str, make_namespace: Callable[..., Namespace]
) -> None:
    """The semaphore allows two evaluations. With one GPU, one of them waits for the GPU; with four
    GPUs, still only two run."""
    space = make_namespace("svdjobs-gpus")
    limits = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "limits"}}
    space.apply({**limits, "data": {"evaluate": str(AT_ONCE)}})
    real = sweep(
        space, "gpus", "{name: gpus, before: a/b, after: c/d}", image=image,
        images={**parts(image), "evaluate": image},
        limits={"semaphore": "limits", "parallelism": 16},
        gpu={"count": 1, "shared_memory": "64Mi", "node_selector": {f"{GPU}.product": PRODUCT}},
    )  # fmt: skip
    gpus(1)
    space.apply(hollow(real, PLANNED, {"evaluate": 6}))
    seen: dict[str, Document] = {}

    def look() -> list[Document]:
        now = space.objects("pods")
        seen.update((pod["metadata"]["name"], pod) for pod in now)
        waiting = [pod for pod in now if f"Insufficient {GPU}" in refused(pod)]
        assert all(map(evaluates, waiting)), waiting
        return waiting

    until(look, 150, "an evaluation waits for a GPU", 0.3)
    until(lambda: sum(map(busy, space.objects("pods"))) == 1, 60, "the other one has it", 0.3)
    gpus(4)
    most = 0
    deadline = time.monotonic() + 600
    while not (found := ended(space.object("workflows", "gpus"))):
        assert time.monotonic() < deadline, space.argo("get", "gpus")
        look()
        most = max(most, sum(busy(pod) for pod in space.objects("pods")))
        time.sleep(0.3)
    space.check(found)
    assert most == AT_ONCE
    assert sum(map(evaluates, seen.values())) == EVALUATIONS
    for pod in seen.values():
        taints = {item.get("key") for item in pod["spec"].get("tolerations", [])}
        assert requested(pod) == ({"1"} if evaluates(pod) else set())
        assert (GPU in taints) == evaluates(pod)
        assert pod["spec"].get("nodeSelector") == (
            {f"{GPU}.product": PRODUCT} if evaluates(pod) else None
        )


def busy(pod: Document) -> bool:
    """Whether a pod evaluates now."""
    statuses = pod["status"].get("containerStatuses", [])
    own = [status["state"] for status in statuses if status["name"] == "main"]
    return evaluates(pod) and any("running" in state for state in own)
