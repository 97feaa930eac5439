"""`svdjobs sweep` and one command per stage, all over the same config file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from svdjobs.errors import ConfigError

if TYPE_CHECKING:
    from svdjobs.config import SweepConfig

Command = TypeVar("Command", bound=Callable[..., Any])


def config_options(command: Command) -> Command:
    """CONFIG, --set, --force and --allow-pickle, shared by all stage commands."""
    for option in (
        click.option("--allow-pickle", is_flag=True, help="Read .bin checkpoints (weights only)."),
        click.option("--force", is_flag=True, help="Do finished work again."),
        click.option(
            "--set", "overrides", multiple=True, metavar="KEY=VALUE",
            help="Override a config key, e.g. alphas=[0,0.5,1] or evaluate.n_samples=8.",
        ),
        click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path)),
    ):  # fmt: skip
        command = option(command)
    return command


def load(config_file: Path, overrides: tuple[str, ...], allow_pickle: bool) -> SweepConfig:
    """The config of a command, with its overrides."""
    from svdjobs.config import load_config

    pickle = ("allow_pickle=true",) if allow_pickle else ()
    return load_config(config_file, (*overrides, *pickle))


@click.command()
@config_options
def sweep(config_file: Path, overrides: tuple[str, ...], force: bool, allow_pickle: bool) -> None:
    """Run a whole sweep on this machine and print its report.

    Finished stages are skipped, so the same command resumes an interrupted sweep.
    """
    config = load(config_file, overrides, allow_pickle)
    from svdjobs import local
    from svdjobs.stages import report
    from svdjobs.storage.store import open_store

    local.sweep(config, force=force)
    click.echo(report.closing_words(config, open_store(config.store_url)))


@click.command()
@config_options
def plan(config_file: Path, overrides: tuple[str, ...], force: bool, allow_pickle: bool) -> None:
    """Say what a sweep will do and cost, from headers alone."""
    config = load(config_file, overrides, allow_pickle)
    from svdjobs import local
    from svdjobs.stages import plan as stage
    from svdjobs.storage.store import open_store

    for line in local.describe(stage.run(config, open_store(config.store_url), force=force)):
        click.echo(line)


@click.command()
@click.option("--alpha", "alphas", type=float, multiple=True, help="Only this alpha (repeatable).")
@config_options
def blend(
    config_file: Path,
    overrides: tuple[str, ...],
    force: bool,
    allow_pickle: bool,
    alphas: tuple[float, ...],
) -> None:
    """Write the blended checkpoints."""
    config = load(config_file, overrides, allow_pickle)
    from svdjobs.stages import blend as stage
    from svdjobs.storage.store import open_store

    if unknown := sorted(set(alphas) - set(config.alphas)):
        raise ConfigError(
            f"--alpha {unknown[0]}: the config has {', '.join(map(str, config.alphas))}."
        )
    chosen = sorted(set(alphas)) or None
    stage.run(config, open_store(config.store_url), alphas=chosen, force=force)


@click.command()
@config_options
def rotations(
    config_file: Path, overrides: tuple[str, ...], force: bool, allow_pickle: bool
) -> None:
    """Measure how the singular bases turn along base, rl1, rl2."""
    config = load(config_file, overrides, allow_pickle)
    from svdjobs.stages import rotations as stage
    from svdjobs.storage.store import open_store

    stage.run(config, open_store(config.store_url), force=force)


@click.command()
@config_options
def report(config_file: Path, overrides: tuple[str, ...], force: bool, allow_pickle: bool) -> None:
    """Write report.html and report.md from what has been finished."""
    config = load(config_file, overrides, allow_pickle)
    from svdjobs.stages import report as stage
    from svdjobs.storage.store import open_store

    store = open_store(config.store_url)
    stage.run(config, store, force=force)
    click.echo(stage.closing_words(config, store))


COMMANDS = (sweep, plan, blend, rotations, report)
