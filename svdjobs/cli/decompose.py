"""`svdjobs decompose`: the decompose stage of a sweep, or a decomposition of any checkpoints."""

from __future__ import annotations

from pathlib import Path

import click

from svdjobs.cli.options import Given, config_options, index_options, whole_or_unit
from svdjobs.errors import ConfigError


@click.command()
@click.option("--unit", metavar="ID", help="Only this shard of a checkpoint, e.g. after-000.")
@index_options
@click.option(
    "--model_id",
    "model_ids",
    multiple=True,
    metavar="SOURCE",
    help="Folder or hub id of a checkpoint to decompose without CONFIG (repeatable).",
)
@click.option(
    "--output_dir", type=click.Path(path_type=Path), help="Folder for the factors of --model_id."
)
@click.option(
    "--export",
    "export_format",
    type=click.Choice(["pt"]),
    help="Also write U, S, Vh, orig_shape per tensor as <output_dir>/<checkpoint>/<tensor>.pt.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    help="Matrices decomposed at a time; 0 chooses by cores and memory.",
)
@config_options
def decompose(
    given: Given,
    force: bool,
    unit: str | None,
    index: tuple[int, int] | None,
    model_ids: tuple[str, ...],
    output_dir: Path | None,
    export_format: str | None,
    workers: int,
) -> None:
    """Decompose the checkpoints of a sweep, or any others with --model_id.

    \b
      svdjobs decompose jobs/sweeps/demo.yaml
      svdjobs decompose --model_id A --model_id B --output_dir svd --export pt
    """
    if (given.source is None) == (not model_ids):
        raise ConfigError("give either CONFIG, or --model_id with --output_dir.")
    if given.source is not None:
        if output_dir or export_format or workers:
            raise ConfigError(
                "--output_dir, --export and --workers need --model_id; with CONFIG, set "
                "decompose.workers in it."
            )
        _stage(given, unit, index, force=force)
        return
    if unit is not None or index is not None:
        raise ConfigError(
            "--unit and --index need CONFIG: they choose shards of its checkpoints. Remove them, "
            "or give CONFIG instead of --model_id."
        )
    if output_dir is None:
        raise ConfigError("--model_id needs --output_dir.")
    from svdjobs.standalone import decompose as decompose_alone

    decompose_alone.run(
        list(model_ids),
        output_dir,
        export=export_format is not None,
        workers=workers,
        force=force,
        allow_pickle=given.allow_pickle,
    )


def _stage(given: Given, unit: str | None, index: tuple[int, int] | None, *, force: bool) -> None:
    whole_or_unit(unit if index is None else index, force)
    config, store = given.opened()
    from svdjobs.runs import layout, shards
    from svdjobs.stages import decompose as stage

    if index is None:
        stage.run(config, store, shard_id=unit, force=force)
        return
    plan = layout.load_plan(store, config, stage=stage.STAGE)
    for shard in shards.items_at_index(shards.decompose_shards(config, plan), *index):
        stage.run(config, store, shard_id=shard.id)


COMMANDS = (decompose,)
