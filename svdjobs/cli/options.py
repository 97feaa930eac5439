"""What the stage commands share: where the config comes from, and what is done of it."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from svdjobs import escape
from svdjobs.errors import ConfigError

if TYPE_CHECKING:
    from svdjobs.config import SweepConfig
    from svdjobs.storage.store import Store

# Says that a config lies in an environment variable, where a workflow puts it.
ENVIRONMENT = "env:"


def tell(words: str, *, err: bool = False) -> None:
    """Write lines to standard output, or to standard error; nothing in them acts on a terminal."""
    click.echo(escape.screen(words), err=err)


class Given(NamedTuple):
    """The config a command was given, not yet read."""

    source: str | None
    """A file, or `env:` and the name of a variable that holds its text."""
    overrides: tuple[str, ...]
    store_url: str
    allow_pickle: bool
    rehash: bool = False

    def config(self) -> SweepConfig:
        """The config, with its overrides.

        Raises:
            ConfigError: there is none, or it cannot be used.
        """
        from svdjobs.config_file import load_config, read_config

        if self.source is None:
            raise ConfigError("give a config file, e.g. jobs/sweeps/demo.yaml.")
        overrides = list(self.overrides)
        if self.allow_pickle:
            overrides.append("allow_pickle=true")
        if self.store_url:
            overrides.append(f"store={json.dumps(self.store_url)}")  # as it is, not as YAML
        if not self.source.startswith(ENVIRONMENT):
            return load_config(Path(self.source), overrides)
        variable = self.source.removeprefix(ENVIRONMENT)
        if variable not in os.environ:
            raise ConfigError(f"--config {self.source}: there is no variable {variable}.")
        return read_config(os.environ[variable], overrides, where=variable)

    def opened(self) -> tuple[SweepConfig, Store]:
        """The config and the store of its run."""
        from svdjobs.storage.open import open_store

        config = self.config()
        store = open_store(config.store_url)
        if self.rehash:
            from svdjobs.checkpoint.identity import forget
            from svdjobs.runs.layout import IDENTITIES

            forget(store, IDENTITIES)
        return config, store


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """CONFIG and what changes it, as one argument `given`; and --force."""

    @click.argument("config_file", metavar="[CONFIG]", required=False)
    @click.option("--config", "config_option", metavar="CONFIG", help="CONFIG; or env:VARIABLE.")
    @click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a config key, e.g. 'alphas=[0,0.5,1]' or evaluate.n_samples=8.",
    )
    @click.option(
        "--store",
        "store_url",
        default="",
        metavar="URL",
        help="Where the run lives: a folder, s3://…",
    )
    @click.option("--force", is_flag=True, help="Do finished work again.")
    @click.option("--allow-pickle", is_flag=True, help="Read .bin checkpoints (weights only).")
    @click.option(
        "--rehash", is_flag=True, help="Hash every checkpoint again, also unchanged files."
    )
    @functools.wraps(command)
    def wrapped(
        *,
        config_file: str | None,
        config_option: str | None,
        overrides: tuple[str, ...],
        store_url: str,
        allow_pickle: bool,
        rehash: bool,
        **rest: Any,
    ) -> Any:
        if config_file and config_option:
            raise ConfigError(f"two configs: {config_file} and --config {config_option}.")
        source = config_file or config_option
        return command(given=Given(source, overrides, store_url, allow_pickle, rehash), **rest)

    return wrapped


def index_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--index and --of, by which an Indexed Job says its part; given as `index`, a pair or None."""

    @click.option("--index", type=click.IntRange(min=0), help="Only units INDEX, INDEX + OF, ….")
    @click.option("--of", type=click.IntRange(min=1), help="Indices there are; with --index.")
    @functools.wraps(command)
    def wrapped(*, index: int | None, of: int | None, **rest: Any) -> Any:
        if (index is None) != (of is None):
            raise ConfigError("--index and --of go together: --index 2 --of 8.")
        return command(index=None if index is None else (index, of), **rest)

    return wrapped


def whole_or_unit(unit: object, force: bool) -> None:
    """Refuse --force with a unit: it would throw away what other pods have done.

    Raises:
        ConfigError: both are given.
    """
    if unit is not None and force:
        raise ConfigError("--force does whole outputs again; leave it out for a single unit.")
