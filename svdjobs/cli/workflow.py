"""`svdjobs workflow`: run sweeps as Argo Workflows on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from svdjobs.cli.options import account_option, parameter_option, tell, tell_json
from svdjobs.errors import EXIT_INTERRUPTED, ConfigError

if TYPE_CHECKING:
    from svdjobs.cluster.api import Cluster
    from svdjobs.cluster.watching.status import WorkflowTree

Command = TypeVar("Command", bound=Callable[..., Any])


@click.group()
def workflow() -> None:
    """Run a sweep on a Kubernetes cluster with Argo Workflows.

    RUN is the name of a Workflow, or the name of a sweep for its latest Workflow.
    """


def namespace_option(command: Command) -> Command:
    """Add --namespace, which all commands for a cluster have."""
    words = "Namespace of the Workflow; default: the kubeconfig context's, or this pod's."
    return click.option("--namespace", "-n", metavar="NAME", help=words)(command)


@workflow.command()
@click.argument("sweep", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option(
    "--settings",
    "settings_file",
    type=click.Path(path_type=Path),
    help="YAML file of cluster settings; `svdjobs keys --cluster` lists its keys.",
)
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder for workflows/, jobs/kubernetes/ and helm/; default: here.",
)
def render(sweep: Path, settings_file: Path | None, into: Path) -> None:
    """Write the manifests of a sweep, which any client can submit.

    \b
      svdjobs workflow render jobs/sweeps/X.yaml --settings cluster.yaml --into out
      argo submit out/workflows/sweep.yaml -p store=s3://bucket/X
    """
    from svdjobs.cluster.manifests.render import render, summary, write
    from svdjobs.cluster.manifests.settings import load_settings
    from svdjobs.config_file import read_text

    text, settings = read_text(sweep), load_settings(settings_file)
    for path in write(render(text, settings, where=str(sweep)), into):
        tell(f"wrote {into / path}")
    tell(summary(text, settings, where=str(sweep)))


@click.command()
@click.option("--workflow", "name", required=True, help="Name of the Workflow.")
@click.option("--status", required=True, help="Phase in which the Workflow ended.")
@click.option("--store", "store_url", required=True, metavar="URL", help="The run's store.")
def notify(name: str, status: str, store_url: str) -> None:
    """Tell the webhook in SVDJOBS_NOTIFY_URL that a Workflow has ended.

    The last pod of a Workflow runs this command.
    """
    from svdjobs.cluster import notify as message

    message.run(name, status, store_url)


@workflow.command()
@click.argument("config_file", metavar="CONFIG", type=click.Path(path_type=Path))
@click.option(
    "--store", metavar="URL", help="The run's store: s3://bucket/prefix that all pods can reach."
)
@click.option(
    "--file",
    "-f",
    "workflow_file",
    type=click.Path(path_type=Path),
    help="Workflow to submit; default: workflows/sweep.yaml.",
)
@click.option(
    "--from-template",
    metavar="NAME",
    help="Submit an installed WorkflowTemplate instead of a file.",
)
@parameter_option
@click.option(
    "--name", help="Name of the Workflow; default: the sweep's name with a random suffix."
)
@account_option
@click.option("--watch", "watched", is_flag=True, help="Watch the Workflow until it ends.")
@namespace_option
def submit(
    config_file: Path,
    store: str | None,
    workflow_file: Path | None,
    from_template: str | None,
    pairs: tuple[str, ...],
    name: str | None,
    service_account: str | None,
    watched: bool,
    namespace: str | None,
) -> int:
    """Start a sweep on the cluster.

    \b
      svdjobs workflow submit jobs/sweeps/X.yaml --store s3://bucket/X --watch
      svdjobs workflow submit X.yaml --store s3://bucket/X --from-template svdjobs-sweep
    """
    from svdjobs.cluster import submit as submission

    if workflow_file and from_template:
        raise ConfigError("give either --file or --from-template, not both.")
    cluster = connect(namespace, waits=watched)
    request = submission.Submission(
        config_file=config_file,
        store=store,
        workflow_file=workflow_file or submission.DEFAULT_FILE,
        template=from_template,
        parameters=pairs_of(pairs),
        service_account=service_account,
        name=name,
    )
    workflow_name = submission.submit(cluster, request)["metadata"]["name"]
    tell(f"Workflow {workflow_name} submitted to namespace {cluster.namespace}.")
    if watched:
        return _watch(cluster, workflow_name)
    where = f"{workflow_name} --namespace {cluster.namespace}"
    for command in ("watch", "logs", "stop"):
        tell(f"  svdjobs workflow {command} {where}{' --follow' * (command == 'logs')}")
    return 0


@workflow.command()
@click.argument("run")
@namespace_option
def watch(run: str, namespace: str | None) -> int:
    """Show a run as a tree until it ends: its pods, on a cluster.

    `svdjobs status` says what is in a run's store, wherever the run is made.

    Exit codes: 0 succeeded, 2 the config is wrong or outputs are missing, 3 the gate found a
    regression, 5 a deadline ran out, 4 anything else.
    """
    from svdjobs.cluster.watching.updates import find

    cluster = connect(namespace, waits=True)
    return _watch(cluster, find(cluster, run)["metadata"]["name"])


@workflow.command()
@click.argument("run")
@click.option("--terminate", is_flag=True, help="Stop at once, without running the exit handler.")
@namespace_option
def stop(run: str, terminate: bool, namespace: str | None) -> None:
    """Stop a run; finished outputs stay in its store."""
    from svdjobs.cluster.watching import updates

    cluster = connect(namespace)
    found = updates.find(cluster, run)
    name = found["metadata"]["name"]
    if updates.has_ended(found):
        tell(f"Workflow {name} has already ended as {found['status']['phase']}.")
        return
    updates.stop(cluster, name, terminate=terminate)
    tell(
        f"Workflow {name} is being {'terminated' if terminate else 'stopped'}. Finished outputs "
        f"are kept. Watch it end: svdjobs workflow watch {name} --namespace {cluster.namespace}"
    )


@workflow.command()
@click.argument("run")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in seconds.")
@namespace_option
def usage(run: str, as_json: bool, namespace: str | None) -> None:
    """Say what a run has used: hours of pods, CPUs and GPUs, by stage and by alpha."""
    from datetime import UTC, datetime

    from svdjobs.cluster.watching import usage as used
    from svdjobs.cluster.watching.updates import find

    found = used.usage_of(find(connect(namespace), run), datetime.now(UTC))
    if as_json:
        tell_json(used.document(found))
        return
    for line in used.words(found):
        tell(line)


@workflow.command()
@click.argument("run")
@click.option("--step", metavar="NAME", help="Only this task, e.g. blend or alpha-0.2000/blend.")
@click.option("--failed", is_flag=True, help="Only pods that failed.")
@click.option(
    "--follow", "-f", "followed", is_flag=True, help="Print new lines until the run ends."
)
@namespace_option
def logs(
    run: str, step: str | None, failed: bool, followed: bool, namespace: str | None
) -> int | None:
    """Print the logs of a run's pods; each line begins with its task."""
    from svdjobs.cluster.watching import logs as pod_logs
    from svdjobs.cluster.watching.updates import find

    cluster = connect(namespace, waits=followed)
    found = find(cluster, run)
    show = pod_logs.follow if followed else pod_logs.show
    if words := show(cluster, found, tell, step=step, failed=failed):
        tell(words, err=True)
    return 0


