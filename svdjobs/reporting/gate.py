"""The verdict of a gate as a table, as sentences, as Markdown and as test cases for CI systems."""

from __future__ import annotations

from collections.abc import Iterable

from svdjobs import escape
from svdjobs.records import Gate, GateRow
from svdjobs.reporting import text
from svdjobs.reporting.data import Table, percent, points
from svdjobs.reporting.junit import Case, document

NAME_LENGTH = 20
"""Longest benchmark name in the table, which must fit into a hundred columns."""


def headline(gate: Gate) -> str:
    """The verdict in one line."""
    against = f"{gate.baseline_checkpoint} of {gate.baseline}"
    lost = share(gate.margin)
    if gate.outcome == "regression":
        return (
            f"Gate: REGRESSION. {gate.checkpoint} lost more than {lost} against {against} on "
            f"{_names(row for row in gate.rows if row.outcome == 'regression')}."
        )
    if gate.outcome == "passed":
        return (
            f"Gate: passed. {gate.checkpoint} lost no more than {lost} against {against} on "
            f"{_names(gate.rows)}."
        )
    open_ = _names(row for row in gate.rows if row.outcome == "inconclusive")
    word = "fails" if gate.failed else "passes"
    return (
        f"Gate: inconclusive, which {word} (gate.inconclusive). Whether {gate.checkpoint} lost "
        f"more than {lost} against {against} cannot be told on {open_}."
    )


def share(margin: float) -> str:
    """A margin in percentage points: `1 point`, `2.5 points`."""
    number = f"{100 * margin:.3g}"
    return f"{number} point{'' if number == '1' else 's'}"


def _names(rows: Iterable[GateRow]) -> str:
    return ", ".join(row.benchmark for row in rows)


def table(gate: Gate) -> Table:
    """Both accuracies of every benchmark, their difference and the outcome."""
    rows = [
        [
            _short(row.benchmark),
            percent(row.baseline.avg_at_n.value),
            percent(row.judged.avg_at_n.value),
            points(row.comparison.difference),
            row.outcome,
            _both(row, "truncated"),
            _both(row, "unscored"),
        ]
        for row in gate.rows
    ]
    return Table(
        "gate",
        "Gate",
        f"`difference` is the mean of per-problem differences, in percentage points, with its 95 % "
        f"t interval: same problems, same seeds. A regression is one where the one-sided p of "
        f"having lost no more than the margin, {share(gate.margin)}, is at most 0.05 by Holm's "
        f"method over all benchmarks. A benchmark passes where the interval's lower end is above "
        f"minus the margin, and enough problems have changed to believe it. `cut off` and "
        f"`unscored` completions: baseline/judged.",
        ["benchmark", "baseline", "judged", "difference", "outcome", "cut off", "unscored"],
        rows,
    )


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"


def _both(row: GateRow, what: str) -> str:
    """A count of both sides: `baseline/judged`."""
    return f"{getattr(row.baseline, what)}/{getattr(row.judged, what)}"


def sentences(gate: Gate) -> list[str]:
    """A sentence about each benchmark, then the notes on other differences of the two sides."""
    return [*(sentence(gate, row) for row in gate.rows), *gate.notes]


def sentence(gate: Gate, row: GateRow) -> str:
    """The outcome of one benchmark and the reason for it."""
    lost, problems = share(gate.margin), row.comparison.problems
    difference = row.comparison.difference
    if row.outcome == "regression":
        return (
            f"{row.benchmark}: a loss of more than {lost} is shown "
            f"({points(difference)}, p = {row.loss_p_adjusted:.2g})."
        )
    if row.outcome == "passed":
        if row.same_checkpoint and row.comparison.changed == 0:
            return f"{row.benchmark}: the same weights with the same scores; nothing was lost."
        if row.passing_margin < 0:
            return f"{row.benchmark}: at least {share(-row.passing_margin)} were gained."
        return (
            f"{row.benchmark}: no more than {share(row.passing_margin)} can have been lost, and "
            f"the margin is {lost}."
        )
    if difference.low is None:
        seen = f"each of {problems} problems changed by {100 * difference.value:.3g}, no spread"
    elif difference.low > -gate.margin:
        seen = (
            f"only {row.comparison.changed} of {problems} problems changed, too few to believe "
            f"{points(difference)}"
        )
    else:
        seen = f"{points(difference)} on {problems} problems reaches below {-100 * gate.margin:.3g}"
    return (
        f"{row.benchmark}: inconclusive: {seen}, and p = {row.loss_p_adjusted:.2g}. A margin above "
        f"{share(row.passing_margin)} would have passed; {_needed(row)}."
    )


def _needed(row: GateRow) -> str:
    """How many problems would be enough to decide, estimated from the spread of these."""
    needed = row.problems_needed
    if needed is None:
        return "at this one, no number of such problems would tell"
    if needed <= row.comparison.problems:
        return "as many problems are enough as a rule, but this is close to the margin"
    return f"at this one, about {needed:,} such problems would tell in 4 of 5 tries"


def markdown(gate: Gate) -> str:
    """The verdict as a Markdown page or section."""
    lines = [f"## {escape.markdown(headline(gate))}", "", *text.markdown_rows(table(gate)), ""]
    lines += [f"- {escape.markdown(line)}" for line in sentences(gate)]
    return "\n".join([*lines, "", escape.markdown(table(gate).caption), ""])


def plain(gate: Gate) -> str:
    """The verdict for a terminal."""
    said = "\n".join(escape.line(sentence) for sentence in sentences(gate))
    return "\n\n".join([text.plain_table(table(gate)), said, escape.line(headline(gate))])


def junit(gate: Gate) -> bytes:
    """The verdict as JUnit XML with a test case per benchmark.

    A regression is a failure. An inconclusive benchmark is a failure or skipped, as the config
    says.
    """
    return document(f"{gate.name}.gate", [_case(gate, row) for row in gate.rows])


def _case(gate: Gate, row: GateRow) -> Case:
    name, text = f"{gate.name}.gate", sentence(gate, row)
    if row.outcome == "regression":
        return Case(name, row.benchmark, failure=("regression", text))
    if row.outcome == "passed":
        return Case(name, row.benchmark)
    if gate.inconclusive == "fail":
        return Case(name, row.benchmark, failure=("inconclusive", text))
    return Case(name, row.benchmark, skipped=text)
