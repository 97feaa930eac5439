"""A store refuses, slows down, hangs up or vanishes; signals arrive in between.

After each: the bytes are right or the error says what to do, and no multipart upload stays open.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from svdjobs import attempts
from svdjobs.errors import (
    ConfigError,
    MissingKeyError,
    StorageError,
    SvdjobsError,
    UnavailableError,
    exit_code,
)
from svdjobs.storage.dev_server import BUCKET, S3Server
from svdjobs.storage.objects import read_json, try_read_json, write_bytes
from svdjobs.storage.open import open_store
from svdjobs.storage.s3 import client, download, upload
from svdjobs.storage.s3 import store as s3_store
from svdjobs.storage.s3.store import S3Store
from tests.storage.proxy import FOREVER, Fault, Kind, Proxy, harming
from tests.storage.s3_server import client_of, delete_bucket, open_uploads, uploaded_parts
from tests.waiting import until

PART = 5 << 20
DATA = random.Random(1).randbytes(2 * PART + 7)


@pytest.fixture
def proxy(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    with harming(s3_environment.endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def store(s3_prefix: str, proxy: Proxy) -> S3Store:
    return S3Store(BUCKET, s3_prefix, part_bytes=PART)


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(attempts, "LONGEST_PAUSE_SECONDS", 0.01)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """For errors that do not pass."""
    monkeypatch.setattr(client, "ROUNDS", 2)


@contextmanager
def harm(proxy: Proxy, *faults: Fault) -> Iterator[None]:
    """Inject faults while the block runs; each of them must happen."""
    planned = [fault.times for fault in faults]
    proxy.traffic.faults = list(faults)
    yield
    assert all(fault.times < times for fault, times in zip(faults, planned, strict=True))


@pytest.mark.parametrize("kind", ["500", "slow", "cut up", "lost answer"])
def test_upload_survives_what_passes(
    store: S3Store, proxy: Proxy, s3_server: S3Server, kind: Kind
) -> None:
    part, end = Fault(kind, "PUT", "partNumber=2", times=2), Fault(kind, "POST", "uploadId=")
    with harm(proxy, part, end):
        record = write_bytes(store, "large", DATA)
    assert record.bytes == len(DATA)
    assert store.read("large") == DATA
    assert open_uploads(s3_server, store) == []


@pytest.mark.parametrize("kind", ["500", "503", "slow", "cut down", "lost answer"])
def test_download_survives_what_passes(store: S3Store, proxy: Proxy, kind: Kind) -> None:
    write_bytes(store, "large", DATA)
    with harm(proxy, Fault(kind, "GET", "large", times=1 if kind == "503" else 3)):
        assert store.read("large") == DATA


@pytest.mark.parametrize("kind", ["500", "cut up", "lost answer", "400", "307"])
def test_small_requests_survive_what_passes(store: S3Store, proxy: Proxy, kind: Kind) -> None:
    methods = (("PUT", ""), ("GET", "list-type"), ("HEAD", ""), ("DELETE", ""))
    with harm(proxy, *(Fault(kind, method, needle) for method, needle in methods)):
        write_bytes(store, "small", b"1")
        assert store.keys("") == ["small"]
        assert store.size("small") == 1
        store.delete("small")
    assert not store.exists("small")


@pytest.mark.parametrize("kind", ["500", "cut up", "lost answer"])
def test_put_new_knows_its_own_write_again(store: S3Store, proxy: Proxy, kind: Kind) -> None:
    assert store.put_new("probe", b"")
    with harm(proxy, Fault(kind, "PUT", "/new", times=2)):
        assert store.put_new("new", b"mine")
    assert not store.put_new("new", b"mine")


def test_put_new_without_conditional_writes(store: S3Store, proxy: Proxy) -> None:
    s3_store._conditional.clear()
    proxy.traffic.faults = [Fault("501", "PUT", "If-None-Match", FOREVER)]
    assert store.put_new("new", b"first")
    assert not store.put_new("new", b"second")
    assert store.read("new") == b"first"
    asked = [request for request in proxy.traffic.requests if s3_store.PROBE in request]
    assert [request.split()[0] for request in asked] == ["PUT", "DELETE"]  # once, and cleared away
    assert store.keys("") == ["new"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["500", "cut up", "cut down"])
def test_what_does_not_pass_is_said(store: S3Store, proxy: Proxy, kind: Kind) -> None:
    write_bytes(store, "large", DATA)
    proxy.traffic.faults = [Fault(kind, "GET", "/large", FOREVER)]
    with pytest.raises(UnavailableError) as caught:
        store.read("large")
    assert f"reading {store.url}/large" in str(caught.value)
    assert "again" in str(caught.value)
    assert exit_code(caught.value) == 75


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("kind", "step"),
    [
        ("500", ("POST", "uploads")),
        ("500", ("PUT", "partNumber")),
        ("500", ("POST", "uploadId")),
        ("cut up", ("PUT", "partNumber")),
        ("403", ("POST", "uploadId")),
    ],
)
def test_failed_upload_leaves_nothing(
    store: S3Store, proxy: Proxy, s3_server: S3Server, kind: Kind, step: tuple[str, str]
) -> None:
    proxy.traffic.faults = [Fault(kind, *step, FOREVER)]
    with pytest.raises(StorageError, match=f"writing {store.url}/large") as caught:
        write_bytes(store, "large", DATA)
    assert isinstance(caught.value, UnavailableError) == (kind != "403")
    assert open_uploads(s3_server, store) == []
    assert store.keys("") == []


@pytest.mark.parametrize("reason", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_interrupted_upload_leaves_nothing(
    store: S3Store, s3_server: S3Server, reason: type[BaseException]
) -> None:
    with pytest.raises(reason), store.sink("large") as sink:
        sink.write(DATA)
        raise reason
    assert open_uploads(s3_server, store) == []
    assert store.keys("") == []
    with pytest.raises(StorageError, match="after it was ended"):
        sink.write(b"x")


CHILD = """
import signal, sys, time
from svdjobs.storage.s3.store import S3Store

signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
with S3Store("svdjobs", sys.argv[1], part_bytes=5 << 20).sink("large") as sink:
    while True:
        sink.write(bytes(1 << 20))
"""


def test_evicted_upload_leaves_nothing(store: S3Store, s3_server: S3Server, proxy: Proxy) -> None:
    """SIGTERM while parts are being sent, slowly."""
    proxy.traffic.faults = [Fault("slow", "PUT", "partNumber", FOREVER)]
    child = subprocess.Popen([sys.executable, "-c", CHILD, store.prefix])
    until(lambda: open_uploads(s3_server, store), 60, "an upload has begun", pause=0.05)
    time.sleep(0.3)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=30) == 143
    assert open_uploads(s3_server, store) == []
    assert store.keys("") == []


def test_bucket_that_vanishes(bucket: str, s3_server: S3Server) -> None:
    store = S3Store(bucket, part_bytes=PART)
    write_bytes(store, "a", b"1")
    with (
        pytest.raises(StorageError, match=r"bucket was deleted|no bucket") as caught,
        store.sink("large") as sink,
    ):
        sink.write(DATA[:PART])
        # A part that arrives while its bucket is deleted brings the bucket back, on this server.
        until(lambda: uploaded_parts(s3_server, store), 60, "a part has arrived", pause=0.05)
        delete_bucket(client_of(s3_server), store.bucket)
        sink.write(DATA[PART:])
    assert exit_code(caught.value) == 4
    for call in (store.read, store.size, store.exists, store.version, store.keys, store.delete):
        with pytest.raises(StorageError, match=f"no bucket '{store.bucket}'") as caught:
            call("a")
        assert not isinstance(caught.value, MissingKeyError)
    with pytest.raises(StorageError, match=f"no bucket '{store.bucket}'"):
        write_bytes(store, "a", b"1")


def test_wrong_credentials_are_refused_and_not_shown(
    store: S3Store, monkeypatch: pytest.MonkeyPatch, s3_server: S3Server
) -> None:
    secret = "not-the-secret-0123456789"
    for key, value in (("AWS_SECRET_ACCESS_KEY", secret), ("AWS_ACCESS_KEY_ID", "WRONGKEYID")):
        monkeypatch.setenv(key, value)
        wrong = S3Store(BUCKET, store.prefix, part_bytes=PART)
        for call in (wrong.read, wrong.size, wrong.keys, partial(write_bytes, wrong, data=DATA)):
            with pytest.raises(StorageError, match="credentials") as caught:
                call("x")
            assert exit_code(caught.value) == 4
            for hidden in (secret, "WRONGKEYID", s3_server.access_key, s3_server.secret_key):
                assert hidden not in f"{caught.value}{caught.value.__cause__}"
            assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("environment", "kind", "words"),
    [
        (
            {"AWS_ENDPOINT_URL": "http://no-such-host.invalid"},
            StorageError,
            "host .* does not exist",
        ),
        ({"AWS_ENDPOINT_URL": "no-url"}, ConfigError, "is not a URL"),
        ({"AWS_ENDPOINT_URL": "127.0.0.1:9000"}, ConfigError, "begins with http:// or https://"),
        ({"AWS_ENDPOINT_URL": "minio:9000"}, ConfigError, "begins with http:// or https://"),
        ({"AWS_ENDPOINT_URL": "ftp://minio"}, ConfigError, "begins with http:// or https://"),
        ({"AWS_ENDPOINT_URL": "//minio"}, ConfigError, "begins with http:// or https://"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, UnavailableError, "Check that the store runs"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, StorageError, "no usable S3 cred"),
        ({"AWS_PROFILE": "none-such"}, StorageError, "a profile that does not exist"),
        ({"SVDJOBS_S3_ADDRESSING": "virutal"}, ConfigError, "expected one of path, virtual, auto"),
    ],
)
@pytest.mark.usefixtures("impatient")
def test_wrong_settings_are_said(
    s3_environment: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    kind: type[SvdjobsError],
    words: str,
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in environment.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(kind, match=words) as caught:
        S3Store(BUCKET).read("x")
    assert exit_code(caught.value) == {ConfigError: 2, StorageError: 4, UnavailableError: 75}[kind]


@pytest.mark.parametrize(
    ("endpoint", "asked", "style"),
    [
        ("http://127.0.0.1:1", "", "path"),
        ("http://127.0.0.1:1", "virtual", "virtual"),
        ("https://s3.eu-west-1.amazonaws.com", "", "auto"),
        ("", "", "auto"),
        ("", "path", "path"),
    ],
)
def test_client_settings(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, asked: str, style: str
) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv(client.ADDRESSING, asked)
    made = client.client()
    config = made.meta.config
    assert config.s3["addressing_style"] == style
    assert config.request_checksum_calculation == "when_required"
    assert config.response_checksum_validation == "when_required"
    assert config.retries["mode"] == "adaptive"
    assert config.max_pool_connections == 50
    assert made.meta.region_name == "us-east-1"
    assert client.client() is made


CAUSES: list[tuple[Kind, type[StorageError], str]] = [
    ("expired", StorageError, r"credentials have expired \(ExpiredToken\)\. Get new ones"),
    ("skewed", StorageError, r"its clock and that of this machine differ"),
    ("403", StorageError, r"access denied \(AccessDenied\)"),
    ("no bucket", StorageError, r"there is no bucket"),
    ("page", StorageError, r"not as S3 does: a proxy, a login page or another service"),
    ("400", UnavailableError, r"answered BadRequest to every attempt"),
    (
        "307",
        UnavailableError,
        "redirects requests in a circle|answered TemporaryRedirect|no whole answer",
    ),
]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("kind", "error", "words"), CAUSES)
def test_the_cause_of_a_refusal_is_named(
    store: S3Store, proxy: Proxy, kind: Kind, error: type[StorageError], words: str
) -> None:
    """This also holds for a refused HEAD, whose answer cannot say why."""
    assert store.put_new("first", b"1")
    proxy.traffic.faults = [Fault(kind, times=FOREVER)]
    reading = (store.size, store.version, store.read, store.exists, store.keys)
    writing = (partial(write_bytes, store, data=b"1"), partial(store.put_new, data=b"1"))
    for call in (*reading, *writing):
        with pytest.raises(error, match=words) as caught:
            call("first")
        assert exit_code(caught.value) == (75 if error is UnavailableError else 4)
        assert ("wrong, or lack" in str(caught.value)) == (kind == "403")


@pytest.mark.usefixtures("impatient")
def test_in_a_pod_expired_credentials_are_those_of_a_secret(
    store: S3Store, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    proxy.traffic.faults = [Fault("expired", times=FOREVER)]
    with pytest.raises(StorageError, match=r"Renew the Secret .*svdjobs-store.* submit .* again"):
        store.read("first")


def test_an_endpoint_without_a_scheme_is_not_a_damaged_object(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    for read in (read_json, try_read_json):
        with pytest.raises(ConfigError, match="begins with http"):
            read(S3Store(BUCKET, store.prefix), "plan/manifest.json")


def test_urls() -> None:
    assert open_store("s3://bucket/some/run/").url == "s3://bucket/some/run"
    assert open_store("s3://bucket").url == "s3://bucket"
    with pytest.raises(ConfigError, match=r"no bucket; expected s3://bucket/prefix"):
        open_store("s3:///prefix")


def test_replaced_while_being_read(store: S3Store, proxy: Proxy, s3_server: S3Server) -> None:
    """All ranges of one read are of one version, or the read fails."""
    data = DATA * 3
    write_bytes(store, "large", data)
    place = store._place("large")
    head = place.once("head_object")
    client_of(s3_server).put_object(Bucket=store.bucket, Key=place.name, Body=b"y" * len(data))
    with pytest.raises(UnavailableError, match="another writer replaced it"):
        download.fill(place, memoryview(bytearray(8)), 0, head["ETag"], None)


def test_many_uploads_at_once_share_a_bound_on_memory(
    s3_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blend writes its alphas side by side: eight objects take two budgets and a bit."""
    budget = 24 << 20
    monkeypatch.setattr(upload, "BUDGET", upload.Budget(budget))
    monkeypatch.setattr(upload, "SMALLEST_PART_BYTES", PART)
    store, piece = S3Store(BUCKET, s3_prefix), bytes(1 << 20)
    write_bytes(store, "warm", piece)
    tracemalloc.start()
    try:
        with_sinks(store, piece, count=8, pieces=24)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * PART * 1.13 + budget + (8 << 20)  # gathered (bytearrays grow ahead), sent
    assert {store.size(f"{number}") for number in range(8)} == {24 << 20}
    assert (upload.BUDGET._reserved, upload.BUDGET._undecided) == (0, 0)
    assert upload.BUDGET._travelling == 0


def with_sinks(store: S3Store, piece: bytes, *, count: int, pieces: int) -> None:
    with ExitStack() as stack:
        sinks = [stack.enter_context(store.sink(str(number))) for number in range(count)]
        for _ in range(pieces):
            for sink in sinks:
                sink.write(piece)


def test_part_sizes_reach_far_enough() -> None:
    """10,000 parts that begin at the smallest size hold half a terabyte."""
    sizes = [
        upload.SMALLEST_PART_BYTES << (number // upload.PARTS_PER_SIZE) for number in range(10_000)
    ]
    assert sum(sizes) > 500e9
    assert max(sizes) <= 5 << 30