def pairs_of(pairs: tuple[str, ...]) -> dict[str, str]:
    """Read -p KEY=VALUE options as parameters of a Workflow.

    Raises:
        ConfigError: an option is not KEY=VALUE, or sets `config` or `store`.
    """
    parameters = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or key in ("config", "store"):
            raise ConfigError(
                f"-p {pair!r}: expected key=value. Give the config as CONFIG and the store with "
                f"--store."
            )
        parameters[key] = value
    return parameters


def connect(namespace: str | None, *, waits: bool = False) -> Cluster:
    """Connect to the cluster. A command that waits for a run (`waits`) survives longer outages."""
    from svdjobs.cluster import api
    from svdjobs.progress import say

    patience = api.LONG_PATIENCE_SECONDS if waits else api.PATIENCE_SECONDS
    return api.connect(namespace, patience_seconds=patience, notice=say)


def _watch(cluster: Cluster, name: str) -> int:
    from svdjobs.cluster.watching.screen import closing_words
    from svdjobs.cluster.watching.screen import watch as show
    from svdjobs.cluster.watching.status import exit_code

    try:
        run: WorkflowTree = show(cluster, name)
    except KeyboardInterrupt:
        again = f"svdjobs workflow watch {name} --namespace {cluster.namespace}"
        tell(
            f"\nStopped watching. Workflow {name} keeps running. Watch it again: {again}", err=True
        )
        return EXIT_INTERRUPTED
    tell(closing_words(run))
    return exit_code(run)


COMMANDS = (workflow, notify)
