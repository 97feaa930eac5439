"""`svdjobs ci run`: a sweep as a CI job, with a verdict for an exit code."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from svdjobs.cli.options import tell
from svdjobs.cli.workflow import connect, namespace_option, pairs_of
from svdjobs.errors import (
    EXIT_INFRASTRUCTURE,
    EXIT_TRY_AGAIN,
    ConfigError,
    SvdjobsError,
    exit_code,
)

if TYPE_CHECKING:
    from svdjobs.ci.summary import Finding

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.group()
def ci() -> None:
    """Judge checkpoints in continuous integration."""


@ci.command()
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--store", metavar="URL", help="Where the run lives; {name} is the sweep's name.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a config key."
)
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("ci-report"),
    show_default=True,
    help="The folder that gets report, verdict and summary.md.",
)
@click.option("--timeout", metavar="TIME", help="Longest time, e.g. 90m or 6h; then code 5.")
@click.option("--local", "here", is_flag=True, help="On this machine, without a cluster.")
@click.option(
    "--file",
    "-f",
    "workflow_file",
    type=click.Path(path_type=Path),
    help="The Workflow; default: workflows/sweep.yaml.",
)
@click.option("--from-template", metavar="NAME", help="An installed WorkflowTemplate instead.")
@click.option("-p", "--parameter", "pairs", multiple=True, metavar="KEY=VALUE")
@click.option("--service-account", metavar="NAME", help="Default: the Workflow's own.")
@click.option("--keep-running", is_flag=True, help="Leave the Workflow alone when this ends early.")
@namespace_option
def run(
    config_file: Path,
    store: str | None,
    overrides: tuple[str, ...],
    into: Path,
    timeout: str | None,
    here: bool,
    workflow_file: Path | None,
    from_template: str | None,
    pairs: tuple[str, ...],
    service_account: str | None,
    keep_running: bool,
    namespace: str | None,
) -> int:
    """Run a sweep to its verdict: on the cluster, or with --local on this machine.

    \b
      svdjobs ci run jobs/sweeps/regression.yaml --store s3://bucket/ci/{name} \\
        --from-template svdjobs-sweep --namespace sweeps --timeout 6h

    Exits with 0 passed, 2 wrong use or something missing, 3 regression, 4 infrastructure, 5 out
    of time. Cancelled or out of time, it stops the Workflow. The same command with the same store
    goes on from what is finished.
    """
    from svdjobs.cluster.names import workflow_name
    from svdjobs.cluster.submit import DEFAULT_FILE, Submission
    from svdjobs.config_file import load_config

    seconds = None if timeout is None else _seconds(timeout)
    config = load_config(config_file, overrides)
    if store is not None:
        config = config.model_copy(update={"store": store.replace("{name}", config.name)})
    if here:
        if workflow_file or from_template or pairs or service_account or namespace or keep_running:
            raise ConfigError("--local takes no options of a cluster; leave one of them out.")
        from svdjobs.ci import local

        return _concluded(config.name, into, lambda: local.job(config, into, seconds, write=tell))
    if workflow_file and from_template:
        raise ConfigError("give either --file or --from-template.")
    from svdjobs.ci import cluster as jobs

    wanted = Submission(
        config_file=config_file,
        store=config.store,
        workflow_file=workflow_file or DEFAULT_FILE,
        template=from_template,
        parameters=pairs_of(pairs),
        service_account=service_account,
        name=workflow_name(config.name),
        overrides=overrides,
        # Also where this machine is gone before it can stop the Workflow.
        deadline_seconds=None if keep_running else seconds,
    )

    def on_cluster() -> Finding:
        cluster = connect(namespace, waits=True)
        return jobs.job(
            cluster, wanted, config.name, into,
            timeout_seconds=seconds, keep_running=keep_running, write=tell,
        )  # fmt: skip

    return _concluded(config.name, into, on_cluster)


def _seconds(text: str) -> int:
    """`90m`, `6h`, `45s`, `1d` in seconds.

    Raises:
        ConfigError: it is none of them.
    """
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None or not int(found[1]):
        raise ConfigError(f"--timeout {text!r}: expected a number and s, m, h or d, e.g. 6h.")
    return int(found[1]) * _UNITS[found[2]]


def _concluded(name: str, into: Path, job: Callable[[], Finding]) -> int:
    """Do a job, publish what is known at its end, and give its exit code."""
    from svdjobs.ci.fetch_results import clear
    from svdjobs.ci.summary import SUMMARY, Finding, page, publish

    clear(into)
    (into / SUMMARY).unlink(missing_ok=True)
    try:
        finding = job()
    except SvdjobsError as error:
        code = EXIT_INFRASTRUCTURE if exit_code(error) == EXIT_TRY_AGAIN else exit_code(error)
        finding = Finding(name, code, words=f"Error: {error}")
        tell(finding.words, err=True)
    publish(page(finding), into)
    tell(f"Summary: {into / SUMMARY}")
    return finding.code


COMMANDS = (ci,)
