"""vLLM's weight transfer over CUDA IPC on a CPU: all of it but IPC itself.

vLLM's own code prepares every module, and completes it when all of its tensors have come.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.distributed.weight_transfer.ipc_engine import IPCWeightTransferEngine

from svdjobs.evaluation.engines import vllm_transfer

BACKEND = "by_value"


class ByValue(IPCWeightTransferEngine):  # type: ignore[misc]
    """Gets tensors in place of their handles."""

    def update_weights(self, update_info: dict[str, Any]) -> None:
        update = self.parse_update_info(update_info)
        assert isinstance(update.ipc_handles, list)
        tensors = [handle["cpu"] for handle in update.ipc_handles]
        self.model.load_weights(zip(update.names, tensors, strict=True))


def pretend() -> None:
    """Have vLLM start with this backend, and have `over_ipc` use it."""
    WeightTransferEngineFactory.register_engine(BACKEND, ByValue)
    started = {"weight_transfer_config": {"backend": BACKEND}}
    vllm_transfer.arguments = lambda config: started
    vllm_transfer.shared = lambda batch, gpus: ([], [{"cpu": t} for t in batch.values()])
