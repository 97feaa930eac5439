"""Each stage runs with what its image holds, and no image for a stage without torch holds torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from svdjobs import pipeline
from svdjobs.config import SweepConfig
from svdjobs.storage.local import LocalStore
from tests.checkpoint.hub import serving
from tests.images.parsed import ROOT

LOCKS = {stage.name: stage.packages for stage in pipeline.STAGES}


def run(lock: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.images.only", lock, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
    )


@pytest.fixture
def config(swept: SweepConfig, make_config: Callable[..., SweepConfig], tmp_path: Path) -> Path:
    """The file of a sweep whose evaluations are finished, with every section."""
    sections = {"metrics": {"null_draws": 1, "heads": False}, "gate": {"margin": 0.9}}
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(make_config(**sections).model_dump(mode="json", exclude_unset=True)))
    return path


def test_stages_run_with_the_packages_of_their_images(config: Path) -> None:
    stages = [stage for stage in pipeline.STAGES if stage.name not in ("fetch", "evaluate")]
    for lock, some in groupby(stages, key=lambda stage: stage.packages):
        words: list[str] = []
        for stage in some:
            alpha = ["--alpha", "0.5"] if "alpha" in stage.options else []
            again = [] if stage.name == "drop-weights" else ["--force"]
            words += [stage.name, str(config), *alpha, *again, "--"]
        done = run(lock, *words)
        assert done.returncode == 0, f"{lock}: {done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr
    store = LocalStore(json.loads(config.read_text())["store"])
    assert [key for key in store.keys("report/figures") if key.endswith(".svg")]
    assert "erank" in str(store.read("report/report.html"))
    assert store.exists("gate/junit.xml")


def test_plan_needs_no_torch_for_adapters_and_float8(
    config: Path, chain: dict[str, Path], tmp_path: Path
) -> None:
    """What is computed when a tensor is read is computed in NumPy, until a stage needs tensors."""
    base, tensors = tmp_path / "float8", load_file(chain["rl2"] / "model.safetensors")
    shutil.copytree(chain["rl2"], base)
    modules = [name for name in tensors if name.endswith("_proj.weight")]
    for name in modules:
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)
        tensors[f"{name}_scale"] = torch.ones(1)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    adapter, module = tmp_path / "adapter", f"base_model.model.{modules[0].removesuffix('.weight')}"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 1, "lora_alpha": 2}')
    rows, columns = tensors[modules[0]].shape
    factors = {f"{module}.lora_A.weight": torch.ones(1, columns)}
    factors[f"{module}.lora_B.weight"] = torch.ones(rows, 1)
    save_file(factors, adapter / "adapter_model.safetensors")
    document = json.loads(config.read_text())
    document |= {"after": f"{base} + {adapter}", "store": str(tmp_path / "other")}
    config.write_text(json.dumps(document))
    done = run(LOCKS["plan"], "plan", str(config))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "dequantised" in done.stdout + done.stderr
    assert "is a LoRA" in done.stdout + done.stderr
    assert "PyTorch" not in done.stderr


def test_fetch_runs_with_the_packages_of_its_image(
    chain: dict[str, Path], benchmark_file: Path, tmp_path: Path
) -> None:
    document = {
        "name": "hub", "before": "lab/base", "after": "lab/rl2", "store": str(tmp_path / "run"),
        "alphas": [0], "evaluate": {
            "benchmarks": [{"name": "sums", "data": str(benchmark_file)}], "max_tokens": 12,
        },
    }  # fmt: skip
    path = tmp_path / "sweep.yaml"
    path.write_text(json.dumps(document))
    with serving({"lab/base": chain["base"], "lab/rl2": chain["rl2"]}) as hub:
        there = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "cache")}
        for stage in ("plan", "fetch"):
            done = run(LOCKS[stage], stage, str(path), **there)
            assert done.returncode == 0, f"{stage}: {done.stderr[-3000:]}"
    assert list((tmp_path / "run" / "fetched").rglob("model.safetensors"))


def test_a_package_of_another_image_is_missing(config: Path) -> None:
    done = run(LOCKS["plan"], "decompose", str(config), "--force")
    assert "No module named 'torch'" in done.stderr
