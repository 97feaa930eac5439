"""How fast an engine draws and reads: on a named GPU, on this machine, or as an earlier run did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from svdjobs.runs.cost import measured_flops_per_second
from svdjobs.runs.timings import load, tokens_per_second
from svdjobs.storage.store import Store

SHARE_OF_PEAK = 0.2
"""Share of a GPU's peak that vLLM reaches. Llama-3-8B in bfloat16 on an H100, 256 tokens in and 256
out: 12,450 tokens/s on 2024-08-04 (vllm-project/vllm#7117), which is 2.0e14 of 9.9e14 operations
per second. Small models reach less when they draw; reading reaches more."""
CPU_SHARE = 0.2
"""The same for a CPU, of the rate of its matrix products."""


class Gpu(NamedTuple):
    """Memory in GB (1e9 bytes), and peak rates in operations per second, without sparsity."""

    memory: float

    bfloat16: float
    """Also of float16."""
    float32: float
    """Without TF32, which engines do not use for float32 unless they are told to."""


GPUS: Mapping[str, Gpu] = {
    "B200": Gpu(180, 2250e12, 75e12),
    "H200": Gpu(141, 989e12, 67e12),
    "H100": Gpu(80, 989e12, 67e12),
    "A100": Gpu(80, 312e12, 19.5e12),
    "L40S": Gpu(48, 362e12, 91.6e12),
    "L4": Gpu(24, 121e12, 30.3e12),
    "A10": Gpu(24, 125e12, 31.2e12),
    "RTX-4090": Gpu(24, 165e12, 82.6e12),
}
"""From NVIDIA's data sheets of the SXM modules and cards, as of November 2026."""


class Speed(NamedTuple):
    """Tokens per second, and where they come from."""

    draws: float
    reads: float
    source: str


def of_run(store: Store) -> Speed | None:
    """The speed of the engine in an earlier run; None if it has no notes of it."""
    timings = load(store)
    draws, reads = tokens_per_second(timings, "draw"), tokens_per_second(timings, "read")
    if draws is None:
        return None
    engines = sorted({timing.engine for timing in timings})
    return Speed(draws, reads or draws, f"as fast as {' and '.join(engines)} in {store.url}")


def of_gpu(name: str, parameters: float, dtype: str) -> Speed:
    """The speed on a GPU of the table."""
    gpu = GPUS[name]
    peak = gpu.float32 if dtype == "float32" else gpu.bfloat16
    rate = SHARE_OF_PEAK * peak / (2 * parameters)
    share = f"{100 * SHARE_OF_PEAK:.0f} % of its peak"
    return Speed(rate, rate, f"on one {name} in {dtype}, at {share}")


def of_this_machine(parameters: float, dtype: str) -> Speed:
    """The speed on this machine's first GPU, if the table has it, else on its CPU in float32."""
    for model in gpus_here():
        if name := known_gpu(model):
            return of_gpu(name, parameters, dtype)
    # A float32 product takes half the time of a float64 one.
    rate = CPU_SHARE * 2 * measured_flops_per_second() / (2 * parameters)
    share = f"{100 * CPU_SHARE:.0f} % of its speed in matrix products"
    return Speed(rate, rate, f"on this machine's CPU in float32, at {share}")


def known_gpu(model: str) -> str | None:
    """The GPU of the table that a driver calls by this name; None if the table lacks it."""
    words = model.replace("-", " ")
    # Longer names first: an L40S is no L4.
    for name in sorted(GPUS, key=len, reverse=True):
        if f" {name.replace('-', ' ')}" in words:
            return name
    return None


def gpus_here() -> list[str]:
    """Names of this machine's NVIDIA GPUs, e.g. `NVIDIA H100 80GB HBM3`, as their driver says."""
    names = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            if key == "Model":
                names.append(value.strip())
    return names


def active_parameters(elements: Mapping[str, int], config: Mapping[str, Any]) -> float:
    """Parameters that a token meets: all but the embedding, and of the experts those it is sent to.

    `elements` are numbers of elements by tensor name.
    """
    experts = config.get("num_experts") or config.get("num_local_experts") or 0
    used = config.get("num_experts_per_tok") or experts
    share = used / experts if experts else 1.0
    total = 0.0
    for name, count in elements.items():
        if name.endswith("embed_tokens.weight"):
            # A tied embedding is also the lm_head.
            total += count * bool(config.get("tie_word_embeddings"))
        else:
            total += count * (share if ".experts." in name else 1.0)
    return total
