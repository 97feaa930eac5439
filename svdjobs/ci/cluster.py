"""Run a sweep on the cluster for a CI job: submit it, watch it, and stop it if the job ends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from svdjobs import escape
from svdjobs.ci.fetch_results import bring_back
from svdjobs.ci.summary import Finding
from svdjobs.cluster.api import Cluster
from svdjobs.cluster.submit import Submission, submit
from svdjobs.cluster.watching import logs, updates
from svdjobs.cluster.watching.logs import Write
from svdjobs.cluster.watching.screen import closing_words, judged, reported, watch
from svdjobs.cluster.watching.status import WorkflowTree, exit_code
from svdjobs.cluster.watching.status_text import command
from svdjobs.cluster.watching.stuck import StuckError
from svdjobs.deadline import OutOfTime, deadline
from svdjobs.errors import (
    EXIT_INFRASTRUCTURE,
    EXIT_OK,
    EXIT_TIMED_OUT,
    RefusedError,
    SvdjobsError,
    UnavailableError,
)
from svdjobs.reporting.gate import plain
from svdjobs.stages import gate, report
from svdjobs.storage.open import open_store

# A CI system kills a cancelled job a few seconds after its first signal, GitHub after 10 s:
# https://docs.github.com/en/actions/reference/workflow-cancellation-reference
STOP_SECONDS = 5.0
LAST_LINES = 30
PODS_SHOWN = 8
# The environment variables in which CI systems give the commit and the branch.
COMMIT = ("GITHUB_SHA", "CI_COMMIT_SHA")
BRANCH = ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME")


class Ended(NamedTuple):
    """The end of a job's Workflow, as far as the job has seen it."""

    code: int
    words: str
    run: WorkflowTree | None = None
    """The ended Workflow; None if the job did not wait for the end."""


def job(
    cluster: Cluster,
    submission: Submission,
    sweep: str,
    into: Path,
    *,
    timeout_seconds: float | None,
    keep_running: bool,
    write: Write,
) -> Finding:
    """Run a sweep's Workflow for a CI job, copy its report and verdict to `into`, and return both.

    `submission` must have a name.
    """
    annotated = replace(submission, annotations=origin(os.environ))
    ended = run(
        cluster, annotated, timeout_seconds=timeout_seconds, keep_running=keep_running, write=write
    )
    write(ended.words)
    if ended.run is None:
        look = [f"svdjobs workflow watch {annotated.name} --namespace {cluster.namespace}"]
        return Finding(sweep, ended.code, words=ended.words, look=look)
    show_failures(cluster, ended.run, write)
    look = [] if ended.code == EXIT_OK else [f"{command('logs', ended.run)} --failed"]
    finding = Finding(sweep, ended.code, words=ended.words, look=look)
    return brought(finding, ended.run, into, write)


def brought(finding: Finding, ended: WorkflowTree, into: Path, write: Write) -> Finding:
    """Return `finding` with the report and verdict that the Workflow made.

    Both are copied to `into`, unless the store cannot be read from here.
    """
    made = {report.PREFIX: reported(ended), gate.PREFIX: judged(ended)}
    prefixes = [prefix for prefix, there in made.items() if there]
    places = [f"In the store: {ended.store.rstrip('/')}/{prefix}" for prefix in prefixes]
    if not prefixes:
        return finding
    try:
        copied = bring_back(open_store(ended.store), into, prefixes)
    except (SvdjobsError, OSError) as error:
        words = (
            f"The store {escape.line(ended.store)} cannot be read from here, so report and verdict "
            f"stay there; the exit code is the Workflow's. {error}"
        )
        write(words)
        return finding._replace(words=f"{finding.words}\n{words}", places=places)
    if copied.gate is not None:
        write(f"\n{plain(copied.gate)}")
    places += [f"Here: {into}/{prefix}" for prefix in prefixes]
    return finding._replace(gate=copied.gate, missing=copied.missing, places=places)


def run(
    cluster: Cluster,
    submission: Submission,
    *,
    timeout_seconds: float | None,
    keep_running: bool,
    write: Write,
) -> Ended:
    """Submit a Workflow and watch it until it ends. `submission` must have a name.

    If time runs out or the job is interrupted, stop the Workflow unless `keep_running`: a cancelled
    job must not leave GPUs at work. The interruption is then raised again.
    """
    name = str(submission.name)
    try:
        with deadline(timeout_seconds):
            submit(cluster, submission)
            write(f"Workflow {name} submitted to namespace {cluster.namespace}.")
            seen = watch(cluster, name)
    except OutOfTime:
        words = f"The Workflow did not end within the {timeout_seconds:g} s of --timeout. "
        return Ended(EXIT_TIMED_OUT, words + stopped(cluster, name, keep_running))
    except (KeyboardInterrupt, SystemExit):
        write(stopped(cluster, name, keep_running))
        raise
    except UnavailableError as error:
        return Ended(EXIT_INFRASTRUCTURE, f"{error} {after_words(cluster, name)}")
    except StuckError as error:
        return Ended(EXIT_INFRASTRUCTURE, f"{error} {stopped(cluster, name, keep_running)}")
    return Ended(exit_code(seen), closing_words(seen), seen)


def stopped(cluster: Cluster, name: str, keep_running: bool) -> str:
    """Stop a Workflow unless `keep_running`, and return a sentence on its state."""
    if keep_running:
        return f"Workflow {name} keeps running (--keep-running). {after_words(cluster, name)}"
    cluster.patience_seconds = min(cluster.patience_seconds, STOP_SECONDS)
    try:
        updates.stop(cluster, name, terminate=False)
    except SvdjobsError as error:
        if isinstance(error, RefusedError) and error.status == 404:
            return f"Workflow {name} was not created."
        return f"Workflow {name} could not be stopped: {error} {after_words(cluster, name)}"
    return (
        f"Workflow {name} is being stopped. Finished outputs are kept: the same command with the "
        f"same store resumes the sweep."
    )


def after_words(cluster: Cluster, name: str) -> str:
    """The commands that watch and stop a Workflow that keeps running."""
    where = f"{name} --namespace {cluster.namespace}"
    return f"Watch it with `svdjobs workflow watch {where}`, stop it with `… stop {where}`."


def show_failures(cluster: Cluster, ended: WorkflowTree, write: Write) -> None:
    """Write the last log lines of the failed pods, for a person who reads the CI job's log."""
    try:
        hidden = logs.last_lines(cluster, ended, write, LAST_LINES, PODS_SHOWN)
    except SvdjobsError as error:
        write(f"The logs of failed pods cannot be read: {error}")
        return
    if hidden:
        write(f"{hidden} more failed pods: {command('logs', ended)} --failed")


def origin(environment: Mapping[str, str]) -> dict[str, str]:
    """Annotations with the commit and branch of a CI job; empty outside CI."""
    annotations = {}
    for what, variables in (("commit", COMMIT), ("branch", BRANCH)):
        if value := next((environment[v] for v in variables if environment.get(v)), ""):
            annotations[f"svdjobs.io/{what}"] = value
    return annotations
