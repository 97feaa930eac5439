"""Turn the document of an Argo Workflow into a tree of tasks. Pure: tested on saved documents.

Argo keeps a flat map of nodes. A node's `boundaryID` is the DAG it belongs to. The items of a
fan-out are named `evaluate(3:math-500-001)`, beside a TaskGroup node `evaluate`. The attempts of a
pod are named `blend(0)`, below a Retry node `blend`. A task that has not started has no node, so
the waiting tasks, their order and the size of a fan-out come from the templates.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from svdjobs.errors import (
    EXIT_INFRASTRUCTURE,
    EXIT_OK,
    EXIT_REGRESSION,
    EXIT_TIMED_OUT,
    EXIT_USAGE,
)

RUN_LABEL = "svdjobs.io/run"
FAILED = ("Failed", "Error")
ENDED = ("Succeeded", "Failed", "Error", "Skipped", "Omitted")
WAITING = "Waiting"
# The stages whose exit code is the sweep's, in order of precedence.
VERDICTS = ("gate", "report")

_ITEM = re.compile(r"^(?P<task>.+?)\((?P<index>\d+)(?::(?P<value>.*))?\)$", re.DOTALL)
_REFERENCE = re.compile(r"^\{\{\s*(?P<path>[^{}]+?)\s*\}\}$")

Document = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """A task of a Workflow: a pod, a DAG, or a fan-out over items."""

    name: str
    path: str
    """The names from the root to this task, e.g. `alphas/alpha-0.2000/blend`."""
    phase: str
    """Argo's phase, or Waiting."""
    started: datetime | None = None
    finished: datetime | None = None
    message: str = ""
    exit_code: int | None = None
    pod_nodes: tuple[str, ...] = ()
    """Node ids of the task's pods, one per attempt; empty for a DAG or a fan-out."""
    share: float | None = None
    """Fraction of the work that is done, if the pod reports it."""
    items: int | None = None
    """Number of items of a fan-out, also those that have no node yet; None for other tasks."""
    children: tuple[Task, ...] = ()

    @property
    def ended(self) -> bool:
        """Whether the task is over."""
        return self.phase in ENDED

    def leaves(self) -> Iterator[Task]:
        """Yield the task's pods in order, also those that have not started.

        A DAG that waits or was skipped has no children, so it is yielded itself.
        """
        if not self.children and self.items is None:
            yield self
        for child in self.children:
            yield from child.leaves()


@dataclass(frozen=True)
class WorkflowTree:
    """A Workflow as a tree."""

    name: str
    namespace: str
    phase: str
    message: str
    started: datetime | None
    finished: datetime | None
    progress: str
    """Pods that succeeded and pods with a node, as N/M. If the nodes are offloaded, Argo's own
    N/M, which also counts the progress that pods report."""
    estimated_seconds: int | None
    """Argo's estimate of the duration, from the last run of the same template."""
    shutdown: str
    store: str
    tasks: tuple[Task, ...]
    handler: Task | None
    """The exit handler."""
    note: str = ""
    """Why tasks are missing from the tree; empty if none are."""
    used: str = ""
    """What its pods have used, once it has ended and somebody has asked (`usage`)."""

    @property
    def ended(self) -> bool:
        """Whether the Workflow is over."""
        return self.phase in ENDED

    def leaves(self) -> Iterator[Task]:
        """Yield all pods, the exit handler's last."""
        for task in self.tasks:
            yield from task.leaves()
        if self.handler:
            yield self.handler

    def failures(self) -> list[Task]:
        """The pods that failed."""
        return [leaf for leaf in self.leaves() if leaf.phase in FAILED]


def run_of(workflow: Document) -> WorkflowTree:
    """The tree of a Workflow's document."""
    status = workflow.get("status") or {}
    meta, spec = workflow["metadata"], workflow.get("spec") or {}
    nodes, note = nodes_of(status)
    shape = _Shape(workflow, nodes)
    root = nodes.get(meta["name"])
    handler = next((n for n in nodes.values() if n["name"] == f"{meta['name']}.onExit"), None)
    return WorkflowTree(
        name=meta["name"],
        namespace=meta.get("namespace", ""),
        phase=status.get("phase") or "Pending",
        message=status.get("message") or "",
        started=time_of(status.get("startedAt")),
        finished=time_of(status.get("finishedAt")),
        progress=_pods(nodes) or status.get("progress") or "",
        estimated_seconds=status.get("estimatedDuration"),
        shutdown=spec.get("shutdown") or "",
        store=str(parameters(spec.get("arguments")).get("store") or ""),
        tasks=shape.tasks(root) if root else (),
        handler=shape.task(handler, "exit handler", "") if handler else None,
        note=note,
    )


