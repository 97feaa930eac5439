"""`svdjobs cite`: how to cite this version."""

from __future__ import annotations

import click

import svdjobs
from svdjobs.cli.options import tell

TITLE = (
    "svdjobs: how much of what reinforcement learning did to a language model sits in the singular "
    "values of its weights"
)


@click.command()
def cite() -> None:
    """Print a BibTeX entry for this version, with the commit that made your results."""
    from svdjobs.provenance import git_commit

    commit = git_commit()
    note = "" if commit == "unknown" else f",\n  note    = {{commit {commit}}}"
    tell(
        f"@software{{svdjobs,\n"
        f"  title   = {{{TITLE}}},\n"
        f"  author  = {{{{The svdjobs developers}}}},\n"
        f"  version = {{{svdjobs.__version__}}}{note}\n}}"
    )


COMMANDS = (cite,)
