"""`svdjobs doctor`: check whether a store and a cluster can run sweeps."""

from __future__ import annotations

import sys

import click

from svdjobs import escape
from svdjobs.cli.options import tell
from svdjobs.errors import EXIT_INFRASTRUCTURE, EXIT_OK, ConfigError


@click.command()
@click.option("--store", metavar="URL", help="Store to check: s3://bucket/prefix or a folder.")
@click.option(
    "--namespace",
    "-n",
    metavar="NAME",
    help="Namespace to check; default: the kubeconfig's, or this pod's.",
)
@click.option("--service-account", metavar="NAME", help="Account of the Workflow's pods.")
@click.option("--gpu", is_flag=True, help="Fail if no node has GPUs, instead of warning.")
@click.option(
    "--gpu-product", metavar="LABEL", help="The nvidia.com/gpu.product that a GPU node must have."
)
@click.option("--only", type=click.Choice(["store", "cluster"]), help="Check only one of them.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list, for programs.")
def doctor(
    store: str | None,
    namespace: str | None,
    service_account: str | None,
    gpu: bool,
    gpu_product: str | None,
    only: str | None,
    as_json: bool,
) -> int:
    """Check whether a store and a cluster can run sweeps, and say what to fix.

    Without --store, only the cluster is checked. Exit code 4: a check failed.

    \b
      svdjobs doctor --store s3://bucket/prefix
      svdjobs doctor --only store --store runs/demo
    """
    from svdjobs.cluster.doctor import checks as report

    if only == "store" and store is None:
        raise ConfigError("--only store needs --store URL.")
    checks: list[report.Check] = []
    if store is not None and only != "cluster":
        from svdjobs.cluster.doctor.store import check_store

        checks += check_store(store)
    if only != "store":
        from svdjobs.cluster.api import connect
        from svdjobs.cluster.doctor.cluster import PRODUCT, Needs, check_cluster

        needs = Needs(
            service_account=service_account,
            gpu=gpu,
            node_selector={PRODUCT: gpu_product} if gpu_product else {},
        )
        checks += report.guarded(
            "cluster: reachable",
            lambda: check_cluster(connect(namespace, patience_seconds=1), needs),
        )
    if as_json:
        import json

        text = json.dumps([check._asdict() for check in checks], indent=2)
        click.echo(escape.without_secrets(text))
    elif sys.stdout.isatty():
        report.print_table(checks)
    else:
        for line in report.plain_lines(checks):
            tell(line)
    if not as_json:
        tell(report.summary(checks))
    return EXIT_OK if report.all_well(checks) else EXIT_INFRASTRUCTURE


COMMANDS = (doctor,)
