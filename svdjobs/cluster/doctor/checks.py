"""The result of a check, and how `svdjobs doctor` prints it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from svdjobs import escape
from svdjobs.errors import SvdjobsError

Status = Literal["ok", "warn", "fail", "not checked"]
WIDTH = 100


class Check(NamedTuple):
    """The result of one check."""

    name: str
    status: Status
    found: str
    advice: str = ""
    """What to do about it."""


def guarded(name: str, look: Callable[[], Check | list[Check]]) -> list[Check]:
    """Run the check `look`; an error in it becomes a failed check called `name`."""
    try:
        result = look()
    except SvdjobsError as error:
        return [Check(name, "fail", str(error))]
    return result if isinstance(result, list) else [result]


def all_well(checks: Sequence[Check]) -> bool:
    """Whether no check failed; warnings are allowed."""
    return all(check.status != "fail" for check in checks)


def plain_lines(checks: Sequence[Check]) -> Iterator[str]:
    """Yield a line for each check, and one more for its advice."""
    for check in checks:
        yield f"{check.status:<11}  {check.name:<28}  {escape.line(' '.join(check.found.split()))}"
        if check.advice:
            yield f"{'':<43}{' '.join(check.advice.split())}"


def print_table(checks: Sequence[Check]) -> None:
    """Print a table for a terminal, at most a hundred columns wide."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    colours = {"ok": "green", "warn": "yellow", "fail": "red", "not checked": "dim"}
    table = Table(box=box.SIMPLE_HEAD, width=min(WIDTH, console.width))
    table.add_column("check", ratio=3)
    table.add_column("", no_wrap=True)
    table.add_column("found, and what to do", ratio=7)
    for check in checks:
        words = Text(escape.message(check.found))
        if check.advice:
            words.append(f"\n{check.advice}", style="bold")
        table.add_row(
            Text(escape.line(check.name)), Text(check.status, style=colours[check.status]), words
        )
    console.print(table)


def summary(checks: Sequence[Check]) -> str:
    """The number of checks with each status, for the last line of the output."""
    counts = {
        status: sum(check.status == status for check in checks)
        for status in ("ok", "warn", "fail", "not checked")
    }
    return ", ".join(f"{count} {status}" for status, count in counts.items() if count)
