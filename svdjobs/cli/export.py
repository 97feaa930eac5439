"""`svdjobs decompose`: a stage of a sweep, or on its own for any checkpoints."""

from __future__ import annotations

from pathlib import Path

import click

from svdjobs.errors import ConfigError


@click.command()
@click.argument("config_file", metavar="[CONFIG]", required=False, type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key.")
@click.option(
    "--model_id",
    "model_ids",
    multiple=True,
    metavar="SOURCE",
    help="A folder or hub id to decompose on its own (repeatable), instead of CONFIG.",
)
@click.option("--output_dir", type=click.Path(path_type=Path), help="Where its factors go.")
@click.option(
    "--export",
    "export_format",
    type=click.Choice(["pt"]),
    help="Also write U, S, Vh, orig_shape per tensor as <output_dir>/<checkpoint>/<tensor>.pt.",
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="Matrices at a time; 0 fits them."
)
@click.option("--force", is_flag=True, help="Do finished work again.")
@click.option("--allow-pickle", is_flag=True, help="Read .bin checkpoints (weights only).")
def decompose(
    config_file: Path | None,
    overrides: tuple[str, ...],
    model_ids: tuple[str, ...],
    output_dir: Path | None,
    export_format: str | None,
    workers: int,
    force: bool,
    allow_pickle: bool,
) -> None:
    """Decompose the checkpoints of a sweep, or any others with --model_id.

    \b
      svdjobs decompose jobs/sweeps/demo.yaml
      svdjobs decompose --model_id A --model_id B --output_dir svd --export pt
    """
    if (config_file is None) == (not model_ids):
        raise ConfigError("give either CONFIG, or --model_id with --output_dir.")
    if config_file is not None:
        if output_dir or export_format or workers:
            raise ConfigError(
                "--output_dir, --export and --workers go with --model_id; with CONFIG, set "
                "decompose.workers in it."
            )
        from svdjobs.cli.stages import load
        from svdjobs.stages import decompose as stage
        from svdjobs.storage.store import open_store

        config = load(config_file, overrides, allow_pickle)
        stage.run(config, open_store(config.store_url), force=force)
        return
    if output_dir is None:
        raise ConfigError("--model_id needs --output_dir.")
    from svdjobs.stages import standalone

    standalone.run(
        list(model_ids),
        output_dir,
        export=export_format is not None,
        workers=workers,
        force=force,
        allow_pickle=allow_pickle,
    )


COMMANDS = (decompose,)
