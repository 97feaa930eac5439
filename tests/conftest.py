"""Fixtures: small checkpoints saved by transformers, and a sweep over them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Tests compare bytes with those that CPUs compute, and svdjobs refuses vLLM's CPU build if there is
# a GPU.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
# Workers in parallel share the cores, and threads that wait for each other's core are slower.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# These variables choose the kernels of a library, and the last bits depend on the kernels. Pods do
# not get them, so remove them here, before numpy and torch are imported.
os.environ.pop("OPENBLAS_CORETYPE", None)
os.environ.pop("OPENBLAS_L2_SIZE", None)
os.environ.pop("MKL_ENABLE_INSTRUCTIONS", None)
os.environ.pop("ATEN_CPU_CAPABILITY", None)

import pytest
import torch

from svdjobs import local
from svdjobs.config import SweepConfig
from svdjobs.config_file import parse_config
from tests.checkpoints import make_checkpoint, write_problems

pytest_plugins = ["tests.storage.s3_server"]


def pytest_addoption(parser: pytest.Parser) -> None:
    words = "stop the cluster of SVDJOBS_CLUSTER after the tests, if they started it"
    parser.addoption("--cluster-down", action="store_true", help=words)


# Files with few, long tests. In a parallel run they must start first, or one of them runs alone at
# the end.
_FIRST = (
    "evaluation/test_multi_gpu.py", "cluster/test_contract.py", "engines/test_vllm.py",
    "runs/test_kills.py", "cli/test_cli.py", "runs/test_shards.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the files with long tests to the front."""

    def rank(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((i for i, name in enumerate(_FIRST) if path.endswith(name)), len(_FIRST))

    items.sort(key=rank)


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """A function that takes a line of measurements, which pytest prints at the end of the run."""
    return lambda line: record_property("measured", line)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the lines that tests passed to `measured`."""
    reports = [one for kind in terminalreporter.stats.values() for one in kind]
    properties = [pair for one in reports for pair in getattr(one, "user_properties", ())]
    if lines := [line for name, line in dict.fromkeys(properties) if name == "measured"]:
        terminalreporter.section("measured")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """base, rl1 and rl2 of a small Qwen2; each is a small random update of the previous one."""
    root = tmp_path_factory.mktemp("chain")
    return {
        name: make_checkpoint(root / name, updates=updates)
        for updates, name in enumerate(("base", "rl1", "rl2"))
    }


@pytest.fixture(scope="session")
def benchmark_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_problems(tmp_path_factory.mktemp("benchmark") / "problems.jsonl")


@pytest.fixture
def make_config(
    chain: dict[str, Path], benchmark_file: Path, tmp_path: Path
) -> Callable[..., SweepConfig]:
    """A function that makes a config over `chain` in a new folder; its arguments override keys."""

    def make(**overrides: Any) -> SweepConfig:
        return _config(chain, benchmark_file, tmp_path, **overrides)

    return make


def _config(
    chain: dict[str, Path], benchmark_file: Path, folder: Path, **overrides: Any
) -> SweepConfig:
    document: dict[str, Any] = {
        "name": "mini",
        "before": str(chain["base"]),
        "after": str(chain["rl2"]),
        "store": str(folder / "run"),
        "alphas": [0, 0.5, 1],
        "evaluate": {
            "sampled": "all",
            "benchmarks": [{"name": "sums", "data": str(benchmark_file)}],
            "max_tokens": 12,
            "n_samples": 2,
            "batch_size": 4,
        },
        "rotations": {"rl1": str(chain["rl1"])},
    }
    return parse_config({**document, **overrides}, where="test")


@pytest.fixture(scope="session")
def _finished(
    chain: dict[str, Path], benchmark_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The finished run of the config without overrides, computed once per session."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("finished")
    local.sweep(_config(chain, benchmark_file, root))
    return root / "run"


@pytest.fixture
def swept(make_config: Callable[..., SweepConfig], _finished: Path) -> SweepConfig:
    """The config without overrides, with a copy of its finished run in its store."""
    config = make_config()
    shutil.copytree(_finished, config.store_url)
    return config


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Use one thread: more do not speed up tiny matrices."""
    torch.set_num_threads(1)
