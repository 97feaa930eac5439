"""`svdjobs export`: a run in the formats of other tools."""

from __future__ import annotations

from pathlib import Path

import click

from svdjobs.cli.options import tell

FORMATS = ("inspect", "lm-eval", "mlflow", "wandb")


@click.command()
@click.argument("kind", metavar="FORMAT", type=click.Choice(FORMATS))
@click.argument("run_url", metavar="RUN")
@click.argument("target", metavar="FOLDER")
def export(kind: str, run_url: str, target: str) -> None:
    """Export a run to FOLDER, which must be empty or new, in the format of another tool.

    \b
      inspect   Inspect's logs: every completion with its grade
      lm-eval   lm-evaluation-harness: results and samples of every checkpoint
      mlflow    an MLflow run with the report; FOLDER may be a tracking URI
      wandb     an offline run of Weights & Biases, to be uploaded by `wandb sync`

    Nothing is sent anywhere, unless FOLDER is a URI. docs/exports.md says what each holds.
    """
    from svdjobs.exports import inspect, lm_eval, trackers
    from svdjobs.runs.stored_config import stored_config
    from svdjobs.storage.open import open_store

    store = open_store(run_url)
    config, folder = stored_config(store), Path(target)
    written: list[object] = []
    if kind == "inspect":
        written += inspect.export(store, config, folder)
    elif kind == "lm-eval":
        written += lm_eval.export(store, config, folder)
    elif kind == "mlflow":
        written += trackers.to_mlflow(store, config, target)
    else:
        written += trackers.to_wandb(store, config, folder)
    for one in written:
        tell(f"Wrote {one}")


COMMANDS = (export,)
