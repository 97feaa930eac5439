"""A sweep on the cluster on behalf of a CI job: submitted, watched, and stopped if the job ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from svdjobs.cluster import follow, logs
from svdjobs.cluster.api import Cluster
from svdjobs.cluster.lines import logs_command
from svdjobs.cluster.submit import Submission, submit
from svdjobs.cluster.tree import Run, exit_code
from svdjobs.cluster.watch import closing_words, watch
from svdjobs.deadline import OutOfTime, deadline
from svdjobs.errors import (
    EXIT_INFRASTRUCTURE,
    EXIT_TIMED_OUT,
    RefusedError,
    SvdjobsError,
    UnavailableError,
)

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


def run(
    cluster: Cluster,
    submission: Submission,
    name: str,
    *,
    timeout_seconds: float | None,
    keep_running: bool,
    write: Callable[[str], None],
) -> Ended:
    """Submit a Workflow of that name and watch it until it has ended.

    Out of time, or interrupted, the Workflow is stopped, unless `keep_running`: a job that was
    cancelled must not leave GPUs at work. An interruption goes on its way then.
    """
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
        follow.stop(cluster, name, terminate=False)
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


def show_failures(cluster: Cluster, ended: Run, write: Callable[[str], None]) -> None:
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
