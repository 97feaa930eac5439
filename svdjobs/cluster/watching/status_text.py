"""Turn the tree of a Workflow into lines for a person: pure text, at most about forty lines.

A fan-out of pods is one line of counts. In a fan-out of DAGs (the alphas), the failed and the
running items have a line each while there is room. Failed pods are listed below with their exit
codes, and with the command that shows their logs.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from svdjobs import escape
from svdjobs.cluster.watching.status import FAILED, WAITING, Task, WorkflowTree
from svdjobs.progress import duration

LIMIT = 40
WIDTH = 100
# The remaining time is estimated only after this many items, or this fraction of a pod's work.
ENOUGH_ITEMS = 3
ENOUGH_SHARE = 0.05
# The message of a pod that fits on no node contains this word.
UNPLACED = "Unschedulable"

_MARKS = {
    "Succeeded": "✓", "Failed": "✗", "Error": "✗", "Running": "●", "Pending": "○", WAITING: "○",
    "Skipped": "–", "Omitted": "–",
}  # fmt: skip
_WORDS = {"Error": "failed", "Omitted": "skipped"}
_ORDER = ("failed", "running", "pending", "waiting", "skipped")
_FAILURES = 8


def to_lines(run: WorkflowTree, now: datetime | None = None, *, limit: int = LIMIT) -> list[str]:
    """The tree as lines. Without `now` they have no times that change by themselves, so two calls
    differ only if the run has changed."""
    failures = _failures(run)
    room = limit - 2 - len(run.tasks) - len(failures)
    lines = [_headline(run, now), *([run.note] if run.note else [])]
    groups = [task for task in run.tasks if task.items is not None and _rows(task)]
    room_each = max(2, room // len(groups)) if groups else 0
    for task in run.tasks:
        lines.append(_line(task, now))
        if task in groups:
            lines += _items(task, now, room_each)
        elif task.items is None and task.children:
            lines += [f"    {_inner(child)}" for child in task.children]
    if run.handler:
        lines.append(_line(run.handler, now))
    return [cut(line) for line in (*lines, *failures)]


def cut(line: str) -> str:
    """Shorten a line to a hundred columns."""
    line = escape.line(line)
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def _headline(run: WorkflowTree, now: datetime | None) -> str:
    """The line on the whole Workflow."""
    words = [run.name, f"namespace {run.namespace}", run.phase]
    if run.progress:
        words.append(f"pods {run.progress}")
    if run.started and (run.finished or now):
        words.append(duration(_seconds(run.started, run.finished, now)))
    if run.shutdown and not run.ended:
        words.append(f"stopping ({run.shutdown})")
    if run.started and run.estimated_seconds and now and not run.ended:
        left = run.estimated_seconds - _seconds(run.started, None, now)
        if left > 0:
            words.append(f"about {duration(left)} left, as the last run took")
    if run.message:
        words.append(run.message)
    return "  ".join(words)


def _line(task: Task, now: datetime | None) -> str:
    """The line of a top-level task."""
    head = f"{_mark(task)} {task.name:<12}"
    if task.items is not None:
        head += f"  {_counts(task)}"
    elif task.phase in ("Failed", "Error", "Skipped", "Omitted", "Pending"):
        head += f"  {_WORDS.get(task.phase, task.phase.lower())}"
        if task.phase not in FAILED and task.message:
            head += f" ({task.message})"
    if task.share is not None and not task.ended:
        head += f"  {100 * task.share:.0f} %"
    attempts = len(task.pod_nodes)
    if attempts > 1:
        head += f"  attempt {attempts}"
    return (head + _time(task, now)).rstrip()


def _time(task: Task, now: datetime | None) -> str:
    """A task's duration so far, and its remaining time if there is an estimate."""
    if not task.started or task.phase in ("Pending", "Omitted", "Skipped"):
        return ""
    if task.ended:
        return f"  {duration(_seconds(task.started, task.finished, now))}" if task.finished else ""
    if now is None:
        return ""
    left = time_left(task, now)
    words = f", about {duration(left)} left" if left is not None else ""
    return f"  {duration(_seconds(task.started, None, now))}{words}"


