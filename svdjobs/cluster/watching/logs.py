"""Write the logs of a run's pods; each line begins with a short name of its task."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from svdjobs import escape
from svdjobs.cluster.api import Cluster, Document, StreamInterruption
from svdjobs.cluster.watching.status import ENDED, FAILED, Task, WorkflowTree, run_of
from svdjobs.cluster.watching.updates import changes
from svdjobs.errors import ConfigError, RefusedError

CONTAINER = "main"
WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
NODE_ANNOTATION = "workflows.argoproj.io/node-id"
# Most logs that are followed at a time; the others wait until one of these ends.
STREAMS = 32
# Argo's executor adds lines to a container's log. Each of them contains this.
EXECUTOR = " argo=true"
_PAUSE_SECONDS = 1.0

Write = Callable[[str], None]


def chosen(run: WorkflowTree, *, step: str | None = None, failed: bool = False) -> list[Task]:
    """The pods of a run; with `failed` only those that failed, with `step` only those under it.

    `step` is one or more whole parts of a path: `blend`, `alpha-0.2000`, `alpha-0.2000/blend`.
    """
    tasks = [t for t in run.leaves() if not failed or t.phase in FAILED]
    # The slashes keep `alpha-0` from matching `alpha-0.2000`.
    return [t for t in tasks if step is None or f"/{step.strip('/')}/" in f"/{t.path}/"]


def short_name(task: Task) -> str:
    """A task's path without the fan-out over alphas: `alpha-0.2000/blend`."""
    parts = task.path.split("/")
    return "/".join(parts[1:] if len(parts) > 2 else parts)


def show(
    cluster: Cluster, workflow: Document, write: Write, *, step: str | None, failed: bool
) -> str:
    """Write the logs of the pods that still exist, in the order in which they started.

    Return a remark for the user, e.g. how many pods are gone; empty if there is none.

    Raises:
        ConfigError: no task of this run is called `step`.
    """
    run = run_of(workflow)
    tasks = _choose(run, step, failed)
    pods = _pod_names(cluster, run.name)
    started = sorted((t for t in tasks if t.pod_nodes), key=lambda t: str(t.started))
    attempts = [(t, number, node) for t in started for number, node in enumerate(t.pod_nodes)]
    gone = 0
    for task, number, node in attempts:
        pod = pods.get(node)
        if pod is None or not _copy(cluster, pod, _with_name(task, number, write), follow=False):
            gone += 1
    if not attempts:
        return "No such pod has failed." if failed else "No such pod has started yet."
    return gone_words(run, gone, len(attempts)) if gone else ""


def last_lines(cluster: Cluster, run: WorkflowTree, write: Write, lines: int, pods: int) -> int:
    """Write the last lines of each failed pod's last attempt, of at most `pods` pods.

    Return how many failed pods are not shown: they are more than `pods`, or gone.
    """
    failed = [task for task in run.failures() if task.pod_nodes]
    existing = _pod_names(cluster, run.name) if failed else {}
    shown = 0
    for task in failed[:pods]:
        pod = existing.get(task.pod_nodes[-1])
        to = _with_name(task, len(task.pod_nodes) - 1, write)
        shown += pod is not None and _copy(cluster, pod, to, follow=False, last=lines)
    return len(failed) - shown


def follow(
    cluster: Cluster, workflow: Document, write: Write, *, step: str | None, failed: bool
) -> str:
    """Write the logs as they grow, also those of pods that start later, until the Workflow ends.

    Return a remark for the user on pods that are gone; empty if there is none.

    Raises:
        ConfigError: no task of this run is called `step`.
    """
    run = run_of(workflow)
    _choose(run, step, failed)  # for its error
    seen: set[str] = set()
    gone = 0
    lock = threading.Lock()

    def safely(line: str) -> None:
        with lock:
            write(line)

    def copy(pod: str | None, task: Task, number: int) -> None:
        nonlocal gone
        if pod is None or not _copy(cluster, pod, _with_name(task, number, safely), follow=True):
            with lock:
                gone += 1

    copies: list[Future[None]] = []
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
            pods = _pod_names(cluster, run.name) if new else {}
            for task, number, node in new:
                seen.add(node)
                copies.append(streams.submit(copy, pods.get(node), task, number))
    for one in copies:
        one.result()  # a log that the cluster refuses is an error, not an empty log
    return gone_words(run, gone, len(seen)) if gone else ""


