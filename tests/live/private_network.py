"""What stands between pods and the hub in a company: a private authority, and a proxy."""

from __future__ import annotations

import ipaddress
import select
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def authority(folder: Path, address: str) -> tuple[Path, Path]:
    """The certificate of a new authority, and a file with a server's key and certificate by it."""
    now = datetime.now(UTC)

    def certificate(name: str, key: Any, issuer: str, signer: Any, *, ca: bool) -> x509.Certificate:
        names = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n)]) for n in (name, issuer)]
        built = (
            x509.CertificateBuilder()
            .subject_name(names[0])
            .issuer_name(names[1])
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if not ca:
            names_of = [x509.IPAddress(ipaddress.ip_address(address))]
            built = built.add_extension(x509.SubjectAlternativeName(names_of), critical=False)
        return built.sign(signer, hashes.SHA256())

    own, servers = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    top = certificate("tests", own, "tests", own, ca=True)
    leaf = certificate(address, servers, "tests", own, ca=False)
    pem = serialization.Encoding.PEM
    (folder / "ca.crt").write_bytes(top.public_bytes(pem))
    secret = servers.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(secret + leaf.public_bytes(pem))
    return folder / "ca.crt", folder / "server.pem"


class _Tunnel(socketserver.StreamRequestHandler):
    """Answers `CONNECT host:port`, and passes bytes on in both directions."""

    def handle(self) -> None:
        method, target, _ = self.rfile.readline().decode().split(" ", 2)
        while self.rfile.readline().strip():
            pass
        if method != "CONNECT":
            self.wfile.write(b"HTTP/1.1 405 Only CONNECT\r\n\r\n")
            return
        self.server.reached.append(target)  # type: ignore[attr-defined]
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=30) as there:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            ends = {self.connection: there, there: self.connection}
            while True:
                readable, _, _ = select.select(list(ends), [], [], 60)
                pieces = [(one, one.recv(1 << 16)) for one in readable]
                if not pieces or not all(data for _, data in pieces):
                    return
                for one, data in pieces:
                    ends[one].sendall(data)


@contextmanager
def proxy(address: str) -> Iterator[tuple[str, list[str]]]:
    """A proxy at an address of this machine: its URL, and the hosts that it was asked for."""
    with socketserver.ThreadingTCPServer((address, 0), _Tunnel) as server:
        server.daemon_threads = True
        reached: list[str] = []
        server.reached = reached  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://{address}:{server.server_address[1]}", reached
        finally:
            server.shutdown()
            thread.join()
