"""Make boto3's S3 client, and translate its errors: the only module that knows boto3.

boto3 finds the credentials by its usual chain only (environment, profile, web identity, instance).
It reads the endpoint from AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or the profile. A message quotes
the code of a server's error and never its text: some servers echo access keys and signatures.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from svdjobs.attempts import Attempts
from svdjobs.errors import ConfigError, MissingKeyError, StorageError, UnavailableError
from svdjobs.storage.credentials import renew

Answer = TypeVar("Answer")

ADDRESSING = "SVDJOBS_S3_ADDRESSING"
ADDRESSING_STYLES = ("path", "virtual", "auto")
DEFAULT_REGION = "us-east-1"
CONNECTIONS = 50
# boto3 tries a request three times within a second, but a server takes longer to restart. So we
# repeat boto3's tries, for some 15 seconds in all if each of them fails at once.
_BOTO_ATTEMPTS = 3
ROUNDS = 8
PATIENCE_SECONDS = 60.0
_CONNECT_SECONDS, _READ_SECONDS = 10, 60

_GONE = {"NoSuchKey", "404", "NotFound", "NoSuchVersion"}
_WRONG_REGION = {
    "AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException",
}  # fmt: skip
_REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"}
_LOG_IN = "Get new ones (log in again, or set AWS_SESSION_TOKEN with its keys)"
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"}
_SKEWED = {"RequestTimeTooSkewed"}
# The answer to a HEAD has no body: boto3 then gives the HTTP status in place of an error code.
UNNAMED = {"400", "403", "405", "409"}
# Errors that may pass by themselves.
_PASSING = {
    "400", "BadRequest", "TemporaryRedirect",
    "SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Throttling",
    "ThrottlingException", "RequestLimitExceeded", "OperationAborted",
    "ConditionalRequestConflict", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch",
}  # fmt: skip


def client() -> Any:
    """The S3 client of this process for its current environment. Threads may share it.

    Raises:
        ConfigError: the addressing style is unknown, or the endpoint is not a URL.
        StorageError: the profile does not exist.
    """
    named = {k: v for k, v in os.environ.items() if k.startswith("AWS_") or k == ADDRESSING}
    return _client(os.getpid(), tuple(sorted(named.items())))


@lru_cache(maxsize=8)
def _client(_pid: int, _environment: tuple[tuple[str, str], ...]) -> Any:
    """Make the client, once for each environment: it takes a tenth of a second."""
    import boto3
    from botocore.exceptions import BotoCoreError

    style = os.environ.get(ADDRESSING, "")
    if style and style not in ADDRESSING_STYLES:
        raise ConfigError(
            f"{ADDRESSING}={style!r}: expected one of {', '.join(ADDRESSING_STYLES)}."
        )
    try:
        session = boto3.session.Session()
        region = session.region_name or DEFAULT_REGION
        made = session.client("s3", region_name=region, config=_config(style or "auto"))
        if not style and not _is_aws(made.meta.endpoint_url):
            made = session.client("s3", region_name=region, config=_config("path"))
    except ValueError:
        raise _no_endpoint() from None
    except BotoCoreError as error:
        raise as_ours(error, doing="preparing to use S3", url="s3") from None
    endpoint = urlsplit(made.meta.endpoint_url)
    if endpoint.scheme not in ("http", "https") or not endpoint.hostname:
        raise _no_endpoint()
    return made


def _no_endpoint() -> ConfigError:
    """The error for a bad endpoint. It does not quote the endpoint, which may hold a password."""
    return ConfigError(
        "the S3 endpoint (AWS_ENDPOINT_URL or the profile's endpoint_url) is not a URL that begins "
        "with http:// or https:// and names a host. Set it to one such as https://host:port."
    )


def _config(style: str) -> Any:
    from botocore.config import Config

    return Config(
        s3={"addressing_style": style},
        # By default, newer clients add checksums that many S3-compatible stores refuse.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"mode": "adaptive", "total_max_attempts": _BOTO_ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        tcp_keepalive=True,
    )


def _is_aws(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def failures() -> tuple[type[Exception], ...]:
    """The exceptions that a request may raise, or reading the body of its answer."""
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError

    return (
        BotoCoreError,
        ClientError,
        ResponseParserError,
        HTTPError,
        ConnectionError,
        TimeoutError,
        RecursionError,  # botocore follows redirects in a circle until then
    )


def code_of(error: Exception) -> str:
    """The server's error code; empty if no server answered."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def is_gone(error: Exception) -> bool:
    """Whether the server says that the object does not exist."""
    return code_of(error) in _GONE


def is_taken(error: Exception) -> bool:
    """Whether the condition of a request (If-Match, If-None-Match) failed."""
    return code_of(error) in ("PreconditionFailed", "412")


def persistently(request: Callable[[], Answer]) -> Answer:
    """Make a request; repeat it while its error may pass. Raises the library's last error."""
    attempts = Attempts(most=ROUNDS, patience_seconds=PATIENCE_SECONDS)
    while True:
        try:
            return request()
        except failures() as error:
            passing = isinstance(as_ours(error, doing="", url=""), UnavailableError)
            if not passing or is_taken(error) or not attempts.pause():
                raise


