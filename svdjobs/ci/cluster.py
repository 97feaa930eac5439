"""A sweep on the cluster on behalf of a CI job: submitted, watched, and stopped if the job ends."""

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
from svdjobs.cluster.watching.status import Run, exit_code
from svdjobs.cluster.watching.status_text import logs_command
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

# A cancelled job is killed a few seconds after it was told (GitHub: 10 s after the first signal:
# https://docs.github.com/en/actions/reference/workflow-cancellation-reference).
STOP_SECONDS = 5.0
LAST_LINES = 30
PODS_SHOWN = 8
# What CI systems call the commit and the branch.
COMMIT = ("GITHUB_SHA", "CI_COMMIT_SHA")
BRANCH = ("GITHUB_HEAD_REF", "GITHUB_REF_NAME", "CI_COMMIT_REF_NAME")


class Ended(NamedTuple):
    """How a job's Workflow ended, as far as the job has seen."""

    code: int
    words: str
    run: Run | None = None
    """As it ended; None where that was not waited for."""


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
    """The Workflow of a sweep and its verdict, on behalf of a CI job.

    Report and verdict are copied to `into`. The submission has a name.
    """
    wanted = replace(submission, annotations=origin(os.environ))
    ended = run(
        cluster, wanted, timeout_seconds=timeout_seconds, keep_running=keep_running, write=write
    )
    write(ended.words)
    if ended.run is None:
        look = [f"svdjobs workflow watch {wanted.name} --namespace {cluster.namespace}"]
        return Finding(sweep, ended.code, words=ended.words, look=look)
    show_failures(cluster, ended.run, write)
    look = [] if ended.code == EXIT_OK else [f"{logs_command(ended.run)} --failed"]
    known = Finding(sweep, ended.code, words=ended.words, look=look)
    return brought(known, ended.run, into, write)


def brought(known: Finding, ended: Run, into: Path, write: Write) -> Finding:
    """What is known and what the Workflow made of report and verdict, copied to `into` if the store
    can be read from here."""
    made = {report.PREFIX: reported(ended), gate.PREFIX: judged(ended)}
    wanted = [prefix for prefix, there in made.items() if there]
    places = [f"In the store: {ended.store.rstrip('/')}/{prefix}" for prefix in wanted]
    if not wanted:
        return known
    try:
        found = bring_back(open_store(ended.store), into, wanted)
    except (SvdjobsError, OSError) as error:
        words = (
            f"The store {escape.line(ended.store)} cannot be read from here, so report and verdict "
            f"stay there; the exit code is the Workflow's. {error}"
        )
        write(words)
        return known._replace(words=f"{known.words}\n{words}", places=places)
    if found.gate is not None:
        write(f"\n{plain(found.gate)}")
    places += [f"Here: {into}/{prefix}" for prefix in wanted]
    return known._replace(gate=found.gate, missing=found.missing, places=places)


def run(
    cluster: Cluster,
    submission: Submission,
    *,
    timeout_seconds: float | None,
    keep_running: bool,
    write: Write,
) -> Ended:
    """Submit a Workflow, whose name is given, and watch it until it has ended.

    Out of time, or interrupted, the Workflow is stopped, unless `keep_running`: a job that was
    cancelled must not leave GPUs at work. An interruption goes on its way then.
    """
    name = str(submission.name)
    try:
        with deadline(timeout_seconds):
            submit(cluster, submission)
            write(f"Workflow {name} submitted to namespace {cluster.namespace}.")
            seen = watch(cluster, name)
    except OutOfTime:
        words = f"Not ended within the {timeout_seconds:g} s of --timeout. "
        return Ended(EXIT_TIMED_OUT, words + stopped(cluster, name, keep_running))
    except (KeyboardInterrupt, SystemExit):
        write(stopped(cluster, name, keep_running))
        raise
    except UnavailableError as error:
        return Ended(EXIT_INFRASTRUCTURE, f"{error} {after_words(cluster, name)}")
    return Ended(exit_code(seen), closing_words(seen), seen)


def stopped(cluster: Cluster, name: str, keep_running: bool) -> str:
    """Stop a Workflow, unless it is to be kept; says what has become of it."""
    if keep_running:
        return f"Workflow {name} goes on (--keep-running). {after_words(cluster, name)}"
    cluster.patience_seconds = min(cluster.patience_seconds, STOP_SECONDS)
    try:
        updates.stop(cluster, name, terminate=False)
    except SvdjobsError as error:
        if isinstance(error, RefusedError) and error.status == 404:
            return f"Workflow {name} was not created."
        return f"Workflow {name} could not be stopped: {error} {after_words(cluster, name)}"
    return (
        f"Workflow {name} is being stopped. What is finished is kept: the same command with the "
        f"same store goes on from there."
    )


def after_words(cluster: Cluster, name: str) -> str:
    """How to look after a Workflow that is left alone."""
    where = f"{name} --namespace {cluster.namespace}"
    return f"See it with `svdjobs workflow watch {where}`, end it with `… stop {where}`."


def show_failures(cluster: Cluster, ended: Run, write: Write) -> None:
    """Write the last lines of the logs of pods that failed, so that a job's log says why."""
    try:
        hidden = logs.last_lines(cluster, ended, write, LAST_LINES, PODS_SHOWN)
    except SvdjobsError as error:
        write(f"The logs of failed pods cannot be read: {error}")
        return
    if hidden:
        write(f"{hidden} more failed pods: {logs_command(ended)} --failed")


def origin(environment: Mapping[str, str]) -> dict[str, str]:
    """Annotations that say for which commit and branch a job runs; empty outside CI."""
    found = {}
    for what, variables in (("commit", COMMIT), ("branch", BRANCH)):
        if value := next((environment[v] for v in variables if environment.get(v)), ""):
            found[f"svdjobs.io/{what}"] = value
    return found
