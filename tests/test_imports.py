"""The layout's promises: help is instant, heavy packages come late, imports point one way."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import svdjobs

ROOT = Path(svdjobs.__file__).parent
HEAVY = ("torch", "transformers", "vllm", "datasets", "matplotlib", "numpy", "scipy", "pydantic")
# Lower layers first; a module may import from its own layer and from those before it.
LAYERS = [
    [
        "escape",
        "errors",
        "records",
        "fingerprint",
        "benchmarks",
    ],
    ["settings", "config", "config_file", "provenance", "progress", "parallel", "deadline"],
    ["statistics"],
    ["kernels", "storage"],
    ["checkpoint", "evaluation"],
    ["reporting"],
    ["stages"],
    ["cluster"],
    ["local", "demo"],
    ["cli"],
]


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from svdjobs.cli.main import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"


def layer(module: str) -> int:
    name = module.partition(".")[2]
    names = (name, name.split(".")[0])
    return next((i for n in names for i, layer in enumerate(LAYERS) if n in layer), 0)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    module = "svdjobs." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("svdjobs."):
            assert layer(str(node.module)) <= layer(module), f"{module} imports {node.module}"


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda p: p.name)
def test_kernels_import_only_errors_and_each_other(path: Path) -> None:
    allowed = (
        "svdjobs.errors",
        "svdjobs.kernels",
        "torch",
        "numpy",
        "math",
        "collections",
        "typing",
    )
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        assert all(str(name).startswith((*allowed, "__future__")) for name in names), names