def as_ours(error: Exception, *, doing: str, url: str) -> StorageError:
    """Translate an error of a library into ours, which says what was being done to which object and
    what to do now. An error that may pass by itself becomes an UnavailableError."""
    from botocore import exceptions as theirs

    if isinstance(error, StorageError):
        return error
    code, status = code_of(error), _status(error)
    bucket = _bucket(url)
    if code == "NoSuchBucket":
        return no_bucket(url, doing)
    if is_gone(error):
        return MissingKeyError(f"{url} does not exist.")
    if is_taken(error):
        return UnavailableError(
            f"{doing} {url}: another writer replaced it in the meantime. Run the same command "
            f"again."
        )
    if code == "NoSuchUpload":
        return StorageError(
            f"{doing} {url}: its unfinished upload no longer exists: the bucket was deleted, or "
            f"somebody or a lifecycle rule ended the upload. Run the same command again."
        )
    if code in _WRONG_REGION or status == 301:
        return StorageError(
            f"{doing} {url}: bucket {bucket!r} is in another region than "
            f"{client().meta.region_name} ({code or status}). Set AWS_REGION to the bucket's."
        )
    if code in _SKEWED:
        return StorageError(
            f"{doing} {url}: {_endpoint()} refuses the request, because its clock and that of this "
            f"machine differ ({code}). Set the wrong one (NTP); `svdjobs doctor` says by how much "
            f"they differ."
        )
    if code in _EXPIRED:
        return StorageError(
            f"{doing} {url}: the credentials have expired ({code}). {renew(_LOG_IN)}: finished "
            f"outputs are kept and skipped."
        )
    if code in _REFUSED or status == 401:
        return StorageError(
            f"{doing} {url}: {_endpoint()} does not accept the credentials ({code or status}). "
            f"Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile or role they come "
            f"from."
        )
    if status == 403:
        return StorageError(
            f"{doing} {url}: access denied ({code or status}). The credentials are wrong, or lack "
            f"one of GetObject, PutObject, DeleteObject and AbortMultipartUpload below the prefix "
            f"in bucket {bucket!r}, or ListBucket on the bucket."
        )
    if code in _PASSING or status in (307, 408, 429) or (status >= 500 and status != 501):
        return UnavailableError(
            f"{doing} {url}: {_endpoint()} answered {code or status} to every attempt. Run the "
            f"same command again when the store works: finished outputs are kept and skipped."
        )
    if code:
        return StorageError(f"{doing} {url}: {_endpoint()} refused it with {code} (HTTP {status}).")
    return _unanswered(error, theirs, doing=doing, url=url)


def no_store(url: str, doing: str) -> StorageError:
    """The error for a server that answers, but is not an S3 store."""
    return StorageError(
        f"{doing} {url}: {_endpoint()} answers, but not as S3 does: a proxy, a login page or "
        f"another service answered. Check AWS_ENDPOINT_URL and the proxy settings."
    )


def no_bucket(url: str, doing: str) -> StorageError:
    """The error for a bucket that does not exist."""
    return StorageError(
        f"{doing} {url}: there is no bucket {_bucket(url)!r} at {_endpoint()}. Create it, or set "
        f"AWS_ENDPOINT_URL if it is elsewhere."
    )


def _bucket(url: str) -> str:
    return url.removeprefix("s3://").partition("/")[0]


def _unanswered(error: Exception, theirs: Any, *, doing: str, url: str) -> StorageError:
    """Translate an error of a request that no server answered."""
    credential_errors = (
        theirs.NoCredentialsError, theirs.PartialCredentialsError, theirs.CredentialRetrievalError,
        theirs.TokenRetrievalError, theirs.UnauthorizedSSOTokenError,
    )  # fmt: skip
    if isinstance(error, credential_errors):
        return StorageError(
            f"{doing} {url}: no usable S3 credentials ({type(error).__name__}). Set "
            f"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or give the pod's "
            f"service account a role."
        )
    if isinstance(error, theirs.ProfileNotFound):
        return StorageError(f"{doing} {url}: AWS_PROFILE names a profile that does not exist.")
    if isinstance(error, theirs.ParamValidationError):
        return StorageError(f"{doing} {url}: not a valid bucket name or key.")
    if isinstance(error, RecursionError):
        return UnavailableError(
            f"{doing} {url}: {_endpoint()} redirects requests in a circle. Run the same command "
            f"again later; if the error stays, check AWS_ENDPOINT_URL and AWS_REGION."
        )
    if isinstance(error, theirs.SSLError):
        return StorageError(
            f"{doing} {url}: no trusted connection to {_endpoint()}. Set AWS_CA_BUNDLE to its "
            f"certificate authority, or use http:// in AWS_ENDPOINT_URL if it does not use TLS."
        )
    if _unknown_host(error):
        return StorageError(
            f"{doing} {url}: the host in {_endpoint()} does not exist. Check AWS_ENDPOINT_URL."
        )
    return UnavailableError(
        f"{doing} {url}: no whole answer from {_endpoint()} in any attempt "
        f"({type(error).__name__}). Check that the store runs and can be reached, then run the "
        f"same command again: finished outputs are kept and skipped."
    )


def _unknown_host(error: BaseException | None) -> bool:
    """Whether the host name does not exist. A lookup that failed does not count: it may pass."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, socket.gaierror):
            return error.errno == socket.EAI_NONAME
        inner = getattr(error, "kwargs", {}).get("error") if hasattr(error, "kwargs") else None
        error, seen = inner or error.__cause__ or error.__context__, seen + 1
    return False


def _status(error: Exception) -> int:
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _answer(error: Exception) -> dict[str, Any]:
    """The server's answer as boto3 parsed it; empty if there is none."""
    found = getattr(error, "response", None)
    return found if isinstance(found, dict) else {}


def _endpoint() -> str:
    """Scheme, host and port of the endpoint. The rest of its URL may hold secrets."""
    parts = urlsplit(client().meta.endpoint_url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"
