"""Show a Workflow while it runs: a live tree on a terminal, changed lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from svdjobs import escape
from svdjobs.cluster.api import Cluster
from svdjobs.cluster.watching.status import Run, run_of
from svdjobs.cluster.watching.status_text import LIMIT, cut, to_lines
from svdjobs.cluster.watching.updates import changes
from svdjobs.errors import EXIT_OK, EXIT_REGRESSION, EXIT_USAGE
from svdjobs.progress import duration

if TYPE_CHECKING:
    from rich.text import Text

# From so many pods on, changes elsewhere than on a terminal are gathered for a while.
MANY_PODS = 50
GATHER_SECONDS = 5.0


class Screen(Protocol):
    """Where a run is shown."""

    def show(self, run: Run) -> None:
        """Show the run as it is now."""

    def say(self, words: str) -> None:
        """Tell something about the watching itself."""


def watch(cluster: Cluster, name: str) -> Run:
    """Show a Workflow until it has ended, and return it as it ended.

    Raises:
        ClusterError: it was deleted meanwhile.
        UnavailableError: the API server stays away.
    """
    run = None
    with terminal() if sys.stdout.isatty() else plain() as screen:
        earlier, cluster.notice = cluster.notice, screen.say
        try:
            for workflow in changes(cluster, name):
                run = run_of(workflow)
                screen.show(run)
        finally:
            cluster.notice = earlier
    assert run is not None
    return run


def closing_words(run: Run) -> str:
    """How a Workflow ended, and where its results are."""
    took = ""
    if run.started and run.finished:
        took = f" after {duration((run.finished - run.started).total_seconds())}"
    words = f"Workflow {run.name} ended as {run.phase}{took}."
    if run.message:
        words += f" {escape.line(run.message)}."
    store = escape.line(run.store.rstrip("/"))
    if store and reported(run):
        words += f"\nReport: {store}/report/report.html"
    if store and judged(run):
        words += f"\nVerdict: {store}/gate/gate.md"
    if run.phase != "Succeeded":
        words += (
            "\nFinished outputs are kept: submitting the same sweep with the same store goes on "
            "from them."
        )
    return words


def reported(run: Run) -> bool:
    """Whether a run came as far as its report, whatever that says; there is none without a plan."""
    if any(t.name == "plan" and t.phase != "Succeeded" for t in run.tasks):
        return False
    told = (EXIT_OK, EXIT_USAGE)
    return any(t.name == "report" and t.ended and t.exit_code in told for t in run.tasks)


def judged(run: Run) -> bool:
    """Whether a run came as far as a gate's verdict, whatever that is."""
    told = (EXIT_OK, EXIT_REGRESSION)
    return any(t.name == "gate" and t.ended and t.exit_code in told for t in run.tasks)


class _Plain:
    """Lines as they change, each with the time, for a log file."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._at = datetime.min.replace(tzinfo=UTC)

    def show(self, run: Run) -> None:
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
    """For output that is no terminal."""
    yield _Plain()


class _Terminal:
    """The last state of a run and a remark, drawn anew twice a second so that times move on."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self._remark = ""
        self.height = LIMIT

    def show(self, run: Run) -> None:
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
    """For a terminal; the last drawing stays."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    screen = _Terminal()
    screen.height = max(10, min(LIMIT, console.height - 2))
    with Live(get_renderable=screen.draw, console=console, refresh_per_second=2):
        yield screen
