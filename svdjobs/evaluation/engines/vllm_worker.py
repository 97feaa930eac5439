"""Extension of vLLM's workers: load other weights while running, and return their checksums.

It is vLLM's `worker_extension_cls`, so every worker imports this module before it loads a model.
"""

from __future__ import annotations

from typing import Any

from svdjobs.evaluation.engines.device import device_name
from svdjobs.evaluation.engines.weight_checksum import bit_sum


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

    def svdjobs_load(self, path: str) -> list[str]:
        """Load a safetensors file with a checkpoint's tensor names into the running model."""
        import torch
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file, torch.inference_mode():
            tensors = ((name, file.get_tensor(name)) for name in file.keys())  # noqa: SIM118
            return sorted(self._svdjobs_model().load_weights(tensors))

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
        """Dtypes, fused names and copies of heads, to compute the expected checksums; and the
        device."""
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
        device = device_name(next(model.parameters()))
        return {"dtypes": dtypes, "packed": packed, "kv_copies": copies, "device": device}

    def _svdjobs_model(self) -> Any:
        return self.model_runner.get_model()


keep_weights_readable()
