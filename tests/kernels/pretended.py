"""A GPU that is pretended: tensors that say they are on it, and hold their elements on the CPU.

An operation that mixes them with tensors of the CPU fails as on a real one, and so does NumPy. What
is computed is computed by torch on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

GPU = torch.device("cuda", 0)


class OnGpu(torch.Tensor):
    """A tensor on the pretended GPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> OnGpu:
        made: OnGpu = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=GPU,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return run(func, args, kwargs or {})


def run(function: Any, given: Any, more: dict[str, Any]) -> Any:
    """Run an operation on the CPU; its results are where its arguments are, or where they go."""
    flat, _ = tree_flatten((given, more))
    tensors = [value for value in flat if isinstance(value, torch.Tensor)]
    there = [value for value in tensors if isinstance(value, OnGpu)]
    here = [value for value in tensors if not isinstance(value, OnGpu)]
    target = more.get("device")
    copies = function in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    if there and not copies and any(value.ndim for value in here):
        raise RuntimeError(f"{function} has tensors on the GPU and on the CPU")
    if target is not None:
        more = {**more, "device": torch.device("cpu")}
    given, more = tree_map(lambda x: x.held if isinstance(x, OnGpu) else x, (given, more))
    result = function(*given, **more)
    if function is torch.ops.aten.copy_.default:
        return tensors[0]
    gpu = bool(there) if target is None else torch.device(target).type == "cuda"
    if not gpu:
        return result
    return tree_map(lambda x: OnGpu(x) if isinstance(x, torch.Tensor) else x, result)


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sends to `run` what makes tensors on the GPU from nothing, or copies them there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})


def numbers(value: Any) -> list[float]:
    """All numbers in records, in order: what is compared between a GPU and a CPU."""
    if isinstance(value, (bool, str)) or value is None:
        return []
    if isinstance(value, (int, float)):
        return [float(value)]
    if hasattr(value, "model_dump"):
        value = value.model_dump()
    items = value.values() if isinstance(value, dict) else value
    return [number for item in items for number in numbers(item)]


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """The device that this thread can move tensors to in this block."""
    torch._C._ensureCUDADeviceGuardSet()  # as torch does for its own FakeTensors
    mode: Any = _Mode()  # type: ignore[no-untyped-call]
    with patch.object(torch.cuda, "_lazy_init", lambda: None), mode:
        yield GPU


@contextmanager
def machine_with(gpus: int, free_bytes: int = 1 << 33) -> Iterator[list[int]]:
    """A machine with pretended GPUs, for threads that take one each. Yields the GPUs they took."""
    taken: list[int] = []
    modes: list[Any] = []
    torch._C._ensureCUDADeviceGuardSet()

    def take(device: torch.device) -> None:
        taken.append(device.index)
        modes.append(_Mode())  # type: ignore[no-untyped-call]
        modes[-1].__enter__()  # for as long as the thread lives

    with ExitStack() as stack:
        for name, value in {
            "_lazy_init": lambda: None,
            "is_available": lambda: True,
            "device_count": lambda: gpus,
            "mem_get_info": lambda gpu: (free_bytes, 2 * free_bytes),
            "set_device": take,
            "Stream": lambda device: device,
            "set_stream": lambda stream: None,
            "empty_cache": lambda: None,
        }.items():
            stack.enter_context(patch.object(torch.cuda, name, value))
        yield taken
