"""vLLM's weight transfer over CUDA IPC on a CPU: all of it but IPC itself.

vLLM's own code prepares every module, and completes it when all of its tensors have come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine

from svdjobs.evaluation.engines import vllm, vllm_transfer
from svdjobs.evaluation.engines.vllm_worker import WeightSwap

BACKEND = "by_value"


class ByValue(IPCWeightTransferEngine):  # type: ignore[misc]
    """Gets tensors in place of their handles."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        update = self.parse_update_info(update_info)
        assert isinstance(update.ipc_handles, list)
        tensors = [handle["cpu"] for handle in update.ipc_handles]
        self.model.load_weights(zip(update.names, tensors, strict=True))


class Extension(WeightSwap):
    """Every worker, also one in a process of its own, imports this module before it starts."""

    rank: int
    deaf = False

    def only_the_first_loads(self) -> None:
        """Have all other workers keep their weights from now on."""
        self.deaf = self.rank > 0

    def svdjobs_take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        if not self.deaf:
            super().svdjobs_take(tensors)


WeightTransferEngineFactory.register_engine(BACKEND, ByValue)


def pretend() -> None:
    """Have vLLM start with this backend, and have `over_ipc` use it."""
    vllm.EXTENSION = f"{__name__}.{Extension.__name__}"
    started = {"weight_transfer_config": {"backend": BACKEND}}
    vllm_transfer.arguments = lambda config: started
    vllm_transfer.shared = lambda batch, gpus: ([], [{"cpu": t} for t in batch.values()])
