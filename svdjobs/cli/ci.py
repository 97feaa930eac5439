"""`svdjobs ci run`: run a sweep as a CI job; the exit code is the verdict."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from svdjobs.cli.options import account_option, parameter_option, tell
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
    """Gate checkpoints in continuous integration."""


@ci.command()
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option("--store", metavar="URL", help="The run's store; {name} is the sweep's name.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a config key."
)
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("ci-report"),
    show_default=True,
    help="Folder for the report, the verdict and summary.md.",
)
@click.option("--timeout", metavar="TIME", help="Time limit, e.g. 90m or 6h; then exit code 5.")
@click.option("--local", "here", is_flag=True, help="Run on this machine, without a cluster.")
@click.option(
    "--file",
    "-f",
    "workflow_file",
    type=click.Path(path_type=Path),
    help="Workflow to run; default: workflows/sweep.yaml.",
)
@click.option(
    "--from-template", metavar="NAME", help="Run an installed WorkflowTemplate instead of a file."
)
@parameter_option
@account_option
@click.option(
    "--keep-running", is_flag=True, help="Do not stop the Workflow if this job ends early."
)
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
    """Run a sweep and judge it: on the cluster, or with --local on this machine.

    \b
      svdjobs ci run jobs/sweeps/regression.yaml --store s3://bucket/ci/{name} \\
        --from-template svdjobs-sweep --namespace sweeps --timeout 6h

    Exit codes: 0 passed, 2 wrong use or missing outputs, 3 regression, 4 infrastructure failure, 5
    out of time. If the job is cancelled or out of time, the Workflow is stopped. The same command
    with the same store resumes the sweep.
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
            raise ConfigError(
                "--local takes no options of a cluster (--file, --from-template, -p, "
                "--service-account, --namespace, --keep-running). Remove --local or those options."
            )
        from svdjobs.ci import local

        return _run_job(config.name, into, lambda: local.job(config, into, seconds, write=tell))
    if workflow_file and from_template:
        raise ConfigError("give either --file or --from-template, not both.")
    from svdjobs.ci import cluster as jobs

    submission = Submission(
        config_file=config_file,
        store=config.store,
        workflow_file=workflow_file or DEFAULT_FILE,
        template=from_template,
        parameters=pairs_of(pairs),
        service_account=service_account,
        name=workflow_name(config.name),
        overrides=overrides,
        # Argo ends the Workflow even if this machine is gone before it can stop it.
        deadline_seconds=None if keep_running else seconds,
    )

    def on_cluster() -> Finding:
        cluster = connect(namespace, waits=True)
        return jobs.job(
            cluster,
            submission,
            config.name,
            into,
            timeout_seconds=seconds,
            keep_running=keep_running,
            write=tell,
        )

    return _run_job(config.name, into, on_cluster)


def _seconds(text: str) -> int:
    """The seconds of a time such as `45s`, `90m`, `6h` or `1d`.

    Raises:
        ConfigError: `text` is no such time, or it is zero.
    """
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None or not int(found[1]):
        raise ConfigError(
            f"--timeout {text!r}: expected a positive number and s, m, h or d, e.g. 6h."
        )
    return int(found[1]) * _UNITS[found[2]]


def _run_job(name: str, into: Path, job: Callable[[], Finding]) -> int:
    """Run a job, publish its summary and return its exit code."""
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
