"""Where matrices are computed: GPUs are pretended, as in tests/kernels/test_devices.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from svdjobs import devices
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import SweepConfig
from svdjobs.errors import ConfigError, NumericalError
from svdjobs.records import MetricsRow, RotationRow
from svdjobs.runs.rows import load_rows
from svdjobs.stages import blend, decompose, metrics, plan, rotations
from svdjobs.storage.open import open_store
from svdjobs.weights.factors import Factors
from tests.kernels.pretended import machine_with, numbers


def test_without_gpus_auto_takes_cpus_and_cuda_says_what_to_do() -> None:
    assert devices.gpu_workers("cpu", 1) == devices.gpu_workers("auto", 1) == 0
    with pytest.raises(ConfigError, match=r"compute\.device is cuda, and torch .* no GPU here"):
        devices.gpu_workers("cuda", 1)


def test_matrices_at_a_time_depend_on_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    with machine_with(gpus=3, free_bytes=1000):
        assert devices.gpu_workers("auto", 1) == 3 * devices.STREAMS
        assert devices.gpu_workers("cuda", 200) == 3 * 2
        assert devices.gpu_workers("auto", 500) == 0
        assert "too few for the largest matrix: using CPUs" in capsys.readouterr().err
        with pytest.raises(ConfigError, match="the largest matrix needs"):
            devices.gpu_workers("cuda", 500)


def test_threads_are_dealt_out_to_all_gpus() -> None:
    with machine_with(gpus=2) as taken, devices.computing("auto", 1) as pool:
        assert pool.workers == 2 * devices.STREAMS
        found = list(pool.threads.map(lambda _: devices.here(), range(64)))
    assert {device.type for device in found} == {"cuda"}
    assert sorted(taken) == sorted([0, 1] * (len(taken) // 2) + [0] * (len(taken) % 2))
    assert devices.here() == torch.device("cpu")


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError, NumericalError])
def test_a_matrix_that_a_gpu_fails_at_is_computed_on_the_cpu(
    kind: type[Exception], capsys: pytest.CaptureFixture[str]
) -> None:
    def size(number: int) -> tuple[str, int]:
        if devices.here().type == "cuda" and number == 2:
            raise kind("CUDA out of memory\nand more")
        return devices.here().type, number

    with machine_with(gpus=1), devices.computing("cuda", 1, workers=1) as pool:
        found = list(pool.threads.map(size, range(4)))
    assert found == [("cuda", 0), ("cuda", 1), ("cpu", 2), ("cuda", 3)]
    assert "is computed on the CPU instead: CUDA out of memory\n" in capsys.readouterr().err


def test_stages_on_gpus_come_to_what_they_come_to_on_cpus(
    make_config: Callable[..., SweepConfig], tmp_path: Any
) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        config = make_config(
            store=str(tmp_path / device), compute={"device": device}, evaluate=None,
            metrics={"null_draws": 1, "heads": False},
        )  # fmt: skip
        store = open_store(config.store_url)
        plan.run(config, store)
        with machine_with(gpus=2) as taken:
            decompose.run(config, store)
            assert bool(taken) == (device == "cuda")
            blend.run(config, store)
            rotations.run(config, store)
            metrics.run(config, store)
        blended = open_checkpoint(f"{config.store_url}/checkpoints/alpha-0.5000")
        name = "model.layers.1.mlp.up_proj.weight"
        factors = Factors(store, "after", stage="test")
        found[device] = {
            "s": factors.s(name).tolist(),
            "w": blended.read(name).reshape(-1).tolist(),
            "rotations": numbers(load_rows(store, "rotations", RotationRow, stage="test")),
            "metrics": numbers(load_rows(store, "metrics", MetricsRow, stage="test")),
        }
    for key, values in found["cpu"].items():
        assert len(values) > 10
        assert found["cuda"][key] == pytest.approx(values, rel=1e-5, abs=1e-8), key
