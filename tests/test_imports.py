"""Rules for imports: `--help` imports nothing heavy, and modules import only from lower floors."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import svdjobs

ROOT = Path(svdjobs.__file__).parent
HEAVY = ("torch", "transformers", "vllm", "datasets", "vl_convert", "numpy", "scipy", "pydantic",
         "pandas")  # fmt: skip
# The lowest floor comes first. A module may import from its own folder and from the floors below.
# Folders on the same floor may not import each other; modules of the two lowest floors may.
FLOORS = [
    {"errors", "escape", "records", "answers", "fingerprint", "benchmarks"},
    {
        "settings",
        "variant_config",
        "config",
        "config_file",
        "config_schema",
        "yaml_core",
        "provenance",
        "progress",
        "parallel",
        "devices",
        "attempts",
        "deadline",
    },
    {"kernels", "pipeline"},
    {"statistics", "storage"},
    {"checkpoint"},
    {"runs"},
    {"weights"},
    {"evaluation", "reporting"},
    {"stages", "exports"},
    {"cluster", "standalone", "local", "demo"},
    {"ci", "api"},
    {"cli"},
    {"__main__"},
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


def imported(path: Path) -> Iterator[str]:
    """The modules of svdjobs that a file imports, also by `from svdjobs.x import module`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("svdjobs."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "svdjobs":
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name for name in names if name != "svdjobs.__version__")


def floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_one_way(path: Path) -> None:
    *folders, name = path.relative_to(ROOT).with_suffix("").parts
    if (room := [*folders, name][0]) == "__init__":
        # For type checkers only: `test_help_imports_nothing_heavy` would find it at run time.
        assert {module.split(".")[1] for module in imported(path)} == {"api"}
        return
    for module in imported(path):
        other = module.split(".")[1]
        assert floor(other) <= floor(room), f"{room} imports {module}, from above"
        if floor(other) == floor(room) > 1:
            assert other == room, f"{room} imports {module}, which shares its floor"
        assert folders != ["stages"] or other != "stages", f"{name} imports another stage: {module}"


def test_no_module_imports_itself_in_a_circle() -> None:
    """This includes imports within a folder and inside functions."""
    names = {}
    for path in ROOT.rglob("*.py"):
        module = ".".join(["svdjobs", *path.relative_to(ROOT).with_suffix("").parts])
        names[module.removesuffix(".__init__")] = path
    leads_to = {
        module: {
            next(n for n in (one, one.rpartition(".")[0]) if n in names) for one in imported(path)
        }
        for module, path in names.items()
    }
    try:
        tuple(TopologicalSorter(leads_to).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("path", sorted((ROOT / "kernels").glob("*.py")), ids=lambda p: p.name)
def test_kernels_import_only_errors_and_each_other(path: Path) -> None:
    allowed = (
        "svdjobs.errors",
        "svdjobs.kernels",
        "torch",
        "ml_dtypes",
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
