"""`svdjobs keys`: list the keys of a config, with their defaults and meanings."""

from __future__ import annotations

import json

import click

from svdjobs.errors import ConfigError


def _sections(_: click.Context, __: click.Parameter, begin: str) -> list[str]:
    from svdjobs.cli.options import key_names

    return key_names(begin)


@click.command()
@click.argument("under", metavar="[SECTION]", default="", shell_complete=_sections)
@click.option(
    "--cluster", is_flag=True, help="Explain the cluster settings of `workflow render --settings`."
)
@click.option("--schema", is_flag=True, help="Print the JSON schema of a sweep, for editors.")
def keys(under: str, cluster: bool, schema: bool) -> None:
    """Explain the keys of a config: all of them, or those of a section.

    \b
      svdjobs keys evaluate
      svdjobs keys --cluster gpu
    """
    if schema:
        from svdjobs.config_schema import sweep_schema

        click.echo(json.dumps(sweep_schema(), indent=1))
        return
    from svdjobs.cluster.manifests.settings import ClusterSettings
    from svdjobs.config import SweepConfig
    from svdjobs.settings import Settings
    from svdjobs.settings import keys as every_key

    section: type[Settings] = ClusterSettings if cluster else SweepConfig
    found = [
        key for key in every_key(section) if f"{key.name}.".startswith(f"{under}.".lstrip("."))
    ]
    if not found:
        tops = ", ".join(key.name for key in every_key(section) if "." not in key.name)
        raise ConfigError(f"there is no key {under!r}; the top-level keys are {tops}.")
    for key in found:
        click.echo(f"{key.name}{key.default}")
        click.echo(f"    {key.meaning}\n")


COMMANDS = (keys,)
