"""Write the content of a report as one self-contained HTML page and as Markdown, with figures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from svdjobs import escape
from svdjobs.reporting import drawing
from svdjobs.reporting.data import Content, Picture
from svdjobs.reporting.sections import pictures, sentences, tables
from svdjobs.reporting.text import markdown_rows


class Drawn(NamedTuple):
    """A figure as PNG and as SVG."""

    picture: Picture
    png: bytes
    svg: str


def drawn(content: Content) -> list[Drawn]:
    """Draw every figure for which the content has data."""
    found = []
    for picture in pictures(content):
        figure = picture.draw()
        found.append(Drawn(picture, drawing.png(figure), drawing.svg(figure)))
    return found


def html_report(content: Content, figures: Sequence[Drawn]) -> str:
    """The report as one HTML page that needs no network: it contains styles and figures."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("svdjobs.reporting"),
        autoescape=True,
        finalize=escape.html,
        undefined=StrictUndefined,
    )
    return environment.get_template("report.html.j2").render(
        content=content,
        answered_by=engines_line(content),
        headlines=sentences(content),
        figures=[(one.picture.title, one.picture.caption, one.svg) for one in figures],
        tables=[table for table in tables(content) if table.shown],
    )


def markdown_report(content: Content, figures: Sequence[Drawn]) -> str:
    """The report as Markdown, for a terminal or a pull request; figures are links."""
    lines = [f"# {escape.markdown(content.title)}", ""]
    lines += [f"- {escape.markdown(line)}" for line in sentences(content)]
    if content.missing:
        missing = escape.markdown(", ".join(content.missing))
        lines += ["", f"**Not finished, so not in this report:** {missing}"]
    for table in (table for table in tables(content) if table.shown):
        title, caption = escape.markdown(table.title), escape.markdown(table.caption)
        lines += ["", f"## {title}", "", *markdown_rows(table), "", caption]
    for picture, _, _ in figures:
        caption = escape.markdown(picture.caption)
        lines += [
            "",
            f"![{picture.title}](figures/{picture.name})",
            "",
            f"*{picture.title}.* {caption}",
        ]
    versions = ", ".join(f"{name} {value}" for name, value in content.provenance.items())
    reversed_ = "" if content.config.direction == "forward" else ", direction reverse"
    before, after = escape.code(content.config.before), escape.code(content.config.after)
    ran = f"; answers by {escape.markdown(found)}" if (found := engines_line(content)) else ""
    made = f"before {before}, after {after}{reversed_}{ran}; {escape.markdown(versions)}"
    return "\n".join([*lines, "", made, ""])


def engines_line(content: Content) -> str:
    """The engines and dtypes that generated the completions; empty without an evaluation.

    They come from the summaries, because the config may say `auto`.
    """
    found = {
        f"{summary.engine} in {summary.dtype}"
        for by_id in content.summaries.values()
        for summary in by_id.values()
    }
    return ", ".join(sorted(found))
