"""`svdjobs status`: what is in the store of a run."""

from __future__ import annotations

import json

import click

from svdjobs.cli.options import tell


@click.command()
@click.argument("run_url", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print every output as JSON, for scripts.")
def status(run_url: str, as_json: bool) -> None:
    """Say what a run has finished, what is missing, and which command goes on.

    RUN is the run's store: a folder or s3://bucket/prefix. Only stored bytes are looked at, so this
    works wherever the run was made; it cannot know whether a stage runs at present. To follow the
    pods of a cluster, use `svdjobs workflow watch`.
    """
    from svdjobs.standalone import status as standalone
    from svdjobs.storage.open import open_store

    found = standalone.run(open_store(run_url))
    if as_json:
        tell(json.dumps(standalone.document(found), indent=1))
        return
    for line in standalone.words(found):
        tell(line)


COMMANDS = (status,)
