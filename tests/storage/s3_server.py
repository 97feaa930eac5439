"""A real S3 server on loopback, started once per process by the first test that needs it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from svdjobs.storage.dev_server import BUCKET, S3Server, serving
from svdjobs.storage.s3.store import S3Store


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS takes four seconds and 400 MB, so tests share one; each has its own bucket."""
    with serving(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_environment(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> S3Server:
    """Set the environment of a user of this server, without any other configuration."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def s3_prefix(s3_environment: S3Server) -> str:
    """A new prefix in the existing bucket; a new bucket would take half a second."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["folder", "s3"])
def run_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a new run, in a folder and in a bucket."""
    if request.param == "s3":
        return f"s3://{BUCKET}/{request.getfixturevalue('s3_prefix')}"
    return str(tmp_path / "run")


@pytest.fixture
def bucket(s3_environment: S3Server) -> Iterator[str]:
    """A new bucket."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    plain = client_of(s3_environment)
    plain.create_bucket(Bucket=name)
    yield name
    delete_bucket(plain, name)


def client_of(server: S3Server) -> Any:
    """A client that is independent of the project's own."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        aws_access_key_id=server.access_key,
        aws_secret_access_key=server.secret_key,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}),
    )


def delete_bucket(client: Any, name: str) -> None:
    """Empty and delete a bucket if it exists."""
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            for item in page.get("Contents", []):
                client.delete_object(Bucket=name, Key=item["Key"])
        client.delete_bucket(Bucket=name)
    except client.exceptions.NoSuchBucket:
        pass


def open_uploads(server: S3Server, store: S3Store) -> list[str]:
    """Return a store's unfinished multipart uploads, from the server itself."""
    return [upload["Key"] for upload in _open_uploads(client_of(server), store)]


def uploaded_parts(server: S3Server, store: S3Store) -> int:
    """Return how many parts of unfinished uploads the server has."""
    client = client_of(server)
    named = [
        {"Bucket": store.bucket, "Key": upload["Key"], "UploadId": upload["UploadId"]}
        for upload in _open_uploads(client, store)
    ]
    return sum(len(client.list_parts(**upload).get("Parts", [])) for upload in named)


def _open_uploads(client: Any, store: S3Store) -> list[dict[str, Any]]:
    listed = client.list_multipart_uploads(Bucket=store.bucket).get("Uploads", [])
    return [upload for upload in listed if upload["Key"].startswith(store.prefix)]
