"""Logs of a run's pods, each line with a short name of the task before it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from svdjobs import escape
from svdjobs.cluster.api import Cluster, Cut, Document
from svdjobs.cluster.watching.status import ENDED, FAILED, Run, Task, run_of
from svdjobs.cluster.watching.updates import changes
from svdjobs.errors import ConfigError, RefusedError

CONTAINER = "main"
WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
NODE_ANNOTATION = "workflows.argoproj.io/node-id"
# Pods whose logs are followed at the same time; more wait for one of these to end.
STREAMS = 32
# In every line that Argo's executor adds to a container's log.
EXECUTOR = " argo=true"
_PAUSE_SECONDS = 1.0

Write = Callable[[str], None]


def chosen(run: Run, *, step: str | None = None, failed: bool = False) -> list[Task]:
    """The pods a person means: all, the failed ones, or those whose path has `step` in it.

    `step` is one or more whole parts of a path: `blend`, `alpha-0.2000`, `alpha-0.2000/blend`.
    """
    tasks = [t for t in run.leaves() if not failed or t.phase in FAILED]
    return [t for t in tasks if step is None or f"/{step.strip('/')}/" in f"/{t.path}/"]


def short_name(task: Task) -> str:
    """A task's path without the fan-out over alphas: `alpha-0.2000/blend`."""
    parts = task.path.split("/")
    return "/".join(parts[1:] if len(parts) > 2 else parts)


def show(
    cluster: Cluster, workflow: Document, write: Write, *, step: str | None, failed: bool
) -> str:
    """Write the logs there are, in the order the pods were started; returns what is to be said.

    Raises:
        ConfigError: no task of this run is called `step`.
    """
    run = run_of(workflow)
    tasks = _wanted(run, step, failed)
    pods = pods_of(cluster, run.name)
    begun = sorted((t for t in tasks if t.pod_nodes), key=lambda t: str(t.started))
    wanted = [(t, number, node) for t in begun for number, node in enumerate(t.pod_nodes)]
    gone = 0
    for task, number, node in wanted:
        pod = pods.get(node)
        if pod is None or not _copy(cluster, pod, _prefixed(task, number, write), follow=False):
            gone += 1
    if not wanted:
        return "No pod that you asked for has failed." if failed else "No pod has been started yet."
    return gone_words(run, gone, len(wanted)) if gone else ""


def last_lines(cluster: Cluster, run: Run, write: Write, lines: int, pods: int) -> int:
    """Write the end of the logs of a run's failed pods, of the last attempt each; how many failed
    pods are not shown, because there are more than `pods` or they are gone."""
    failed = [task for task in run.failures() if task.pod_nodes]
    there = pods_of(cluster, run.name) if failed else {}
    shown = 0
    for task in failed[:pods]:
        pod = there.get(task.pod_nodes[-1])
        to = _prefixed(task, len(task.pod_nodes) - 1, write)
        shown += pod is not None and _copy(cluster, pod, to, follow=False, last=lines)
    return len(failed) - shown


def follow(
    cluster: Cluster, workflow: Document, write: Write, *, step: str | None, failed: bool
) -> str:
    """Write the logs as they grow, also of pods that start later, until the Workflow has ended."""
    run = run_of(workflow)
    _wanted(run, step, failed)
    seen: set[str] = set()
    gone = 0
    lock = threading.Lock()

    def safely(line: str) -> None:
        with lock:
            write(line)

    def copy(pod: str | None, task: Task, number: int) -> None:
        nonlocal gone
        if pod is None or not _copy(cluster, pod, _prefixed(task, number, safely), follow=True):
            with lock:
                gone += 1

    with ThreadPoolExecutor(STREAMS) as streams:
        for document in changes(cluster, run.name):
            run = run_of(document)
            new = [
                (task, number, node)
                for task in chosen(run, step=step, failed=failed)
                if task.phase not in ("Pending", "Waiting")
                for number, node in enumerate(task.pod_nodes)
                if node not in seen
            ]
            pods = pods_of(cluster, run.name) if new else {}
            for task, number, node in new:
                seen.add(node)
                streams.submit(copy, pods.get(node), task, number)
    return gone_words(run, gone, len(seen)) if gone else ""


