"""Which GPUs an engine fits on, by arithmetic that can be checked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from svdjobs.config import EvaluateConfig
from svdjobs.errors import ConfigError
from svdjobs.evaluation.gpu_memory import Need, words
from tests.evaluation.test_amounts import sweep
from tests.evaluation.test_amounts import words as previewed

GIB = 1 << 30
QWEN_1_5B = {
    "num_attention_heads": 12, "num_key_value_heads": 2, "num_hidden_layers": 28,
    "hidden_size": 1536, "vocab_size": 151936,
}  # fmt: skip
LLAMA_70B = {
    "num_attention_heads": 64, "num_key_value_heads": 8, "num_hidden_layers": 80,
    "hidden_size": 8192, "vocab_size": 128256,
}  # fmt: skip
PARAMETERS_70B = 70_553_706_496


def settings(**keys: Any) -> EvaluateConfig:
    return EvaluateConfig.model_validate({"benchmarks": ["demo"], **keys})


def test_bytes_of_a_token_in_the_cache() -> None:
    """2 (key, value) × layers × heads × their dimension × bytes."""
    assert Need.of({}, QWEN_1_5B, "float32", 1).cache == 2 * 28 * 2 * 128 * 4 == 56 * 1024
    nested = {"text_config": QWEN_1_5B, "hidden_size": 1}
    assert Need.of({}, nested, "bfloat16", 10).cache == 10 * 28 * 1024
    latent = {**LLAMA_70B, "kv_lora_rank": 512, "qk_rope_head_dim": 64}
    assert Need.of({}, latent, "bfloat16", 1).cache == 80 * (512 + 64) * 2


def test_a_head_of_keys_is_never_divided() -> None:
    need = Need.of({}, {**QWEN_1_5B, "vocab_size": 0}, "float32", 1024)
    assert [need.on_each(gpus) for gpus in (1, 2, 4)] == [56 * 2**20, 28 * 2**20, 28 * 2**20]


def test_groups_divide_the_heads() -> None:
    need = Need.of({"w": 4 * GIB}, {**QWEN_1_5B, "num_attention_heads": 14}, "float32", 1)
    assert need.smallest_group(20 * GIB) == 1
    assert need.smallest_group(12 * GIB) == 2
    assert need.smallest_group(6 * GIB) is None, "14 heads divide neither by 4 nor by 8"
    phi_4 = {**LLAMA_70B, "num_attention_heads": 40, "num_key_value_heads": 10}
    need = Need.of({"w": 4 * GIB}, phi_4, "float32", 1)
    assert need.smallest_group(9 * GIB) == 2
    assert need.smallest_group(6 * GIB) is None, "10 heads of keys are no multiple of 4"


def test_a_config_that_does_not_say_how_many_heads_restricts_no_group() -> None:
    need = Need.of({"w": 6 * GIB}, {"n_head": 16, "n_embd": 4096, "n_layer": 28}, "float32", 1)
    assert need.heads == 16
    assert need.cache == 2 * 28 * 4096 * 4
    unknown = Need.of({"w": 6 * GIB}, {"num_attention_heads": [4, 8]}, "float32", 1)
    assert unknown.smallest_group(4 * GIB) == 8
    assert "KV cache unknown" in words(unknown, settings(), "float32", None)


def test_what_70_billion_parameters_fit() -> None:
    need = Need.of({"w": PARAMETERS_70B}, LLAMA_70B, "float32", 17_000)
    said = words(need, settings(), "float32", None)
    assert "weights 262.8 GiB in float32" in said
    assert "fits 8 GPUs of 48 GB, 4 GPUs of 80 GB, 2 GPUs of 180 GB or more" in said
    with pytest.raises(ConfigError, match=r"H100: .* 262\.8 GiB .*tensor_parallel_size to 4"):
        words(need, settings(), "float32", "H100")
    assert words(need, settings(tensor_parallel_size=4), "float32", "H100")
    with pytest.raises(ConfigError, match="8 are not enough"):
        words(need, settings(), "float32", "L4")
    huge = Need.of({"w": 10 * PARAMETERS_70B}, LLAMA_70B, "float32", 17_000)
    assert "it fits no 8 GPUs of one node" in words(huge, settings(), "float32", None)


def test_a_dtype_that_is_not_decided_is_refused_only_if_no_dtype_fits() -> None:
    need = Need.of({"w": 32 * 10**9}, LLAMA_70B, "float32", 17_000)
    said = words(need, settings(), "float32", "H100")  # 128 GB, or 64 in bfloat16
    assert "1 × H100 gives vLLM 70.8 GiB, which is too little" in said
    assert "tensor_parallel_size to 2" in said
    with pytest.raises(ConfigError, match="--gpu H100"):
        words(need, settings(dtype="float32"), "float32", "H100")


def test_plan_says_it_where_vllm_may_run(tmp_path: Path) -> None:
    assert "an engine: weights" not in previewed(sweep(tmp_path / "a"))
    evaluate = {"benchmarks": ["demo"], "engine": "vllm", "max_tokens": 48}
    said = previewed(sweep(tmp_path / "b", evaluate=evaluate))
    assert "it fits 1 GPU of 24 GB or more" in said
