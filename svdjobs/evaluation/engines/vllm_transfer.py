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
from typing import TYPE_CHECKING, Any, NamedTuple

from svdjobs.config import EvaluateConfig
from svdjobs.errors import EvaluationError, first_line
from svdjobs.evaluation.engines.device import vllm_uses_gpus
from svdjobs.progress import say, size

if TYPE_CHECKING:
    import torch

BACKEND = "ipc"
# The batch that is sent, and what the workers still hold of the one before.
BATCHES = 2
Batch = dict[str, "torch.Tensor"]
Send = Callable[[Batch], None]


class Workers(NamedTuple):
    """The workers of a running `vllm.LLM`, and the watch that no call of them outlasts."""

    llm: Any
    watch: AbstractContextManager[None]

    @contextmanager
    def called(self) -> Iterator[Any]:
        """The LLM, for a call of its workers.

        Raises:
            EvaluationError: they refuse it.
        """
        try:
            with self.watch:
                yield self.llm
        except Exception as error:  # the loader of an architecture can raise anything
            raise EvaluationError(
                f"vLLM does not take new weights while running ({first_line(error)}). Set "
                f"evaluate.reuse_engine to false: every checkpoint then gets an engine of its own."
            ) from None


Transfer = Callable[[Workers], AbstractContextManager[Send]]
"""Opens a transfer of weights; what it gives sends tensors, by their names in the checkpoint. The
workers have them all when it has closed. It raises EvaluationError if they do not take them."""


def arguments(config: EvaluateConfig) -> dict[str, Any]:
    """What `vllm.LLM` needs to be told for the transfers of `chosen`."""
    if config.tensor_parallel_size > 1 and vllm_uses_gpus() and _core_is_here():
        return {"weight_transfer_config": {"backend": BACKEND}}
    return {}


def chosen(workers: Workers, started_with: dict[str, Any], batch_bytes: int) -> Transfer:
    """The fastest transfer to the workers of an engine, by the arguments it was started with.

    `batch_bytes` are those of the largest batch that will be sent.
    """
    gpus = started_with["tensor_parallel_size"]
    if gpus == 1 and _core_is_here():
        return in_memory
    if "weight_transfer_config" in started_with:
        if not (reason := _why_no_ipc(workers, gpus, batch_bytes)):
            with workers.called() as llm:
                llm.init_weight_transfer_engine({"init_info": {"packed": False}})
            return partial(over_ipc, gpus)
        say(f"vLLM's workers get new weights in files, and not over CUDA IPC: {reason}")
    return in_files


def _core_is_here() -> bool:
    """Whether vLLM's scheduler is in this process: another one gets no objects of Python."""
    return os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING") == "0"


@contextmanager
def in_memory(workers: Workers) -> Iterator[Send]:
    """Give the tensors to the worker of this process."""

    def send(batch: Batch) -> None:
        with workers.called() as llm:
            llm.collective_rpc("svdjobs_take", args=(batch,))

    yield send


@contextmanager
def in_files(workers: Workers) -> Iterator[Send]:
    """Write the tensors to files that every worker reads."""
    from safetensors.torch import save_file

    with tempfile.TemporaryDirectory(prefix="svdjobs-") as folder:
        path = Path(folder) / "weights.safetensors"

        def send(batch: Batch) -> None:
            save_file({name: tensor.contiguous() for name, tensor in batch.items()}, path)
            with workers.called() as llm:
                llm.collective_rpc("svdjobs_load", args=(str(path),))

        yield send


@contextmanager
def over_ipc(gpus: int, workers: Workers) -> Iterator[Send]:
    """Copy the tensors to every worker's GPU, and give the workers handles of the copies.

    vLLM keeps a tensor until its module is complete. torch frees no memory that another process
    still has open, so this process need not keep the copies (torch/csrc/CudaIPCTypes.h).
    """

    def send(batch: Batch) -> None:
        with workers.called() as llm:
            copies, handles = shared(batch, gpus)
            described = {
                "names": list(batch),
                "dtype_names": [str(t.dtype).removeprefix("torch.") for t in batch.values()],
                "shapes": [list(t.shape) for t in batch.values()],
                "ipc_handles": handles,
            }
            llm.update_weights({"update_info": described})
            del copies

    with workers.called() as llm:
        llm.start_weight_update()
    try:
        yield send
    except Exception:
        with suppress(Exception):  # so that the next transfer can start
            finish(workers)
        raise
    finish(workers)


def finish(workers: Workers) -> None:
    """End a transfer over IPC, and give the memory of the copies back to the GPUs."""
    import torch

    with workers.called() as llm:
        llm.finish_weight_update()
        if torch.cuda.is_available():
            torch.cuda.ipc_collect()  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()


def shared(batch: Batch, gpus: int) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """A copy of each tensor on each GPU; and for each tensor the handles of its copies, by the
    UUIDs of the GPUs."""
    import torch
    from torch.multiprocessing.reductions import reduce_tensor

    uuids = [str(torch.cuda.get_device_properties(gpu).uuid) for gpu in range(gpus)]
    copies = [[t.contiguous().to(f"cuda:{gpu}") for gpu in range(gpus)] for t in batch.values()]
    handles = [
        {uuid: reduce_tensor(copy)[1] for uuid, copy in zip(uuids, row, strict=True)}  # type: ignore[no-untyped-call]
        for row in copies
    ]
    return [copy for row in copies for copy in row], handles


def _why_no_ipc(workers: Workers, gpus: int, batch_bytes: int) -> str:
    """Why workers cannot open this process's tensors, or why these do not fit what vLLM leaves of a
    GPU; empty if they can. vLLM cannot be asked: an engine that has refused a tensor lacks the
    module of that tensor from then on."""
    import torch

    try:
        _copies, (handles,) = shared({"probe": torch.tensor([1.0])}, gpus)
        with workers.watch:
            found = workers.llm.collective_rpc("svdjobs_opens", args=(handles,))
        free = min(torch.cuda.mem_get_info(gpu)[0] for gpu in range(gpus))
    except Exception as error:  # a driver, a container or a MIG device can refuse it anyhow
        return first_line(error)
    if free < BATCHES * batch_bytes:
        return (
            f"a GPU has {size(free)} free, and {BATCHES} batches of {size(batch_bytes)} may be "
            f"there at once. Lower evaluate.gpu_memory_utilization for IPC."
        )
    return next((reason for reason in found if reason), "")
