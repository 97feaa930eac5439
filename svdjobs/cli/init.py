"""`svdjobs init`: write a commented sweep."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from svdjobs.cli.options import tell
from svdjobs.errors import ConfigError

QUESTIONS = {
    "before": "Checkpoint before RL (folder, s3:// URL, or hub id owner/name)",
    "after": "Checkpoint after RL",
}


@click.command()
@click.argument("path", metavar="[FILE]", type=click.Path(path_type=Path), default="sweep.yaml")
@click.option("--before", default="", metavar="CHECKPOINT", help="Checkpoint before RL.")
@click.option("--after", default="", metavar="CHECKPOINT", help="Checkpoint after RL.")
@click.option(
    "--benchmark", "benchmarks", multiple=True, metavar="NAME|FILE",
    help="A benchmark that svdjobs knows, or a file; again for more. Without: no evaluation.",
)  # fmt: skip
@click.option(
    "--rl1", default="", metavar="CHECKPOINT", help="A checkpoint between the two, for rotations."
)
@click.option("--name", default="", help="Name of the run. Default: that of the file.")
@click.option("--force", is_flag=True, help="Replace the file.")
def init(
    path: Path,
    before: str,
    after: str,
    benchmarks: tuple[str, ...],
    rl1: str,
    name: str,
    force: bool,
) -> None:
    """Write a commented sweep to FILE (default: sweep.yaml), and its JSON schema for editors.

    What is not given is asked for in a terminal.

    \b
      svdjobs init --before owner/base --after owner/rl --benchmark math-500
    """
    from svdjobs.benchmarks import KNOWN
    from svdjobs.standalone import new_sweep

    given = {"before": before, "after": after}
    missing = [key for key, value in given.items() if not value]
    if missing and not sys.stdin.isatty():
        flags = " and ".join(f"--{key}" for key in missing)
        raise ConfigError(f"give {flags}: there is no terminal to ask in.")
    for key in missing:
        given[key] = click.prompt(QUESTIONS[key], err=True)
    if missing and not benchmarks:
        known = ", ".join(one.name for one in KNOWN)
        said = click.prompt(
            f"Benchmarks, separated by commas: names ({known}) or files; empty for none",
            default="", show_default=False, err=True,
        )  # fmt: skip
        benchmarks = tuple(one.strip() for one in said.split(",") if one.strip())
    answers = new_sweep.Answers(name or path.stem, given["before"], given["after"], benchmarks, rl1)
    new_sweep.write(path, answers, force=force)
    tell(f"Wrote {path}, and {new_sweep.SCHEMA} for editors. Next: svdjobs plan {path}")


COMMANDS = (init,)
