"""Open the store at a URL."""

from __future__ import annotations

from svdjobs.errors import ConfigError
from svdjobs.storage.store import S3, Store


def open_store(url: str) -> Store:
    """Return the store at a URL: `s3://bucket/prefix`, or a folder. Send no request to it.

    Raises:
        ConfigError: the URL has an unknown scheme, no bucket, or credentials or a port in it.
    """
    if url.startswith(S3):
        from svdjobs.storage.s3.store import S3Store

        bucket, _, prefix = url.removeprefix(S3).partition("/")
        if not bucket:
            raise ConfigError(f"store {url!r}: no bucket; expected s3://bucket/prefix.")
        if "@" in bucket or ":" in bucket:  # not quoted: it may hold a secret
            raise ConfigError(
                "a store's URL holds no credentials or port; expected s3://bucket/prefix. Keys "
                "come from AWS_ACCESS_KEY_ID, a profile or a role, the endpoint from "
                "AWS_ENDPOINT_URL."
            )
        return S3Store(bucket, prefix)
    scheme, separator, _ = url.partition("://")
    if separator and scheme != "file":
        raise ConfigError(
            f"store {url!r}: no backend for {scheme}://; use a folder or s3://bucket/prefix."
        )
    from svdjobs.storage.local import LocalStore

    return LocalStore(url.removeprefix("file://"))
