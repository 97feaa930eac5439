"""Options that commands share: the config, the store, --force, --index, and those of a Workflow."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from svdjobs import escape
from svdjobs.errors import ConfigError

if TYPE_CHECKING:
    from svdjobs.config import SweepConfig
    from svdjobs.storage.store import Store

# Prefix of a --config that is an environment variable: a Workflow puts the YAML text there.
ENVIRONMENT = "env:"

parameter_option = click.option(
    "-p",
    "--parameter",
    "pairs",
    multiple=True,
    metavar="KEY=VALUE",
    help="Set a parameter of the Workflow (repeatable).",
)
account_option = click.option(
    "--service-account", metavar="NAME", help="Account of the pods; default: the Workflow's own."
)


def tell(words: str, *, err: bool = False) -> None:
    """Print to standard output, or to standard error; control characters are escaped."""
    click.echo(escape.screen(words), err=err)


def tell_json(document: object) -> None:
    """Print a document for scripts, in ASCII. A CI system must find no command in it (`##[…]`)."""
    text = escape.without_secrets(json.dumps(document, indent=1))
    click.echo(text.replace("##", "#\\u0023"))


class Given(NamedTuple):
    """The options that say which config and store a command uses; nothing is read yet."""

    source: str | None
    """A file, or `env:NAME` for an environment variable that holds the YAML text."""
    overrides: tuple[str, ...]
    store_url: str
    allow_pickle: bool
    rehash: bool = False

    def config(self) -> SweepConfig:
        """Read the config and apply the overrides.

        Raises:
            ConfigError: no config was given, or it is invalid.
        """
        from svdjobs.config_file import load_config, read_config

        if self.source is None:
            raise ConfigError("give a config file, e.g. jobs/sweeps/demo.yaml.")
        overrides = list(self.overrides)
        if self.allow_pickle:
            overrides.append("allow_pickle=true")
        if self.store_url:
            # An override's value is read as YAML; quotes keep the URL a string.
            overrides.append(f"store={json.dumps(self.store_url)}")
        if not self.source.startswith(ENVIRONMENT):
            return load_config(Path(self.source), overrides)
        variable = self.source.removeprefix(ENVIRONMENT)
        if variable not in os.environ:
            raise ConfigError(
                f"--config {self.source}: the environment variable {variable} is not set."
            )
        return read_config(os.environ[variable], overrides, where=variable)

    def opened(self) -> tuple[SweepConfig, Store]:
        """Read the config and open the run's store; with --rehash, forget the cached hashes."""
        from svdjobs.storage.open import open_store

        config = self.config()
        store = open_store(config.store_url)
        if self.rehash:
            from svdjobs.checkpoint.identity import forget
            from svdjobs.runs.layout import IDENTITIES

            forget(store, IDENTITIES)
        return config, store


def key_names(begin: str) -> list[str]:
    """The names of config keys that begin so, for completion in a shell."""
    from svdjobs.config import SweepConfig
    from svdjobs.settings import keys

    return [key.name for key in keys(SweepConfig) if key.name.startswith(begin)]


def _overrides(_: click.Context, __: click.Parameter, begin: str) -> list[str]:
    return [f"{name}=" for name in key_names(begin) if "*" not in name]


def _config_files(_: click.Context, __: click.Parameter, begin: str) -> list[CompletionItem]:
    return [CompletionItem(begin, type="file")]


def config_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add CONFIG and the options that change it, passed as `given`, and --force."""

    @click.argument("config_file", metavar="[CONFIG]", required=False, shell_complete=_config_files)
    @click.option(
        "--config",
        "config_option",
        metavar="CONFIG",
        help="The same as CONFIG, or env:VARIABLE for YAML text in an environment variable.",
    )
    @click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        shell_complete=_overrides,
        help="Override a config key, e.g. 'alphas=[0,0.5,1]' or evaluate.n_samples=8.",
    )
    @click.option(
        "--store",
        "store_url",
        default="",
        metavar="URL",
        help="The run's store: a folder or s3://bucket/prefix.",
    )
    @click.option("--force", is_flag=True, help="Make finished outputs again.")
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
            raise ConfigError(
                f"two configs: {config_file} and --config {config_option}. Give one of them."
            )
        source = config_file or config_option
        return command(given=Given(source, overrides, store_url, allow_pickle, rehash), **rest)

    return wrapped


def index_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --index and --of, passed as `index`: a pair, or None. An Indexed Job chooses a pod's
    shards with them."""

    @click.option(
        "--index",
        type=click.IntRange(min=0),
        help="Only every OF-th shard from INDEX on, as a pod of an Indexed Job does.",
    )
    @click.option("--of", type=click.IntRange(min=1), help="Number of indices; with --index.")
    @functools.wraps(command)
    def wrapped(*, index: int | None, of: int | None, **rest: Any) -> Any:
        if (index is None) != (of is None):
            raise ConfigError("--index and --of go together: --index 2 --of 8.")
        return command(index=None if index is None else (index, of), **rest)

    return wrapped


def whole_or_unit(unit: object, force: bool) -> None:
    """Refuse --force for a shard: it would delete the other pods' shards of the same output.

    Raises:
        ConfigError: `unit` is not None and `force` is set.
    """
    if unit is not None and force:
        raise ConfigError(
            "--force makes whole outputs again, not single shards. Remove --force, or remove "
            "--unit and --index."
        )