def time_left(task: Task, now: datetime) -> float | None:
    """Estimate the seconds until a task ends; None without enough data.

    A pod that reports its progress is assumed to keep its pace. A fan-out's items are assumed to
    take as long as the mean of those that are done, and as many to run at a time as are running or
    starting.
    """
    if task.started and task.share is not None and task.share >= ENOUGH_SHARE:
        return _seconds(task.started, None, now) * (1 - task.share) / task.share
    if task.items is None:
        return None
    done = [c for c in task.children if c.phase == "Succeeded" and c.started and c.finished]
    running = [c for c in task.children if c.phase == "Running" and c.started]
    if len(done) < ENOUGH_ITEMS or not running:
        return None
    each = sum(_seconds(c.started, c.finished, now) for c in done) / len(done)
    waiting = task.items - sum(c.ended for c in task.children) - len(running)
    left_of_running = sum(max(0.0, each - _seconds(c.started, None, now)) for c in running)
    starting = sum(c.phase == "Pending" and UNPLACED not in c.message for c in task.children)
    return (left_of_running + waiting * each) / (len(running) + starting)


def _seconds(start: datetime | None, end: datetime | None, now: datetime | None) -> float:
    """Seconds from `start` to `end`, or to `now` without an end; 0 if they are unknown."""
    end = end or now
    return max(0.0, (end - start).total_seconds()) if start and end else 0.0


def _mark(task: Task) -> str:
    return _MARKS.get(task.phase, "?")


def _counts(task: Task) -> str:
    """The counts of a fan-out: `12/16  1 failed, 3 running`."""
    assert task.items is not None
    phases = Counter(_WORDS.get(c.phase, c.phase.lower()) for c in task.children)
    if not task.ended:
        phases["waiting"] += task.items - len(task.children)
    rest = [f"{phases[word]} {word}" for word in _ORDER if phases[word]]
    return f"{phases['succeeded']}/{task.items}" + ("  " + ", ".join(rest) if rest else "")


def _rows(task: Task) -> bool:
    """Whether the items of a fan-out have lines of their own: only items with tasks in them do."""
    return any(child.children for child in task.children)


def _items(task: Task, now: datetime | None, room: int) -> list[str]:
    """The lines of the items of a fan-out of DAGs, in order.

    If there are more than `room`, only failed items, then those that run or wait; the last line
    counts the others.
    """
    shown = list(task.children)
    if len(shown) > room:
        failed = [c for c in shown if c.phase in FAILED]
        unfinished = [c for c in shown if c.phase not in FAILED and not c.ended]
        chosen = set([*failed, *unfinished][: room - 1])
        shown = [c for c in shown if c in chosen]
    width = max((len(c.name) for c in shown), default=0)
    lines = [f"    {_mark(c)} {c.name:<{width}}  {_tasks(c)}{_time(c, now)}" for c in shown]
    rest = [c for c in task.children if c not in set(shown)]
    if rest:
        counts = Counter(_WORDS.get(c.phase, c.phase.lower()) for c in rest)
        words = ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
        lines.append(f"    … and {words}")
    return lines


def _tasks(task: Task) -> str:
    return "  ".join(_inner(child) for child in task.children)


def _inner(task: Task) -> str:
    """A task below the top level as a short text: `blend ✓`, `evaluate 3/4 ●`."""
    count = ""
    if task.items is not None:
        count = f" {sum(c.phase == 'Succeeded' for c in task.children)}/{task.items}"
    elif task.share is not None and not task.ended:
        count = f" {100 * task.share:.0f} %"
    return f"{task.name}{count} {_mark(task)}"


def _failures(run: WorkflowTree) -> list[str]:
    """The lines on the first few failed pods: which, why, and the command for their logs."""
    failed = run.failures()
    if not failed:
        return []
    lines = ["Failed:"]
    lines += [f"  {task.path}: {reason(task)}" for task in failed[:_FAILURES]]
    if len(failed) > _FAILURES:
        lines.append(f"  … and {len(failed) - _FAILURES} more")
    lines.append(f"Their logs: {command('logs', run)} --failed")
    return lines


def reason(task: Task) -> str:
    """Why a pod failed: its exit code, Argo's message and the number of attempts."""
    words = []
    if task.exit_code is not None:
        words.append(f"exit code {task.exit_code}")
    message = task.message.removeprefix("main: ").partition("\n")[0]
    message = message.removesuffix(f" (exit code {task.exit_code})")
    if message not in ("", "Error"):
        words.append(message)
    if len(task.pod_nodes) > 1:
        words.append(f"after {len(task.pod_nodes)} attempts")
    return ", ".join(words) or task.phase.lower()


def command(name: str, run: WorkflowTree) -> str:
    """A command about a run, e.g. `logs`."""
    return f"svdjobs workflow {name} {run.name} --namespace {run.namespace}"
