"""The command line: parse, build a config, run, map errors to exit codes."""

from __future__ import annotations

import os
import signal
import sys

import click

import svdjobs
from svdjobs.cli import (
    ci,
    cite,
    decompose,
    diff,
    doctor,
    evaluation,
    export,
    init,
    keys,
    runs,
    stages,
    store,
    workflow,
)
from svdjobs.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, SvdjobsError, exit_code


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(svdjobs.__version__, prog_name="svdjobs")
@click.option("-q", "--quiet", is_flag=True, help="Print results and errors only.")
@click.option("-v", "--verbose", is_flag=True, help="Also print what libraries log.")
def cli(quiet: bool, verbose: bool) -> None:
    """How much of what RL did to a model sits in the singular values, how much in the rotation?

    Give it two checkpoints in a YAML file (see jobs/sweeps/) and run `svdjobs sweep FILE`.
    """
    if quiet:
        from svdjobs.progress import QUIET

        os.environ[QUIET] = "1"
    if verbose:
        import logging

        form = "%(asctime)s %(name)s: %(message)s"
        logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr)


GROUPS = (
    init,
    stages,
    diff,
    evaluation,
    decompose,
    runs,
    export,
    store,
    workflow,
    keys,
    ci,
    doctor,
    cite,
)
for command in (command for group in GROUPS for command in group.COMMANDS):
    cli.add_command(command)


def main() -> None:
    """Run the command line; turn every expected error into one message and an exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo(
            "\nInterrupted. Finished outputs are kept: run the same command again to resume.",
            err=True,
        )
        sys.exit(EXIT_INTERRUPTED)
    except SvdjobsError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(exit_code(error))
    except OSError as error:
        from svdjobs.errors import from_os_error

        click.echo(f"Error: {from_os_error(error, doing=str(error.filename or 'I/O'))}", err=True)
        sys.exit(exit_code(error))
    sys.exit(code if isinstance(code, int) else 0)


def _terminate(number: int, frame: object) -> None:
    """Exit by an exception, as for Ctrl-C: uploads are aborted and engines stopped on the way.

    A second SIGTERM is ignored: it would interrupt that cleanup.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    click.echo(
        "Terminated. Finished outputs are kept: run the same command again to resume.", err=True
    )
    sys.exit(EXIT_TERMINATED)


if __name__ == "__main__":
    main()
