"""A simulated node ("paper node"): its pods succeed at once, and nothing runs.

It measures sweeps that are too large for a small machine. The API server, the scheduler and the
workflow controller are real; the kubelet and Argo's executor are simulated.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from svdjobs.cluster.api import ARGO, Cluster, StreamInterruption
from svdjobs.errors import SvdjobsError
from tests.live.namespaces import Document

NODE = "svdjobs-paper"
LABEL = {"svdjobs.io/paper": "true"}
TOLERATION = {"key": "svdjobs.io/paper", "operator": "Exists"}
NODE_ID = "workflows.argoproj.io/node-id"
# The controller manager considers a node dead after 40 s without a heartbeat.
SIGN_OF_LIFE_SECONDS = 10


@contextmanager
def paper_node(api: Cluster, outputs: Mapping[str, Mapping[str, Any]]) -> Iterator[None]:
    """Simulate the node during the block. `outputs` has the output parameters of each stage."""
    over = threading.Event()
    node = {
        "metadata": {"name": NODE, "labels": LABEL},
        "spec": {"taints": [{"key": TOLERATION["key"], "effect": "NoSchedule"}]},
    }
    api.create("/api/v1/nodes", node)
    threads = [
        threading.Thread(target=work, args=(api, over, *more), daemon=True)
        for work, *more in ((_live,), (_run, outputs))
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        api.delete(f"/api/v1/nodes/{NODE}")
        for thread in threads:
            thread.join(60)


def _live(api: Cluster, over: threading.Event) -> None:
    """Report again and again that the node is ready and has room."""
    room = {"cpu": "100000", "memory": "1000Ti", "ephemeral-storage": "1000Ti", "pods": "20000"}
    while not over.is_set():
        now = _text(datetime.now(UTC))
        ready = {
            "type": "Ready", "status": "True", "reason": "Paper", "message": "on paper",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }  # fmt: skip
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        with suppress(SvdjobsError):
            api.patch(f"/api/v1/nodes/{NODE}/status", {"status": status})
        over.wait(SIGN_OF_LIFE_SECONDS)


def _run(api: Cluster, over: threading.Event, outputs: Mapping[str, Mapping[str, Any]]) -> None:
    """Let every pod of the namespace on this node succeed, and remove deleted pods."""
    pods = api.path("pods", api="/api/v1")
    begun: set[str] = set()
    with ThreadPoolExecutor(8) as pool:
        while not over.is_set():
            try:
                events = api.stream(
                    pods, watch="true", timeoutSeconds=20, fieldSelector=f"spec.nodeName={NODE}"
                )
                for line in events:
                    event = json.loads(line)
                    pod = event["object"]
                    if event["type"] not in ("ADDED", "MODIFIED"):
                        continue
                    uid = pod["metadata"]["uid"]
                    if "deletionTimestamp" in pod["metadata"]:
                        pool.submit(_forget, api, pod)
                    elif uid not in begun:
                        begun.add(uid)
                        pool.submit(_succeed, api, pod, outputs)
            except (StreamInterruption, SvdjobsError):
                time.sleep(0.2)


def _forget(api: Cluster, pod: Document) -> None:
    """Remove a deleted pod, as a kubelet does when the containers have ended."""
    path = api.path("pods", pod["metadata"]["name"], api="/api/v1")
    with suppress(SvdjobsError):
        api.delete(f"{path}?gracePeriodSeconds=0")


def _succeed(api: Cluster, pod: Document, outputs: Mapping[str, Mapping[str, Any]]) -> None:
    """Report the end of a pod, as Argo's executor and the kubelet do."""
    meta = pod["metadata"]
    (owner,) = meta["ownerReferences"]
    written = outputs.get(meta["labels"].get("svdjobs.io/stage", ""), {})
    parameters = [
        {
            "name": name,
            "value": json.dumps(value),
            "valueFrom": {"path": f"/scratch/units/{name}.json", "default": "[]"},
        }
        for name, value in written.items()
    ]
    result: Document = {
        "apiVersion": ARGO.removeprefix("/apis/"),
        "kind": "WorkflowTaskResult",
        "metadata": {
            "name": meta["annotations"][NODE_ID],
            "ownerReferences": [{k: owner[k] for k in ("apiVersion", "kind", "name", "uid")}],
            "labels": {
                "workflows.argoproj.io/workflow": owner["name"],
                "workflows.argoproj.io/report-outputs-completed": "true",
            },
        },
        **({"outputs": {"parameters": parameters}} if parameters else {}),
    }
    api.create(api.path("workflowtaskresults"), result)
    begun = datetime.now(UTC)
    # Durations vary, up to two hours: equal times would compress better than real ones.
    over = begun + timedelta(seconds=zlib.crc32(meta["name"].encode()) % 7200)
    now = _text(begun)
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": now, "finishedAt": _text(over)}
    status = {
        "phase": "Succeeded", "startTime": now, "podIP": "10.244.255.1", "hostIP": "10.244.255.2",
        "containerStatuses": [
            {
                "name": container["name"], "image": container["image"], "imageID": "",
                "ready": False, "restartCount": 0, "state": {"terminated": ended},
            }
            for container in pod["spec"]["containers"]
        ],
    }  # fmt: skip
    with suppress(SvdjobsError):
        api.patch(api.path("pods", f"{meta['name']}/status", api="/api/v1"), {"status": status})


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
