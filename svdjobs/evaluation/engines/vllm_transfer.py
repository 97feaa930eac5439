"""How the tensors of another checkpoint reach vLLM's workers.

A single worker is in this process and takes the tensors themselves: CUDA does not open a handle in
the process that made it. Several workers, each a process with a GPU of its own, open them over CUDA
IPC, through vLLM's weight-transfer API, which loads a module when all of it has arrived
(https://docs.vllm.ai/en/latest/training/weight_transfer/). Several workers on CPUs read files.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svdjobs.config import EvaluateConfig
from svdjobs.errors import EvaluationError, first_line
from svdjobs.evaluation.engines.device import vllm_uses_gpus
from svdjobs.progress import say

if TYPE_CHECKING:
    import torch

BACKEND = "ipc"
Batch = dict[str, "torch.Tensor"]
Send = Callable[[Batch], None]
Transfer = Callable[[Any], AbstractContextManager[Send]]
"""Opens a transfer of weights to the workers of a `vllm.LLM`; what it gives sends tensors, by their
names in the checkpoint. The workers have them all when it has closed. It raises EvaluationError if
they do not take them."""


def arguments(config: EvaluateConfig) -> dict[str, Any]:
    """What `vllm.LLM` needs to be told for the transfers of `chosen`."""
    if config.tensor_parallel_size > 1 and vllm_uses_gpus() and _core_is_here():
        return {"weight_transfer_config": {"backend": BACKEND}}
    return {}


def chosen(llm: Any, started_with: dict[str, Any]) -> Transfer:
    """The fastest transfer to the workers of an engine, by the arguments it was started with."""
    if started_with["tensor_parallel_size"] == 1 and _core_is_here():
        return in_memory
    if "weight_transfer_config" in started_with:
        gpus = started_with["tensor_parallel_size"]
        if not (reason := _why_no_ipc(llm, gpus)):
            llm.init_weight_transfer_engine({"init_info": {"packed": False}})
            return partial(over_ipc, gpus)
        say(f"vLLM's workers get new weights in files, since CUDA IPC does not work: {reason}")
    return in_files


def _core_is_here() -> bool:
    """Whether vLLM's scheduler is in this process: another one gets no objects of Python."""
    return os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0"


@contextmanager
def in_memory(llm: Any) -> Iterator[Send]:
    """Give the tensors to the worker of this process."""

    def send(batch: Batch) -> None:
        with _refusals():
            llm.collective_rpc("svdjobs_take", args=(batch,))

    yield send


@contextmanager
def in_files(llm: Any) -> Iterator[Send]:
    """Write the tensors to files that every worker reads."""
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory(prefix="svdjobs-") as folder:
        path = Path(folder) / "weights.safetensors"

        def send(batch: Batch) -> None:
            save_file({name: tensor.contiguous() for name, tensor in batch.items()}, path)
            with _refusals():
                llm.collective_rpc("svdjobs_load", args=(str(path),))

        yield send


@contextmanager
def over_ipc(gpus: int, llm: Any) -> Iterator[Send]:
    """Copy the tensors to every worker's GPU, and give the workers handles of the copies."""
    # vLLM keeps a tensor until its module is complete, and a module may lie in two batches.
    kept: list[list[torch.Tensor]] = []

    def send(batch: Batch) -> None:
        with _refusals():
            copies, handles = [], []
            for tensor in batch.values():
                tensors, by_gpu = shared(tensor, gpus)
                copies += tensors
                handles.append(by_gpu)
            described = {
                "names": list(batch),
                "dtype_names": [str(t.dtype).removeprefix("torch.") for t in batch.values()],
                "shapes": [list(t.shape) for t in batch.values()],
                "ipc_handles": handles,
            }
            llm.update_weights({"update_info": described})
            kept[:] = [*kept[-1:], copies]

    with _refusals():
        llm.start_weight_update()
    try:
        yield send
    except BaseException:
        with suppress(Exception):  # so that the next transfer can start
            llm.finish_weight_update()
        raise
    with _refusals():
        llm.finish_weight_update()


def shared(tensor: torch.Tensor, gpus: int) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """A copy of a tensor on each GPU, and the handle of each by the UUID of its GPU."""
    import torch
    from torch.multiprocessing.reductions import reduce_tensor

    copies = [tensor.contiguous().to(f"cuda:{gpu}") for gpu in range(gpus)]
    torch.cuda.synchronize()
    uuids = [str(torch.cuda.get_device_properties(gpu).uuid) for gpu in range(gpus)]
    handles = [reduce_tensor(copy)[1] for copy in copies]  # type: ignore[no-untyped-call]
    return copies, dict(zip(uuids, handles, strict=True))


def _why_no_ipc(llm: Any, gpus: int) -> str:
    """Why workers cannot open this process's tensors; empty if they can. vLLM cannot be asked: an
    engine that has refused a tensor lacks the module of that tensor from then on."""
    import torch

    try:
        _copies, handles = shared(torch.tensor([1.0]), gpus)
        found = llm.collective_rpc("svdjobs_opens", args=(handles,))
    except Exception as error:  # a driver, a container or a MIG device can refuse it anyhow
        return first_line(error)
    return next((reason for reason in found if reason), "")


@contextmanager
def _refusals() -> Iterator[None]:
    """Translate errors of vLLM's workers."""
    try:
        yield
    except Exception as error:  # the loader of an architecture can raise anything
        raise EvaluationError(
            f"vLLM does not take new weights while running ({first_line(error)}). Set "
            f"evaluate.reuse_engine to false: every checkpoint then gets an engine of its own."
        ) from None