def gone_words(run: Run, gone: int, of: int) -> str:
    """What to say of pods that are no more."""
    store = f" {escape.line(run.store)}" if run.store else ""
    return (
        f"{gone} of {of} pods are gone, and their logs with them: finished pods are deleted after "
        f"a while. What they made, and from what, is in the store{store} (the manifest.json of "
        f"each output). If this cluster collects logs, look there for namespace "
        f"{run.namespace}, label {WORKFLOW_LABEL}={run.name}."
    )


def pods_of(cluster: Cluster, name: str) -> dict[str, str]:
    """Names of a Workflow's pods that still exist, by node id."""
    selector = f"{WORKFLOW_LABEL}={name}"
    found = cluster.get(cluster.path("pods", api="/api/v1"), labelSelector=selector)["items"]
    metas = [pod["metadata"] for pod in found]
    return {
        meta["annotations"][NODE_ANNOTATION]: meta["name"]
        for meta in metas
        if NODE_ANNOTATION in (meta.get("annotations") or {})
    }


def _wanted(run: Run, step: str | None, failed: bool) -> list[Task]:
    tasks = chosen(run, step=step, failed=failed)
    if not tasks and step is not None and not chosen(run, step=step):
        names = dict.fromkeys(part for leaf in run.leaves() for part in leaf.path.split("/"))
        raise ConfigError(
            f"Workflow {run.name} has no task {step!r}; its tasks: {', '.join(list(names)[:20])}"
            f"{', …' if len(names) > 20 else ''}. Join names with '/' to choose one, e.g. "
            f"alpha-0.2000/blend."
        )
    return tasks


def _prefixed(task: Task, number: int, write: Write) -> Write:
    again = f" (attempt {number + 1})" if number else ""
    head = f"{short_name(task)}{again}"
    return lambda text: write(escape.line(f"{head} | {escape.uncoloured(text)}"))


def _copy(
    cluster: Cluster, pod: str, write: Write, *, follow: bool, last: int | None = None
) -> bool:
    """Write a pod's log, whatever interrupts; False if the pod is gone before its log was read.
    With `last`, about its last so many lines.

    Every line comes with its time, so that after an interruption nothing is written twice.
    """
    path = f"{cluster.path('pods', pod, api='/api/v1')}/log"
    query = {"container": CONTAINER, "timestamps": "true", **({"follow": "true"} if follow else {})}
    if last is not None:
        query["tailLines"] = str(last)
    newest = ""
    since: dict[str, str] = {}
    while True:
        try:
            for line in cluster.stream(path, **query, **since):
                stamp, _, text = line.partition(" ")
                if sortable(stamp) > newest:
                    newest, since = sortable(stamp), {"sinceTime": stamp}
                    if EXECUTOR not in text:
                        write(text)
            if not follow or _ended(cluster, pod):
                return True
        except Cut:
            pass
        except RefusedError as error:
            if error.status == 404:
                return bool(newest)
            if error.status != 400:
                raise
            if not follow or _ended(cluster, pod):
                return True  # it never got as far as writing a log
        time.sleep(_PAUSE_SECONDS)


def _ended(cluster: Cluster, pod: str) -> bool:
    """Whether a pod's main container writes no more."""
    with suppress(RefusedError):
        status = cluster.get(cluster.path("pods", pod, api="/api/v1")).get("status") or {}
        states = {c["name"]: c.get("state") or {} for c in status.get("containerStatuses") or []}
        return status.get("phase") in ENDED or "terminated" in states.get(CONTAINER, {})
    return True


def sortable(stamp: str) -> str:
    """A time as written beside a log line, with all nine digits: trailing zeros are left out."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}"