def gone_words(run: WorkflowTree, gone: int, of: int) -> str:
    """A remark for the user on pods whose logs cannot be shown."""
    store = f" {escape.line(run.store)}" if run.store else ""
    return (
        f"{gone} of {of} pods are gone, and their logs with them: finished pods are deleted after "
        f"a while. Their outputs are in the store{store}; the manifest.json of each output names "
        f"its inputs. If this cluster collects logs, look there for namespace {run.namespace}, "
        f"label {WORKFLOW_LABEL}={run.name}."
    )


def pods_of(cluster: Cluster, name: str) -> dict[str, Document]:
    """A Workflow's pods that still exist, by node id."""
    selector = f"{WORKFLOW_LABEL}={name}"
    pods = cluster.get(cluster.path("pods", api="/api/v1"), labelSelector=selector)["items"]
    return {
        notes[NODE_ANNOTATION]: pod
        for pod in pods
        if NODE_ANNOTATION in (notes := pod["metadata"].get("annotations") or {})
    }


def _pod_names(cluster: Cluster, name: str) -> dict[str, str]:
    pods = pods_of(cluster, name)
    return {node: pod["metadata"]["name"] for node, pod in pods.items()}


def _choose(run: WorkflowTree, step: str | None, failed: bool) -> list[Task]:
    """The pods of a run as `chosen` finds them.

    Raises:
        ConfigError: no task of this run is called `step`.
    """
    tasks = chosen(run, step=step, failed=failed)
    if not tasks and step is not None and not chosen(run, step=step):
        names = dict.fromkeys(part for leaf in run.leaves() for part in leaf.path.split("/"))
        raise ConfigError(
            f"Workflow {run.name} has no task {step!r}; its tasks: {', '.join(list(names)[:20])}"
            f"{', …' if len(names) > 20 else ''}. Join names with '/' to choose one, e.g. "
            f"alpha-0.2000/blend."
        )
    return tasks


def _with_name(task: Task, number: int, write: Write) -> Write:
    """A function that writes a log line with the task's name and attempt before it."""
    attempt = f" (attempt {number + 1})" if number else ""
    head = f"{short_name(task)}{attempt}"
    return lambda text: write(escape.line(f"{head} | {escape.uncoloured(text)}"))


def _copy(
    cluster: Cluster, pod: str, write: Write, *, follow: bool, last: int | None = None
) -> bool:
    """Write a pod's log, with `last` only about that many lines at its end.

    Return False if the pod was gone before any line was read. If the stream is cut, it is opened
    again from the time of the last line, and no line is written twice.
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
        except StreamInterruption:
            pass
        except RefusedError as error:
            if error.status == 404:
                return bool(newest)
            if error.status != 400:
                raise
            if not follow or _ended(cluster, pod):
                return True  # the container has not started, so there is no log
        time.sleep(_PAUSE_SECONDS)


def _ended(cluster: Cluster, pod: str) -> bool:
    """Whether a pod's main container has ended; true for any refusal, e.g. if the pod is gone."""
    with suppress(RefusedError):
        status = cluster.get(cluster.path("pods", pod, api="/api/v1")).get("status") or {}
        states = {c["name"]: c.get("state") or {} for c in status.get("containerStatuses") or []}
        return status.get("phase") in ENDED or "terminated" in states.get(CONTAINER, {})
    return True


def sortable(stamp: str) -> str:
    """The time of a log line in a form that sorts: Kubernetes leaves out trailing zeros of the
    fraction, which are added again."""
    whole, _, fraction = stamp.rstrip("Z").partition(".")
    return f"{whole}.{fraction:0<9}"
