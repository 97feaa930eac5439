"""`svdjobs store serve`: run a real S3 server on this machine, to try object storage."""

from __future__ import annotations

from pathlib import Path

import click

from svdjobs.errors import StorageError


@click.group()
def store() -> None:
    """Try object storage on this machine."""


@store.command()
@click.option(
    "--dir",
    "folder",
    default="runs/s3",
    show_default=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the server's data.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8333,
    show_default=True,
    help="Port of S3; 0 chooses a free one.",
)
@click.option(
    "--address",
    default="127.0.0.1",
    show_default=True,
    help="Address of S3. 0.0.0.0 lets other machines in, over plain HTTP.",
)
@click.option(
    "--access-key",
    default="",
    envvar="SVDJOBS_STORE_ACCESS_KEY",
    show_envvar=True,
    help="Access key that clients must give; default: a random one.",
)
@click.option(
    "--secret-key",
    default="",
    envvar="SVDJOBS_STORE_SECRET_KEY",
    show_envvar=True,
    help="Secret key that clients must give; it is not printed. Default: a random one, printed.",
)
def serve(folder: Path, port: int, address: str, access_key: str, secret_key: str) -> None:
    """Start an S3 server with a bucket `svdjobs`, and print how to use it; Ctrl-C stops it.

    It is for laptops and tests: one disk, no replicas. Needs svdjobs[store-server].
    """
    from svdjobs.storage.dev_server import BUCKET, serving

    with serving(
        folder, port=port, address=address, access_key=access_key, secret_key=secret_key
    ) as server:
        click.echo(f"S3 answers at {server.endpoint}; its data are in {folder}. Ctrl-C stops it.\n")
        for name, value in server.environment.items():
            # A pod gets the key from a Secret, so its log must not show it.
            given = secret_key and name == "AWS_SECRET_ACCESS_KEY"
            click.echo(f"    export {name}={'...  # as given' if given else value}")
        click.echo(
            f"\nRun these lines in another terminal, and then a sweep:\n\n"
            f"    svdjobs sweep jobs/sweeps/demo.yaml --set store=s3://{BUCKET}/demo"
        )
        try:
            status = server.process.wait()
        except KeyboardInterrupt:
            click.echo(f"\nStopped. The stored objects are kept in {folder}.")
            return
        raise StorageError(
            f"the S3 server ended by itself with status {status}; its log is in {folder}."
        )


COMMANDS = (store,)
