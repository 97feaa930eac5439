"""Access to the script that runs a cluster on this machine; SVDJOBS_CLUSTER names it.

The commands of the script are `up`, `down`, `env` (which prints variables for a shell),
`load ARCHIVE`, `base-image REFERENCE` and `gpus COUNT PRODUCT`. It keeps its kubeconfig and its
other files in one folder.
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
    """The variables that the script's `env` exports; empty without a script."""
    if not SCRIPT:
        return {}
    script = f'eval "$({shlex.quote(SCRIPT)} env)"; env -0'
    said = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    found = dict(line.split("=", 1) for line in said.split("\0") if "=" in line)
    names = ("KUBECONFIG", "PATH", "CLUSTER_NODE_IP", "CONTAINERD_ADDRESS")
    return {name: found[name] for name in names}


def base_archive(reference: str) -> Path | None:
    """The archive in which `base-image` leaves an image; None without a script."""
    if not SCRIPT:
        return None
    home = Path(exported()["KUBECONFIG"]).parent
    return home / "images" / f"base-{reference.translate(str.maketrans('/:', '__'))}.tar"
