"""How many GPUs an engine of vLLM needs, calculated from a checkpoint's headers and config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from svdjobs.config import EvaluateConfig
from svdjobs.errors import ConfigError
from svdjobs.evaluation.speeds import GPUS
from svdjobs.progress import size

GROUPS = (1, 2, 4, 8)
"""GPUs of one node that share a checkpoint: `evaluate.tensor_parallel_size`."""
GB = 10**9
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# What log-probabilities of a prompt need at once: float32 logits of this many tokens.
PREFILL_TOKENS = 4096


class Need(NamedTuple):
    """What an engine holds, in bytes over all GPUs, unless said otherwise."""

    weights: int
    cache: int
    """Keys and values of one sequence of the longest prompt and `max_tokens`."""
    logits: int
    """On each GPU."""
    heads: int
    kv_heads: int

    @classmethod
    def of(
        cls, elements: Mapping[str, int], config: Mapping[str, Any], dtype: str, tokens: int
    ) -> Need:
        """The need for a checkpoint, by the numbers of elements of its tensors and its config."""
        text, item = config.get("text_config") or config, ITEM_BYTES[dtype]
        heads = int(text.get("num_attention_heads") or 1)
        kv_heads = int(text.get("num_key_value_heads") or heads)
        layers, hidden = (int(text.get(k) or 0) for k in ("num_hidden_layers", "hidden_size"))
        kept = 2 * kv_heads * int(text.get("head_dim") or hidden // heads)
        if latent := text.get("kv_lora_rank"):  # DeepSeek's latent attention
            kept, kv_heads = int(latent) + int(text.get("qk_rope_head_dim") or 0), 1
        return cls(
            item * sum(elements.values()),
            item * layers * kept * tokens,
            4 * PREFILL_TOKENS * int(text.get("vocab_size") or 0),
            heads,
            kv_heads,
        )

    def on_each(self, gpus: int) -> float:
        """Bytes on each of so many GPUs. Every GPU has at least one head of keys and values."""
        return self.weights / gpus + self.cache / min(gpus, self.kv_heads) + self.logits

    def smallest_group(self, memory: float) -> int | None:
        """The fewest GPUs with so many bytes each; None if 8 are not enough."""
        groups = (gpus for gpus in GROUPS if self.heads % gpus == 0)
        return next((gpus for gpus in groups if self.on_each(gpus) <= memory), None)


def words(need: Need, evaluate: EvaluateConfig, dtype: str, gpu: str | None) -> str:
    """A line for the user: the memory that an engine needs, and which GPUs have it.

    Raises:
        ConfigError: the weights alone do not fit the GPUs of a kind that the user names.
    """
    share, own = evaluate.gpu_memory_utilization, evaluate.tensor_parallel_size
    if gpu is not None:
        _refuse(need, share * GPUS[gpu].memory * GB, own, dtype, gpu)
    classes = sorted({one.memory for one in GPUS.values()})
    groups = {memory: need.smallest_group(share * memory * GB) for memory in classes}
    fitting, shown = {}, None
    for memory, gpus in groups.items():
        if gpus is not None and gpus != shown:
            fitting[memory], shown = gpus, gpus
    where = ", ".join(
        f"{gpus} GPU{'s' if gpus > 1 else ''} of {memory:.0f} GB"
        for memory, gpus in fitting.items()
    )
    where = f"it fits {where} or more" if where else "8 of the largest GPUs are not enough for it"
    return (
        f"an engine: weights {size(need.weights)} in {dtype}, KV cache {size(need.cache)} for one "
        f"longest sequence, logits {size(need.logits)}: {where} (calculated; "
        f"evaluate.tensor_parallel_size is {own})"
    )


def _refuse(need: Need, memory: float, own: int, dtype: str, gpu: str) -> None:
    if need.weights / own <= memory:
        return
    group = need.smallest_group(memory)
    advice = (
        f"Set evaluate.tensor_parallel_size to {group}."
        if group
        else "8 of them are not enough: name a GPU with more memory, or set evaluate.dtype to "
        "bfloat16 if the report of a first sweep says that blends survive it."
    )
    raise ConfigError(
        f"--gpu {gpu}: the weights of after take {size(need.weights)} in {dtype}, and {own} × "
        f"{gpu} gives vLLM {size(own * memory)}. {advice}"
    )
