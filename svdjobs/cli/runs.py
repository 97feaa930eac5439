"""`svdjobs list`, `status`, `compare` and `view`: what is in the stores of runs."""

from __future__ import annotations

import click

from svdjobs.cli.options import tell, tell_json
from svdjobs.errors import ConfigError


@click.command("list")
@click.argument("url", metavar="STORE")
@click.option("--json", "as_json", is_flag=True, help="Print the runs as JSON, for scripts.")
def list_(url: str, as_json: bool) -> None:
    """List the runs below a folder or s3://bucket/prefix, down to three levels.

    `outputs` are those with a manifest, of those that the run's config wants; `svdjobs status RUN`
    also says which are out of date. An object store gets one request for each folder and each
    output; weights and logs are not listed.
    """
    from svdjobs.standalone import listing

    places = listing.find(url)
    if as_json:
        tell_json(listing.document(url, places))
        return
    for line in listing.words(places):
        tell(line)


@click.command()
@click.argument("run_url", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print every output as JSON, for scripts.")
def status(run_url: str, as_json: bool) -> None:
    """Say what a run has finished, what is missing, and which command goes on.

    RUN is the run's store: a folder or s3://bucket/prefix. Only stored bytes are looked at, so this
    works wherever the run was made; it cannot know whether a stage runs at present. To follow the
    pods of a cluster, use `svdjobs workflow watch`.
    """
    from svdjobs.standalone import status as standalone
    from svdjobs.storage.open import open_store

    found = standalone.run(open_store(run_url))
    if as_json:
        tell_json(standalone.document(found))
        return
    for line in standalone.words(found):
        tell(line)


@click.command()
@click.argument("urls", metavar="RUN RUN", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print all numbers as JSON, for scripts.")
def compare(urls: tuple[str, ...], as_json: bool) -> None:
    """Put two to four runs side by side: settings that differ, accuracies, and tests.

    Numbers are those of the runs' reports. Each run is tested against the first, problem by
    problem, if both asked the same questions in the same way; otherwise it is marked, and the
    reasons are given. `svdjobs diff` compares checkpoints, by their weights alone.
    """
    from svdjobs.standalone import compare as standalone
    from svdjobs.standalone import compare_text

    found = standalone.run(urls)
    if as_json:
        tell_json(standalone.document(found))
        return
    for line in compare_text.words(found):
        tell(line)


@click.command()
@click.argument("urls", metavar="RUN...", nargs=-1, required=True)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: a free one.")
@click.option("--open", "browse", is_flag=True, help="Open the page in a browser.")
def view(urls: tuple[str, ...], port: int, browse: bool) -> None:
    """Serve the reports of runs on this machine's loopback; Ctrl-C stops it.

    RUN is a run's store: a folder or s3://bucket/prefix. While a sweep runs, a reload shows what it
    has finished; nothing is written to its store. From another machine, forward the port: ssh -L.
    """
    from svdjobs.standalone import view as standalone

    viewed = [standalone.ViewedRun(url) for url in urls]
    try:
        server = standalone.Viewer(viewed, port)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on port {port}: {error.strerror}. Give another."
        ) from None
    with server:
        tell(f"Reports are at {server.url}; Ctrl-C stops it.")
        if browse:
            click.launch(server.url)
        server.serve_forever()


COMMANDS = (list_, status, compare, view)
