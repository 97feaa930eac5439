"""A script that runs a cluster on this machine, where SVDJOBS_CLUSTER names one.

It takes `up`, `down`, `env` (variables for a shell), `load ARCHIVE`, `base-image REFERENCE` and
`gpus COUNT PRODUCT`; its kubeconfig lies in the folder of all that it makes.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from functools import cache
from pathlib import Path

SCRIPT = os.environ.get("SVDJOBS_CLUSTER", "")
MISSING = "SVDJOBS_CLUSTER names no script that runs one"


@cache
def exported() -> dict[str, str]:
    """What its `env` exports; nothing where there is no script."""
    if not SCRIPT:
        return {}
    script = f'eval "$({shlex.quote(SCRIPT)} env)"; env -0'
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    found = dict(line.split("=", 1) for line in said.split("\0") if "=" in line)
    names = ("KUBECONFIG", "PATH", "CLUSTER_NODE_IP", "CONTAINERD_ADDRESS")
    return {name: found[name] for name in names}


def base_archive(reference: str) -> Path | None:
    """Where `base-image` leaves that image; None without a script."""
    if not SCRIPT:
        return None
    home = Path(exported()["KUBECONFIG"]).parent
    return home / "images" / f"base-{reference.translate(str.maketrans('/:', '__'))}.tar"
