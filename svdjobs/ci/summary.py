"""The page of a sweep that a CI job shows: the verdict, the reasons, and where to see more."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from svdjobs import escape
from svdjobs.errors import (
    EXIT_INFRASTRUCTURE,
    EXIT_OK,
    EXIT_REGRESSION,
    EXIT_TIMED_OUT,
    EXIT_USAGE,
)
from svdjobs.records import Gate
from svdjobs.reporting.gate import markdown

SUMMARY = "summary.md"
# GitHub Actions shows the Markdown file that this environment variable names.
STEP_SUMMARY = "GITHUB_STEP_SUMMARY"
_VERDICTS = {
    EXIT_OK: "finished; no gate is configured, so nothing was judged",
    EXIT_USAGE: "incomplete, or not possible as configured",
    EXIT_REGRESSION: "regression",
    EXIT_INFRASTRUCTURE: "the infrastructure failed; nothing was judged",
    EXIT_TIMED_OUT: "out of time; nothing was judged",
}


class Finding(NamedTuple):
    """The result of a CI job."""

    name: str
    code: int
    words: str = ""
    """How the job ended."""
    gate: Gate | None = None
    missing: Sequence[str] = ()
    """Outputs that are missing from the report."""
    places: Sequence[str] = ()
    """Where report and verdict are."""
    look: Sequence[str] = ()
    """Commands that show more."""


def page(finding: Finding) -> str:
    """Return the summary as Markdown."""
    if finding.gate is not None:
        parts = [markdown(finding.gate)]
    else:
        verdict = _VERDICTS.get(finding.code, f"exit code {finding.code}")
        parts = [f"## {escape.markdown(finding.name)}: {verdict}\n"]
    if finding.missing:
        parts.append("**Not finished:** " + escape.markdown(", ".join(finding.missing)) + "\n")
    if finding.words:
        parts.append("".join(f"{escape.markdown(line)}\n" for line in finding.words.split("\n")))
    rows = [f"- {escape.markdown(place)}" for place in finding.places]
    rows += [f"- Look further: {escape.code(command)}" for command in finding.look]
    parts += ["\n".join([*rows, ""])] if rows else []
    return "\n".join(parts)


def publish(text: str, into: Path, environment: Mapping[str, str] | None = None) -> None:
    """Write the page to `summary.md`, and append it to GitHub's step summary if there is one."""
    into.mkdir(parents=True, exist_ok=True)
    (into / SUMMARY).write_text(text, encoding="utf-8")
    if step_summary := (os.environ if environment is None else environment).get(STEP_SUMMARY):
        with Path(step_summary).open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")
