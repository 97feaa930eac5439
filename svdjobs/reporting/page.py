"""From content to files: one self-contained HTML page, Markdown, CSV, PNG."""

from __future__ import annotations

from svdjobs import escape
from svdjobs.reporting import figures
from svdjobs.reporting.accuracy import divergences
from svdjobs.reporting.data import Content
from svdjobs.reporting.tables import headlines, tables
from svdjobs.reporting.text import markdown_rows

FIGURE_NAMES = {
    "accuracy.png": "Accuracy against alpha",
    "divergence.png": "Divergence from after against alpha",
    "rotation_mse_curves.png": "Does the rotation compose? MSE(R1·R2, R3) by layer",
    "spectrum.png": "What happened to the singular values",
}
CAPTIONS = {
    "accuracy.png": (
        "Each point is a checkpoint with {bases}'s singular vectors and blended singular values; "
        "bars and bands are 95 % intervals clustered by problem. A flat line at {bases}'s level "
        "says that the gain sits in the singular vectors; one that {moves} to {values}'s at "
        "alpha = 0, that it sits in the singular values. The paired differences in the table "
        "below are sharper than these bars."
    ),
    "divergence.png": (
        "How far each checkpoint's next-token distribution is from after's, on answers that after "
        "gave: no sampling noise of the checkpoint, so it sees effects far too small to move an "
        "accuracy. The dashed line is before: what the whole of RL amounts to by the same measure."
    ),
    "rotation_mse_curves.png": (
        "R1, R2, R3 are the overlaps of the singular bases base→rl1, rl1→rl2 and base→rl2. Solid: "
        "measured. Dashed: the same matrices moved by random updates of the same norm. Dotted: "
        "unrelated bases. Solid far under dotted: the bases barely turned. Solid near dashed: they "
        "turned no more than noise of that size would turn them."
    ),
    "spectrum.png": (
        "Left: how far each singular value moved, relative to itself. Right: the whole spectrum's "
        "shift per matrix. Solid under dashed: the update avoids the singular values, it moves "
        "them less than a random update of the same norm would."
    ),
}


def drawn(content: Content) -> dict[str, tuple[bytes, str]]:
    """PNG bytes and SVG text of every figure that has something to show."""
    found = {}
    if content.summaries:
        found["accuracy.png"] = figures.accuracy(content)
    if any(divergences(content, benchmark) for benchmark in content.likelihoods):
        found["divergence.png"] = figures.divergence(content)
    if content.rotations:
        found["rotation_mse_curves.png"] = figures.rotation_mse(content)
    if content.spectra or content.rotations:
        found["spectrum.png"] = figures.spectrum(content)
    return {name: (figures.png(figure), figures.svg(figure)) for name, figure in found.items()}


def html_report(content: Content, pictures: dict[str, tuple[bytes, str]]) -> str:
    """One page that needs no network: styles and figures are inside."""
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
        headlines=headlines(content),
        figures=[(FIGURE_NAMES[n], _caption(n, content), svg) for n, (_, svg) in pictures.items()],
        tables=tables(content),
    )


def _caption(name: str, content: Content) -> str:
    config = content.config
    moves = "falls" if config.direction == "forward" else "rises"
    return CAPTIONS[name].format(bases=config.bases_of, values=config.values_of, moves=moves)


def markdown_report(content: Content, pictures: dict[str, tuple[bytes, str]]) -> str:
    """The same for a terminal or a pull request; figures are links."""
    lines = [f"# {escape.markdown(content.title)}", ""]
    lines += [f"- {escape.markdown(line)}" for line in headlines(content)]
    if content.missing:
        missing = escape.markdown(", ".join(content.missing))
        lines += ["", f"**Not finished, so not in this report:** {missing}"]
    for table in tables(content):
        title, caption = escape.markdown(table.title), escape.markdown(table.caption)
        lines += ["", f"## {title}", "", *markdown_rows(table), "", caption]
    for name in pictures:
        caption = escape.markdown(_caption(name, content))
        lines += [
            "",
            f"![{FIGURE_NAMES[name]}](figures/{name})",
            "",
            f"*{FIGURE_NAMES[name]}.* {caption}",
        ]
    versions = ", ".join(f"{name} {value}" for name, value in content.provenance.items())
    reversed_ = "" if content.config.direction == "forward" else ", direction reverse"
    before, after = escape.code(content.config.before), escape.code(content.config.after)
    ran = f"; answers by {escape.markdown(found)}" if (found := engines_line(content)) else ""
    made = f"before {before}, after {after}{reversed_}{ran}; {escape.markdown(versions)}"
    return "\n".join([*lines, "", made, ""])


def engines_line(content: Content) -> str:
    """Engines and dtypes that answered, whatever the config leaves to `auto`; empty for none."""
    found = {
        f"{summary.engine} in {summary.dtype}"
        for by_id in content.summaries.values()
        for summary in by_id.values()
    }
    return ", ".join(sorted(found))
