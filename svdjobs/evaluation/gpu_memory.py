"""How many GPUs an engine of vLLM needs, calculated from a checkpoint's headers and config."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from svdjobs.checkpoint.matrices import Sizes, size_in
from svdjobs.config import EvaluateConfig
from svdjobs.errors import ConfigError
from svdjobs.evaluation.speeds import GPUS
from svdjobs.progress import size

GROUPS = (1, 2, 4, 8)
"""GPUs of one node that share a checkpoint: `evaluate.tensor_parallel_size`."""
GB = 10**9
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# vLLM computes log-probabilities of a prompt from float32 logits of so many tokens at once, and
# needs their log-softmax beside them (vllm/v1/worker/gpu/sample/prompt_logprob.py, CHUNK_SIZE).
LOGITS_TOKENS = 2 * 1024


class Need(NamedTuple):
    """What an engine holds, in bytes over all GPUs, unless said otherwise."""

    weights: int
    cache: int
    """Keys and values of one sequence of the longest prompt and `max_tokens`; 0 if the config does
    not say."""
    logits: int
    """On each GPU."""
    heads: int
    """0 if the config does not say."""
    kv_heads: int

    @classmethod
    def of(
        cls, elements: Mapping[str, int], config: Mapping[str, Any], dtype: str, tokens: int
    ) -> Need:
        """The need for a checkpoint, by the numbers of elements of its tensors and its config."""
        item, sizes, number = ITEM_BYTES[dtype], Sizes.of(config), partial(size_in, config)
        kept, kv_heads = 2 * sizes.kv_heads * sizes.head, sizes.kv_heads
        if latent := number("kv_lora_rank"):  # DeepSeek's latent attention
            kept, kv_heads = latent + number("qk_rope_head_dim"), 1
        return cls(
            item * sum(elements.values()),
            item * number("num_hidden_layers", "n_layer", "n_layers") * kept * tokens,
            4 * LOGITS_TOKENS * number("vocab_size"),
            sizes.heads,
            kv_heads,
        )

    def on_each(self, gpus: int) -> float:
        """Bytes on each of so many GPUs. Every GPU has at least one head of keys and values."""
        return self.weights / gpus + self.cache / max(1, min(gpus, self.kv_heads)) + self.logits

    def smallest_group(self, memory: float) -> int | None:
        """The fewest GPUs with so many bytes each; None if 8 are not enough."""
        groups = (gpus for gpus in GROUPS if self._divides(gpus))
        return next((gpus for gpus in groups if self.on_each(gpus) <= memory), None)

    def _divides(self, gpus: int) -> bool:
        """Whether vLLM can divide the heads: those of keys and values are shared out, or copied."""
        kv_heads = max(1, self.kv_heads)
        return self.heads % gpus == 0 and max(gpus, kv_heads) % min(gpus, kv_heads) == 0


def words(need: Need, evaluate: EvaluateConfig, dtype: str, gpu: str | None) -> str:
    """A line for the user: the memory that an engine needs, and which GPUs have it.

    Raises:
        ConfigError: the weights alone do not fit the GPUs of a kind that the user names.
    """
    share, own = evaluate.gpu_memory_utilization, evaluate.tensor_parallel_size
    named = _checked(need, share * GPUS[gpu].memory * GB, evaluate, dtype, gpu) if gpu else ""
    fitting: dict[float, int] = {}
    for memory in sorted({one.memory for one in GPUS.values()}):
        gpus = need.smallest_group(share * memory * GB)
        if gpus is not None and gpus not in fitting.values():
            fitting[memory] = gpus
    groups = (
        f"{gpus} GPU{'s' if gpus > 1 else ''} of {memory:.0f} GB"
        for memory, gpus in fitting.items()
    )
    where = f"it fits {', '.join(groups)} or more" if fitting else "it fits no 8 GPUs of one node"
    cache = f"{size(need.cache)} for one longest sequence" if need.cache else "unknown"
    return (
        f"an engine: weights {size(need.weights)} in {dtype}, KV cache {cache}, logits "
        f"{size(need.logits)}: {where} (calculated; evaluate.tensor_parallel_size is {own}){named}"
    )


def _checked(need: Need, memory: float, evaluate: EvaluateConfig, dtype: str, gpu: str) -> str:
    """A warning if the engine does not fit the GPUs that it gets; empty if it does.

    Raises:
        ConfigError: not even the weights fit. With `dtype: auto` those are in 16 bits, perhaps.
    """
    own = evaluate.tensor_parallel_size
    smallest = need.weights if evaluate.dtype == dtype else need.weights / 2
    group = need.smallest_group(memory)
    advice = f"Set evaluate.tensor_parallel_size to {group}" if group else "8 are not enough"
    gives = f"{own} × {gpu} gives vLLM {size(own * memory)}"
    if smallest / own > memory:
        raise ConfigError(
            f"--gpu {gpu}: the weights of after take {size(need.weights)} in {dtype}, and {gives}. "
            f"{advice}."
        )
    return "" if need.on_each(own) <= memory else f". {gives}, which is too little: {advice}"
