"""No file of the project names a path outside the project."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("svdjobs", "tests", "docs", "helm", "images", "jobs", "workflows")
ABOVE = re.compile(
    r"\.\./shared|\bROOT\.parent\b|parents\[[3-9]\]|/(?:home|root|work)/|/(?:var/)?tmp/svdjobs|\.cache/svd"
)
# These are not paths of this machine: one is an example, one is in a pod.
EXAMPLES = ("/home/u/", "/root/.bashrc")


def test_nothing_names_a_path_outside_the_project() -> None:
    """Only .ci/run may: it says where CI keeps a cluster."""
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.suffix in (".md", ".toml")]
    files += [ROOT / "Makefile"]
    found = []
    for path in files:
        if path == Path(__file__) or path.suffix in (".safetensors", ".png", ".pyc", ".lock"):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            for example in EXAMPLES:
                line = line.replace(example, "")
            if ABOVE.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert found == []
