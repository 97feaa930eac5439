"""Show a Workflow while it runs: as a live tree on a terminal, as changed lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from svdjobs import escape
from svdjobs.cluster.api import Cluster
from svdjobs.cluster.watching.status import WorkflowTree, run_of
from svdjobs.cluster.watching.status_text import LIMIT, command, cut, to_lines
from svdjobs.cluster.watching.stuck import Patience
from svdjobs.cluster.watching.updates import changes
from svdjobs.cluster.watching.usage import sentence, usage_of
from svdjobs.errors import EXIT_OK, EXIT_REGRESSION, EXIT_USAGE
from svdjobs.progress import duration

if TYPE_CHECKING:
    from rich.text import Text

# A run of more pods changes often: in a log file its changes are then written together, at most
# once in GATHER_SECONDS.
MANY_PODS = 50
GATHER_SECONDS = 5.0


class Screen(Protocol):
    """A terminal or a log file that shows a run."""

    def show(self, run: WorkflowTree) -> None:
        """Show the run in its current state."""

    def say(self, words: str) -> None:
        """Show a remark, e.g. that the API server does not answer."""


def watch(cluster: Cluster, name: str) -> WorkflowTree:
    """Show a Workflow until it ends, and return the ended run.

    Raises:
        StuckError: pods wait for what does not come.
        ClusterError: the Workflow was deleted before it ended.
        UnavailableError: the API server does not answer for longer than the cluster's patience.
    """
    run = None
    with terminal() if sys.stdout.isatty() else plain() as screen:
        earlier, cluster.notice = cluster.notice, screen.say
        patience = Patience(cluster)
        try:
            for workflow in changes(cluster, name):
                run = run_of(workflow)
                screen.show(run)
                patience.check(run, datetime.now(UTC))
        finally:
            cluster.notice = earlier
    assert run is not None
    return replace(run, used=sentence(usage_of(workflow, datetime.now(UTC))))


def closing_words(run: WorkflowTree) -> str:
    """How a Workflow ended and where its results are, for the terminal."""
    took = ""
    if run.started and run.finished:
        took = f" after {duration((run.finished - run.started).total_seconds())}"
    words = f"Workflow {run.name} ended as {run.phase}{took}."
    if run.message:
        words += f" {escape.line(run.message)}."
    if run.used:
        words += f"\n{run.used} By stage: {command('usage', run)}"
    store = escape.line(run.store.rstrip("/"))
    if store and reported(run):
        words += f"\nReport: {store}/report/report.html"
    if store and judged(run):
        words += f"\nVerdict: {store}/gate/gate.md"
    if run.phase != "Succeeded":
        words += (
            "\nFinished outputs are kept: submit the same sweep with the same store to resume it."
        )
    return words


def reported(run: WorkflowTree) -> bool:
    """Whether a run wrote a report, complete or not. Without a plan, report writes none."""
    if any(t.name == "plan" and t.phase != "Succeeded" for t in run.tasks):
        return False
    wrote = (EXIT_OK, EXIT_USAGE)
    return any(t.name == "report" and t.ended and t.exit_code in wrote for t in run.tasks)


def judged(run: WorkflowTree) -> bool:
    """Whether a run wrote a gate's verdict, passed or not."""
    wrote = (EXIT_OK, EXIT_REGRESSION)
    return any(t.name == "gate" and t.ended and t.exit_code in wrote for t in run.tasks)


class _Plain:
    """Print the lines that change, each with the time, for a log file."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._at = datetime.min.replace(tzinfo=UTC)

    def show(self, run: WorkflowTree) -> None:
        now = datetime.now(UTC)
        many = sum(1 for _ in run.leaves()) > MANY_PODS
        if many and not run.ended and (now - self._at).total_seconds() < GATHER_SECONDS:
            return
        self._at = now
        lines = to_lines(run)
        for line in lines:
            if line not in self._shown:
                print(f"{now:%H:%M:%S}  {line}", flush=True)
        self._shown = lines

    def say(self, words: str) -> None:
        print(f"{datetime.now(UTC):%H:%M:%S}  {escape.message(words)}", flush=True)


@contextmanager
def plain() -> Iterator[Screen]:
    """The screen for output that is not a terminal."""
    yield _Plain()


class _Terminal:
    """The last state of a run and a remark, drawn twice a second so that its times are current."""

    def __init__(self) -> None:
        self.run: WorkflowTree | None = None
        self._remark = ""
        self.height = LIMIT

    def show(self, run: WorkflowTree) -> None:
        self.run, self._remark = run, ""

    def say(self, words: str) -> None:
        self._remark = words

    def draw(self) -> Text:
        from rich.text import Text

        if self.run is None:
            return Text(self._remark)
        lines = to_lines(self.run, datetime.now(UTC), limit=self.height)
        text = Text("\n".join([*lines, *([cut(self._remark)] if self._remark else [])]))
        text.highlight_regex("✓", "green")
        text.highlight_regex("●", "cyan")
        text.highlight_regex("✗[^✓●○–\n]*", "red")
        return text


@contextmanager
def terminal() -> Iterator[Screen]:
    """The screen for a terminal; its last state stays there at the end."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    screen = _Terminal()
    screen.height = max(10, min(LIMIT, console.height - 2))
    with Live(get_renderable=screen.draw, console=console, refresh_per_second=2):
        yield screen
