"""`svdjobs ci run`: a sweep as a CI job, with a verdict for an exit code."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from svdjobs.cli.workflow import connect, namespace_option, pairs_of
from svdjobs.errors import (
    EXIT_INFRASTRUCTURE,
    EXIT_OK,
    EXIT_REGRESSION,
    EXIT_TIMED_OUT,
    EXIT_TRY_AGAIN,
    EXIT_USAGE,
    ConfigError,
    SvdjobsError,
    exit_code,
)

if TYPE_CHECKING:
    from svdjobs.cluster.submit import Submission
    from svdjobs.cluster.tree import Run
    from svdjobs.config import SweepConfig
    from svdjobs.reporting.job_summary import Finding

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Job(NamedTuple):
    """What a CI job was asked to do."""

    config_file: Path
    config: SweepConfig
    overrides: tuple[str, ...]
    into: Path
    timeout_seconds: int | None


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
    from svdjobs.cluster.submit import DEFAULT_FILE, Submission

    job = _job(config_file, store, overrides, into, timeout)
    if here:
        if workflow_file or from_template or pairs or service_account or namespace or keep_running:
            raise ConfigError("--local takes no options of a cluster; leave one of them out.")
        return _concluded(job, _locally)
    if workflow_file and from_template:
        raise ConfigError("give either --file or --from-template.")
    submission = Submission(
        config_file=config_file,
        store=job.config.store,
        workflow_file=workflow_file or DEFAULT_FILE,
        template=from_template,
        parameters=pairs_of(pairs),
        service_account=service_account,
        overrides=overrides,
    )
    return _concluded(job, lambda job: _on_cluster(job, submission, namespace, keep_running))


def _job(
    config_file: Path,
    store: str | None,
    overrides: tuple[str, ...],
    into: Path,
    timeout: str | None,
) -> Job:
    from svdjobs.config import load_config

    seconds = None if timeout is None else _seconds(timeout)
    config = load_config(config_file, overrides)
    if store is not None:
        config = config.model_copy(update={"store": store.replace("{name}", config.name)})
    return Job(config_file, config, overrides, into, seconds)


def _seconds(text: str) -> int:
    """`90m`, `6h`, `45s`, `1d` in seconds.

    Raises:
        ConfigError: it is none of them.
    """
    found = re.fullmatch(r"(\d+)([smhd])", text)
    if found is None or not int(found[1]):
        raise ConfigError(f"--timeout {text!r}: expected a number and s, m, h or d, e.g. 6h.")
    return int(found[1]) * _UNITS[found[2]]


def _concluded(job: Job, how: Callable[[Job], Finding]) -> int:
    """Do a job, publish what is known at its end, and give its exit code."""
    from svdjobs.reporting.job_summary import Finding, page, publish

    try:
        finding = how(job)
    except SvdjobsError as error:
        code = EXIT_INFRASTRUCTURE if exit_code(error) == EXIT_TRY_AGAIN else exit_code(error)
        finding = Finding(job.config.name, code, words=f"Error: {error}")
        click.echo(finding.words, err=True)
    publish(page(finding), job.into)
    click.echo(f"Summary: {job.into / 'summary.md'}")
    return finding.code


def _locally(job: Job) -> Finding:
    """The sweep in this process."""
    from svdjobs import local
    from svdjobs.deadline import OutOfTime, deadline
    from svdjobs.reporting.job_summary import Finding
    from svdjobs.stages import gate, report
    from svdjobs.stages.bring_back import bring_back
    from svdjobs.storage.store import open_store

    config, store = job.config, open_store(job.config.store_url)
    places = [f"Report: {store.url}/report/report.html; here: {job.into}/report/report.html"]
    try:
        with deadline(job.timeout_seconds):
            local.sweep(config)
            click.echo(report.closing_words(config, store))
            missing = bring_back(store, job.into, ["report"]).missing
            verdict = local.judge(config)
    except OutOfTime:
        words = (
            f"Not ended within the {job.timeout_seconds} s of --timeout. What is finished is kept: "
            f"the same command goes on."
        )
        click.echo(words)
        return Finding(config.name, EXIT_TIMED_OUT, words=words)
    if verdict is not None:
        bring_back(store, job.into, ["gate"])
        click.echo(f"\n{gate.closing_words(store)}")
    failed = EXIT_REGRESSION if verdict is not None and verdict.failed else EXIT_OK
    code = EXIT_USAGE if missing else failed
    return Finding(config.name, code, gate=verdict, missing=missing, places=places)


def _on_cluster(
    job: Job, submission: Submission, namespace: str | None, keep_running: bool
) -> Finding:
    """The sweep as a Workflow."""
    from dataclasses import replace

    from svdjobs.cluster import ci as jobs
    from svdjobs.cluster.lines import logs_command
    from svdjobs.cluster.names import workflow_name
    from svdjobs.reporting.job_summary import Finding

    cluster = connect(namespace, waits=True)
    name = workflow_name(job.config.name)
    wanted = replace(
        submission,
        name=name,
        annotations=jobs.origin(os.environ),
        # Also where this machine is gone before it can stop the Workflow.
        deadline_seconds=None if keep_running else job.timeout_seconds,
    )
    ended = jobs.run(
        cluster, wanted, name,
        timeout_seconds=job.timeout_seconds, keep_running=keep_running, write=click.echo,
    )  # fmt: skip
    click.echo(ended.words)
    if ended.run is None:
        look = [f"svdjobs workflow watch {name} --namespace {cluster.namespace}"]
        return Finding(job.config.name, ended.code, words=ended.words, look=look)
    jobs.show_failures(cluster, ended.run, click.echo)
    finding = _brought(job, ended.run)
    look = [] if ended.code == EXIT_OK else [f"{logs_command(ended.run)} --failed"]
    words = "\n".join(part for part in (ended.words, finding.words) if part)
    return finding._replace(code=ended.code, words=words, look=look)


def _brought(job: Job, ended: Run) -> Finding:
    """What the Workflow made of report and verdict, copied here if the store can be read here."""
    from svdjobs.cluster.watch import judged, reported
    from svdjobs.reporting.gate import plain
    from svdjobs.reporting.job_summary import Finding
    from svdjobs.stages.bring_back import bring_back
    from svdjobs.storage.store import open_store

    made = {"report": reported(ended), "gate": judged(ended)}
    wanted = [prefix for prefix, there in made.items() if there]
    places = [f"In the store: {ended.store.rstrip('/')}/{prefix}" for prefix in wanted]
    if not wanted:
        return Finding(job.config.name, EXIT_OK)
    try:
        brought = bring_back(open_store(ended.store), job.into, wanted)
    except (SvdjobsError, OSError) as error:
        words = (
            f"The store {ended.store} cannot be read from here, so report and verdict stay there; "
            f"the exit code is the Workflow's. {error}"
        )
        click.echo(words)
        return Finding(job.config.name, EXIT_OK, words=words, places=places)
    if brought.gate is not None:
        click.echo(f"\n{plain(brought.gate)}")
    places += [f"Here: {job.into}/{prefix}" for prefix in wanted]
    return Finding(
        job.config.name, EXIT_OK, gate=brought.gate, missing=brought.missing, places=places
    )


COMMANDS = (ci,)