def nodes_of(status: Document) -> tuple[dict[str, Document], str]:
    """The nodes of a Workflow by id, and a remark why they are missing if Argo offloaded them."""
    if packed := status.get("compressedNodes"):
        nodes: dict[str, Document] = json.loads(gzip.decompress(base64.b64decode(packed)))
        return nodes, ""
    if status.get("offloadNodeStatusVersion"):
        return {}, (
            "The controller keeps this Workflow's nodes in its database, which only the Argo "
            "server reads; only the totals are shown."
        )
    return status.get("nodes") or {}, ""


def exit_code(run: WorkflowTree) -> int:
    """The exit code of a command that waited for a Workflow.

    - 0 if the Workflow succeeded.
    - That of plan, or 4, if plan failed: the others then failed for want of it.
    - The exit code of gate (3: a regression) or report (2: outputs are missing) if one failed.
    - Otherwise the exit code that all failed pods share: 2 for a bad config or checkpoint, 5 if
      each of them missed a deadline, its own or the Workflow's.
    - 4 for everything else: infrastructure, a stopped Workflow, the phase Error.
    """
    if run.phase == "Succeeded":
        return EXIT_OK
    if run.shutdown or run.phase == "Error":
        return EXIT_INFRASTRUCTURE
    meaningful = (EXIT_USAGE, EXIT_REGRESSION, EXIT_INFRASTRUCTURE, EXIT_TIMED_OUT)
    failed = run.failures()
    failed = [task for task in failed if task.path == "plan"] or failed
    for verdict in VERDICTS:
        for task in failed:
            if task.path == verdict and task.exit_code in meaningful:
                return task.exit_code
    codes = {EXIT_TIMED_OUT if "deadline" in t.message.lower() else t.exit_code for t in failed}
    only = codes.pop() if len(codes) == 1 else None
    return only if only in meaningful else EXIT_INFRASTRUCTURE


def parameters(arguments: Document | None) -> dict[str, Any]:
    """The parameters of inputs, outputs or arguments: value by name."""
    listed = (arguments or {}).get("parameters") or []
    return {item["name"]: item.get("value") for item in listed}


