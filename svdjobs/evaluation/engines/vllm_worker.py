"""Extension of vLLM's workers: load other weights while running, and return their checksums.

It is vLLM's `worker_extension_cls`, so every worker imports this module before it loads a model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from svdjobs.evaluation.engines.device import device_name
from svdjobs.evaluation.engines.weight_checksum import bit_sum

if TYPE_CHECKING:
    import torch


def keep_weights_readable() -> None:
    """On a CPU, keep linear weights as they are instead of in oneDNN's private layout.

    vLLM would repack them on loading and drop the originals, so a running engine's weights could be
    neither replaced nor read back. torch's own product is used instead.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        from vllm import _custom_ops

        _custom_ops._supports_onednn = False


class WeightSwap:
    """Mixed into vLLM's worker class; its methods are called by name through `collective_rpc`."""

    model_runner: Any
    device: Any

    def svdjobs_take(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Load tensors, by their names in a checkpoint, into the running model."""
        import torch

        with torch.inference_mode():
            self._svdjobs_model().load_weights(tensors.items())

    def svdjobs_load(self, path: str) -> None:
        """Load the tensors of a safetensors file into the running model."""
        from safetensors.torch import load_file

        self.svdjobs_take(load_file(path))

    def svdjobs_opens(self, handles: Mapping[str, tuple[Any, ...]]) -> str:
        """Open a tensor over CUDA IPC, by its handle for the GPU of this worker; return why that
        does not work, or nothing.

        It never raises: vLLM would read the answer of one worker and leave those of the others, and
        take them for the answers to the next call.
        """
        import torch
        from torch.multiprocessing.reductions import rebuild_cuda_tensor

        try:
            uuid = str(torch.cuda.get_device_properties(self.device).uuid)
            if uuid not in handles:
                return f"a worker is on GPU {uuid}, and this process is not."
            # The seventh of a handle's parts is the index of its GPU, which each process counts.
            parts = list(handles[uuid])
            parts[6] = self.device.index
            rebuild_cuda_tensor(*parts).cpu()  # type: ignore[no-untyped-call]
        except Exception as error:  # a driver or a container can refuse it anyhow
            return str(error) or repr(error)
        return ""

    def svdjobs_bits(self, names: list[str] | None = None) -> dict[str, int]:
        """`bit_sum` of the parameters with these names, or of every one that this worker holds."""
        parameters = self._svdjobs_model().named_parameters()
        return {
            name: bit_sum(parameter.detach())
            for name, parameter in parameters
            if names is None or name in names
        }

    def svdjobs_scale(self, factor: float) -> bool:
        """Multiply the scale of all logits. Returns whether the model has one scale for them."""
        from vllm.model_executor.layers.logits_processor import LogitsProcessor

        found = [m for m in self._svdjobs_model().modules() if isinstance(m, LogitsProcessor)]
        if len(found) == 1:
            found[0].scale *= factor
        return len(found) == 1

    def svdjobs_layout(self) -> dict[str, Any]:
        """Dtypes, fused names and copies of heads, to compute the expected checksums; the bytes of
        the largest parameter; and the device."""
        model = self._svdjobs_model()
        dtypes = {n: str(p.dtype).removeprefix("torch.") for n, p in model.named_parameters()}
        packed = dict(getattr(model, "packed_modules_mapping", None) or {})
        # With more devices than key-value heads, vLLM keeps several copies of these heads.
        copies = {
            f"{name}.{kind}": module.num_kv_head_replicas
            for name, module in model.named_modules()
            if getattr(module, "num_kv_head_replicas", 1) > 1
            for kind in ("weight", "bias")
        }
        parameters = list(model.parameters())
        return {
            "dtypes": dtypes,
            "packed": packed,
            "kv_copies": copies,
            "largest": max(p.numel() * p.element_size() for p in parameters),
            "device": device_name(parameters[0]),
        }

    def _svdjobs_model(self) -> Any:
        return self.model_runner.get_model()


keep_weights_readable()
