"""Where evaluations run, and how many at once. The GPUs are simulated; the scheduler is real."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.cluster_script import SCRIPT
from tests.live.cluster_access import Site
from tests.live.faults import STAGE, sweep
from tests.live.namespaces import Document, Namespace, ended
from tests.live.node_image import parts
from tests.live.sleeping_pods import hollow
from tests.waiting import until

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

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
    assert found["status"]["phase"] == "Succeeded", space.argo("get", "gpus")
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
