"""The key that the S3 server's own ports ask for: only the server itself has it.

SeaweedFS is four servers (master, volume, filer, S3) that talk over HTTP and gRPC. Without this
each of them lets in whoever reaches its port: the filer hands out, takes and deletes every object.
With it all of them speak TLS and ask who connects for the server's own certificate
(https://github.com/seaweedfs/seaweedfs/wiki/Security-Configuration). S3 asks for its access key.
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
    """Make a key and its certificate in a folder, which only this user can read then; returns the
    variables by which `weed` takes them, for every port and for what connects to it.

    Raises:
        ConfigError: there is no openssl.
        StorageError: it makes no key.
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
    """A fresh key, and a certificate that vouches for itself alone."""
    program = shutil.which("openssl")
    if program is None:
        raise ConfigError(
            "the S3 server's own ports need a key, and the program openssl, which makes it, is not "
            "installed. Install your system's package openssl."
        )
    settings = folder / "openssl.cnf"
    settings.write_text(_SETTINGS)
    done = subprocess.run(
        [program, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", _DAYS,
         "-config", str(settings), "-keyout", str(key), "-out", str(certificate)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        words = " | ".join(done.stderr.splitlines()[-2:])
        raise StorageError(f"{program} made no key for the S3 server in {folder}: {words}")
    key.chmod(0o600)
