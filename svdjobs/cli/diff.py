"""`svdjobs diff`: compare checkpoints by their weights."""

from __future__ import annotations

import click

from svdjobs.cli.options import tell, tell_json


@click.command()
@click.argument("sources", metavar="BEFORE AFTER", nargs=-1, required=True)
@click.option(
    "--store", "store_url", default="", metavar="URL", help="Where results go; default: runs/diff/."
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE",
    help="Set a config key, e.g. metrics.heads=false or selection.embeddings=true.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for scripts.")
@click.option("--force", is_flag=True, help="Measure again.")
@click.option("--allow-pickle", is_flag=True, help="Read .bin checkpoints (weights only).")
def diff(
    sources: tuple[str, ...],
    store_url: str,
    overrides: tuple[str, ...],
    as_json: bool,
    force: bool,
    allow_pickle: bool,
) -> None:
    """Say how the weights of two checkpoints differ, and whether more than by noise.

    Each is a folder, a hub id, an S3 URL or a LoRA adapter. Needs no config and evaluates nothing.
    Checkpoints between the first and the last one, in their order, are steps on the way.

    \b
      svdjobs diff base checkpoints/final
      svdjobs diff base step-100 step-200 step-300
    """
    from svdjobs.reporting.text import plain_table
    from svdjobs.standalone import diff as standalone

    config = standalone.config_of(
        sources, store_url=store_url, allow_pickle=allow_pickle, overrides=overrides
    )
    found = standalone.run(config, force=force)
    if as_json:
        document = {
            "checkpoints": list(sources),
            "verdict": found.verdict,
            "report": found.report_url,
            "matrices": [row.model_dump(mode="json") for row in found.rows],
        }
        tell_json(document)
        return
    tell(f"{plain_table(found.table)}\n")
    for line in found.verdict:
        tell(line)
    tell(f"\nReport: {found.report_url}")


COMMANDS = (diff,)