class _Shape:
    """Builds the tree: knows a node's siblings, its attempts and the templates."""

    def __init__(self, workflow: Document, nodes: dict[str, Document]) -> None:
        stored = (workflow.get("status") or {}).get("storedWorkflowTemplateSpec") or {}
        spec = workflow.get("spec") or {}
        templates = [*(stored.get("templates") or []), *(spec.get("templates") or [])]
        self.templates = {template["name"]: template for template in templates}
        arguments = {**parameters(stored.get("arguments")), **parameters(spec.get("arguments"))}
        self.arguments = arguments
        self.over = (workflow.get("status") or {}).get("phase") in ENDED
        self.nodes = nodes
        self.attempts: dict[str, list[Document]] = {}
        taken: set[str] = set()
        for node in nodes.values():
            if node["type"] == "Retry":
                tries = [nodes[i] for i in node.get("children") or [] if i in nodes]
                tries = [n for n in tries if n["displayName"].startswith(node["displayName"] + "(")]
                self.attempts[node["id"]] = sorted(tries, key=_index)
                taken.update(attempt["id"] for attempt in tries)
        self.inside: dict[str, list[Document]] = defaultdict(list)
        for node in nodes.values():
            if node["id"] not in taken and node["type"] != "StepGroup":
                self.inside[node.get("boundaryID", "")].append(node)

    def tasks(self, dag: Document, path: str = "") -> tuple[Task, ...]:
        """The tasks of a DAG node, in the order of its template; other nodes come last.

        A task of the template that has no node yet is Waiting, unless the DAG is over.
        """
        inside = self.inside[dag["id"]]
        groups = {node["displayName"] for node in inside if node["type"] == "TaskGroup"}
        items: dict[str, list[Document]] = defaultdict(list)
        found: dict[str, Document] = {}
        for node in inside:
            match = _ITEM.match(node["displayName"])
            if match and match["task"] in groups:
                items[match["task"]].append(node)
            else:
                found[node["displayName"]] = node
        template = self.templates.get(dag.get("templateName", "")) or {}
        written = (template.get("dag") or {}).get("tasks") or []
        specs = {spec["name"]: spec for spec in written}
        later = sorted(set(found) - set(specs), key=lambda n: (found[n].get("startedAt") or "", n))
        tasks = []
        for name in [*specs, *later]:
            if name not in found:
                if not self.over and dag.get("phase") not in ENDED:
                    tasks.append(Task(name, f"{path}{name}", WAITING))
            elif name in groups:
                total = self._fan_out(specs.get(name) or {}, dag, found)
                tasks.append(self._group(found[name], items[name], f"{path}{name}", total))
            else:
                tasks.append(self.task(found[name], name, path))
        return tuple(tasks)

    def task(self, node: Document, name: str, path: str) -> Task:
        """The task of a node: a pod with its attempts, or a DAG with its tasks."""
        attempts = self.attempts.get(node["id"]) or [node]
        last = attempts[-1]
        here = f"{path}{name}"
        pods = tuple(attempt["id"] for attempt in attempts if attempt["type"] == "Pod")
        code = (last.get("outputs") or {}).get("exitCode")
        return Task(
            name=name,
            path=here,
            phase=_phase(node, last),
            started=time_of(node.get("startedAt")),
            finished=time_of(node.get("finishedAt")),
            message=last.get("message") or node.get("message") or "",
            exit_code=int(code) if code is not None and pods else None,
            pod_nodes=pods,
            share=_fraction(last.get("progress")) if pods else None,
            children=() if pods else self.tasks(last, f"{here}/"),
        )

    def _group(self, node: Document, items: list[Document], path: str, total: int | None) -> Task:
        """The task of a fan-out, from its TaskGroup node and the nodes of its items."""
        children = []
        for item in sorted(items, key=_index):
            match = _ITEM.match(item["displayName"])
            name = (match["value"] or match["index"]) if match else item["displayName"]
            children.append(self.task(item, name, f"{path}/"))
        return Task(
            name=node["displayName"],
            path=path,
            phase=node.get("phase") or "Pending",
            started=min((c.started for c in children if c.started), default=None),
            finished=time_of(node.get("finishedAt")),
            message=node.get("message") or "",
            items=max(total or 0, len(children)),
            children=tuple(children),
        )

    def _fan_out(self, spec: Document, dag: Document, found: dict[str, Document]) -> int | None:
        """The number of items of a fan-out; None if the document does not say it."""
        if literal := spec.get("withItems"):
            return len(literal)
        sequence = spec.get("withSequence") or {}
        value = spec.get("withParam") or sequence.get("count")
        if value is None:
            return None
        if reference := _REFERENCE.match(str(value)):
            value = self._resolve(reference["path"], dag, found)
        try:
            listed = json.loads(str(value))
        except ValueError:
            return None
        return len(listed) if isinstance(listed, list) else listed if sequence else None

    def _resolve(self, path: str, dag: Document, found: dict[str, Document]) -> Any:
        """The value of a reference such as `tasks.plan.outputs.parameters.alphas`; None if unknown.

        `found` has the DAG's nodes by name.
        """
        match path.split("."):
            case ["tasks", task, "outputs", "parameters", name]:
                return parameters((found.get(task) or {}).get("outputs")).get(name)
            case ["inputs", "parameters", name]:
                return parameters(dag.get("inputs")).get(name)
            case ["workflow", "parameters", name]:
                return self.arguments.get(name)
        return None


def _phase(node: Document, last: Document) -> str:
    """The phase of a task: its last attempt's while it runs.

    A Retry node is Running as soon as it exists, but its pod may still be Pending.
    """
    own: str = node.get("phase") or "Pending"
    return last.get("phase") or "Pending" if own == "Running" and node is not last else own


def _index(node: Document) -> int:
    """The index of an item or attempt: the last number in parentheses in the node's name."""
    numbers = re.findall(r"\((\d+)(?::|\))", node["displayName"])
    return int(numbers[-1]) if numbers else 0


def _pods(nodes: dict[str, Document]) -> str:
    """Pods that succeeded and all pods as N/M; empty if there are no pods."""
    phases = [node.get("phase") for node in nodes.values() if node["type"] == "Pod"]
    return f"{phases.count('Succeeded')}/{len(phases)}" if phases else ""


def _fraction(progress: str | None) -> float | None:
    """A pod's progress N/M as a number; None for 0/1 and 1/1, Argo's defaults for any pod."""
    done, _, total = (progress or "").partition("/")
    if not (done.isdigit() and total.isdigit() and int(total) > 1):
        return None
    return min(1.0, int(done) / int(total))


def time_of(text: str | None) -> datetime | None:
    """A time as Kubernetes writes it."""
    return datetime.fromisoformat(text) if text else None
