"""Write the content of a report as one HTML page that needs no network, and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib import resources
from typing import TYPE_CHECKING

from svdjobs import escape
from svdjobs.reporting.data import Content
from svdjobs.reporting.problems import Part, packed
from svdjobs.reporting.sections import Topic, answers
from svdjobs.reporting.text import markdown_rows

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

LONG_TABLE = 16
"""A table with more rows is folded on the page."""
ASSETS = ("page.css", "page.js", "vega.min.js", "katex.min.js")


def html_report(content: Content, topics: Sequence[Topic], parts: Sequence[Part]) -> str:
    """The report as one HTML page: it contains styles, scripts, figures and data.

    `parts` are those of its problems that lie in the page.
    """
    details = [
        Part(f"details-{picture.name}", packed(picture.details))
        for topic in topics
        for picture in topic.pictures
        if picture.details
    ]
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            content=content,
            answered_by=engines_line(content),
            answers=answers(content),
            topics=topics,
            benchmarks=[part.name.removeprefix("index-") for part in parts if part.is_index],
            parts=[*parts, *details],
            long_table=LONG_TABLE,
            assets={name: _asset(name) for name in ASSETS},
        )
    )


def list_of_runs(rows: Sequence[object], seconds: float) -> str:
    """A page that lists runs, with `number`, `url` and `words` of each, and loads itself again
    after so many seconds."""
    template = _environment().get_template("runs.html.j2")
    return template.render(rows=rows, seconds=seconds, css=_asset("page.css"))


def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("svdjobs.reporting"),
        autoescape=True,
        finalize=escape.html,
        undefined=StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    environment.filters |= {"slug": slug, "ticks": ticks}
    return environment


def _asset(name: str) -> Markup:
    from markupsafe import Markup

    folder = resources.files("svdjobs.reporting") / "assets"
    return Markup((folder / name).read_text(encoding="utf-8"))


def slug(title: str) -> str:
    """A title as an anchor: `Read from after's answers` → `read-from-after-s-answers`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def ticks(text: str) -> Markup:
    """Text for HTML, with what is between backticks as code."""
    from markupsafe import Markup
    from markupsafe import escape as escape_html

    shown = str(escape_html(escape.line(text)))
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", shown))


def markdown_report(content: Content, topics: Sequence[Topic]) -> str:
    """The report as Markdown, for a terminal or a pull request; figures are links."""
    lines = [f"# {escape.markdown(content.title)}"]
    for question, texts in answers(content).items():
        lines += ["", f"**{question}**", "", *(f"- {escape.markdown(text)}" for text in texts)]
    for topic in topics:
        lines += ["", f"## {topic.title}"]
        for picture in topic.pictures:
            title, caption = escape.markdown(picture.title), escape.markdown(picture.caption)
            lines += ["", f"![{title}](figures/{picture.name}.png)", "", f"*{title}.* {caption}"]
        for table in topic.shown:
            title, caption = escape.markdown(table.title), escape.markdown(table.caption)
            lines += ["", f"### {title}", "", *markdown_rows(table), "", caption]
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
