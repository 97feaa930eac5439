"""Make the key that protects the internal ports of the S3 server.

SeaweedFS is four servers (master, volume, filer, S3) that talk over HTTP and gRPC. By default each
accepts any client that reaches its port: the filer reads, writes and deletes every object for it.
With this key they use TLS and accept only clients that have the server's own certificate
(https://github.com/seaweedfs/seaweedfs/wiki/Security-Configuration). S3 requires its access key.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from svdjobs.errors import ConfigError, StorageError

CERTIFICATE = "certificate.pem"
KEY = "key.pem"
_DAYS = "3650"
_SETTINGS = """[req]
distinguished_name = name
x509_extensions = extensions
prompt = no
[name]
CN = svdjobs store
[extensions]
basicConstraints = critical, CA:TRUE
subjectAltName = IP:127.0.0.1
"""
_GRPC = ("MASTER", "VOLUME", "FILER", "S3", "CLIENT")
_HTTPS = ("MASTER", "VOLUME", "FILER", "CLIENT")


def environment(folder: Path) -> dict[str, str]:
    """Make a key and its certificate in a folder that only this user can read.

    Return the environment variables that make `weed` use them on every port and as a client.

    Raises:
        ConfigError: openssl is not installed.
        StorageError: openssl failed.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    certificate, key = (str((folder / name).resolve()) for name in (CERTIFICATE, KEY))
    _make(folder, Path(certificate), Path(key))
    found = {"WEED_GRPC_CA": certificate, "WEED_HTTPS_CLIENT_ENABLED": "true"}
    for kind, servers in (("GRPC", _GRPC), ("HTTPS", _HTTPS)):
        for server in servers:
            found[f"WEED_{kind}_{server}_CERT"] = certificate
            found[f"WEED_{kind}_{server}_KEY"] = key
            if kind == "HTTPS":
                found[f"WEED_{kind}_{server}_CA"] = certificate
    return found


def _make(folder: Path, certificate: Path, key: Path) -> None:
    """Make a new key and its self-signed certificate."""
    program = shutil.which("openssl")
    if program is None:
        raise ConfigError(
            "the program openssl is not installed; it makes the key that protects the internal "
            "ports of the S3 server. Install your system's package openssl."
        )
    settings = folder / "openssl.cnf"
    settings.write_text(_SETTINGS)
    done = subprocess.run(
        [
            program,
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            _DAYS,
            "-config",
            str(settings),
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = " | ".join(done.stderr.splitlines()[-2:])
        raise StorageError(f"{program} could not make a key for the S3 server in {folder}: {words}")
    key.chmod(0o600)
