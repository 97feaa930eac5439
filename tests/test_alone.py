"""The project stands alone: nothing in it reads or names what lies beside it."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("svdjobs", "tests", "docs", "helm", "images", "jobs", "workflows")
ABOVE = re.compile(
    r"\.\./shared|\bROOT\.parent\b|parents\[[3-9]\]|/(?:home|root|work)/|/(?:var/)?tmp/svdjobs|\.cache/svd"
)
# Whoever is meant by these is not this machine: a pod's home, an example.
EXAMPLES = ("/home/u/", "/root/.bashrc")


def test_nothing_names_a_path_outside_the_project() -> None:
    """Only .ci/run may, which says where CI keeps a cluster."""
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
