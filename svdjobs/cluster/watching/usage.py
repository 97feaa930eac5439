"""What a Workflow's pods have used: hours of pods, CPUs and GPUs by stage, and by checkpoint.

Argo notes for each pod that has ended its requests times the time that its containers ran, in
seconds of a CPU or of a GPU:
https://argo-workflows.readthedocs.io/en/latest/resource-duration/
A pod that runs counts from when it was made, with the GPUs that the Workflow gives evaluations.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from svdjobs.cluster.watching.status import FAILED, Document, nodes_of, parameters, time_of
from svdjobs.reporting.data import Table, number
from svdjobs.reporting.text import plain_table

_OTHER = ("cpu", "memory", "storage", "ephemeral-storage")
_ALPHA = re.compile(r"\(\d+:(alpha-[^)]*)\)")


class Used(NamedTuple):
    """What some pods have used, in seconds."""

    pods: int = 0
    failed: int = 0
    """Those of the pods that failed: attempts that had to be made again, or were in vain."""
    seconds: float = 0.0
    """From when each pod was made until it ended, waiting included."""
    cpu: float = 0.0
    """CPUs that were asked for × seconds, of pods that have ended."""
    gpu: float = 0.0

    def __add__(self, other: object) -> Used:
        if not isinstance(other, Used):
            return NotImplemented
        return Used(
            self.pods + other.pods,
            self.failed + other.failed,
            self.seconds + other.seconds,
            self.cpu + other.cpu,
            self.gpu + other.gpu,
        )


class Usage(NamedTuple):
    """The use of a Workflow."""

    name: str
    by_stage: dict[str, Used]
    by_alpha: dict[str, Used]
    """Of blends and, without `evaluate.engines`, of their evaluations."""
    note: str
    """Why numbers are missing; empty if none are."""

    @property
    def total(self) -> Used:
        """The use of all pods."""
        return sum(self.by_stage.values(), Used())


def usage_of(workflow: Document, now: datetime) -> Usage:
    """The use of a Workflow so far."""
    status = workflow.get("status") or {}
    nodes, note = nodes_of(status)
    template = parameters((status.get("storedWorkflowTemplateSpec") or {}).get("arguments"))
    given = parameters((workflow.get("spec") or {}).get("arguments"))
    gpus = int({**template, **given}.get("gpus") or 0)
    pods = [node for node in nodes.values() if node["type"] == "Pod"]

    def used(node: Document) -> Used:
        return _used(node, now, gpus if node.get("templateName") == "evaluate" else 0)

    return Usage(
        workflow["metadata"]["name"],
        _grouped(pods, lambda node: str(node.get("templateName") or "-"), used),
        _grouped(pods, _alpha_of, used),
        note,
    )


def _alpha_of(node: Document) -> str | None:
    found = _ALPHA.search(node["name"])
    return found[1] if found else None


def _grouped(
    pods: list[Document], key: Callable[[Document], str | None], used: Callable[[Document], Used]
) -> dict[str, Used]:
    groups: dict[str, Used] = {}
    for node in sorted(pods, key=lambda node: node.get("startedAt") or ""):
        if (name := key(node)) is not None:
            groups[name] = groups.get(name, Used()) + used(node)
    return groups


def _used(node: Document, now: datetime, gpus: int) -> Used:
    started, finished = time_of(node.get("startedAt")), time_of(node.get("finishedAt"))
    seconds = max(0.0, ((finished or now) - started).total_seconds()) if started else 0.0
    noted: Mapping[str, Any] = node.get("resourcesDuration") or {}
    gpu = sum(float(value) for name, value in noted.items() if name not in _OTHER)
    if finished is None:
        gpu = gpus * seconds
    failed = int(node.get("phase") in FAILED)
    return Used(1, failed, seconds, float(noted.get("cpu") or 0), gpu)


def words(usage: Usage) -> Iterator[str]:
    """Lines for the user, at most 100 columns wide."""
    yield from _table("stage", usage.by_stage, usage.total)
    if usage.by_alpha:
        yield ""
        yield from _table("alpha", usage.by_alpha, None)
    yield ""
    yield "Hours. A pod's begin when it is made; CPUs and GPUs: what it asked for, while it ran."
    if usage.note:
        yield usage.note


def sentence(usage: Usage) -> str:
    """The total in one sentence; empty if numbers are missing."""
    if usage.note:
        return ""
    pods, _, pod, cpu, gpu = _row("all", usage.total)[1:]
    return f"Its {pods} pods took {pod} h: {cpu} h of CPUs, {gpu} h of GPUs."


def _table(what: str, groups: Mapping[str, Used], total: Used | None) -> list[str]:
    rows = [_row(name, used) for name, used in groups.items()]
    if total is not None:
        rows.append(_row("all", total))
    header = [what, "pods", "failed", "pod", "CPU", "GPU"]
    return plain_table(Table("usage", "", "", header, rows)).splitlines()


def _row(name: str, used: Used) -> list[str]:
    hours = (number(seconds / 3600, ".2f") for seconds in (used.seconds, used.cpu, used.gpu))
    return [name, number(used.pods), number(used.failed), *hours]


def document(usage: Usage) -> dict[str, Any]:
    """The usage for scripts, in seconds."""
    return {
        "name": usage.name,
        "total": usage.total._asdict(),
        "by_stage": {name: used._asdict() for name, used in usage.by_stage.items()},
        "by_alpha": {name: used._asdict() for name, used in usage.by_alpha.items()},
        "note": usage.note,
    }
