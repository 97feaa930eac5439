"""Small checkpoints of real architectures, for tests."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch

PROBLEMS = [{"problem": f"What is {i} + {i + 1}?", "answer": str(2 * i + 1)} for i in range(5)]
_CORPUS = [f"{p['problem']} {p['answer']} step by step boxed final answer" for p in PROBLEMS]


@cache
def tokenizer() -> Any:
    """A byte-level tokenizer with an end-of-text and a padding token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<eos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<eos>",
        pad_token="<pad>",
        chat_template="{% for m in messages %}{{ m.content }}{% endfor %}",
    )


def make_model(architecture: str = "qwen2", *, tied: bool = True, **config: Any) -> Any:
    """A model with random weights, the same on every call."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    classes: dict[str, tuple[Any, Any]] = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }
    config_class, model_class = classes[architecture]
    settings = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "eos_token_id": tokenizer().eos_token_id,
        "pad_token_id": tokenizer().pad_token_id,
        **config,
    }
    torch.manual_seed(0)
    return model_class(config_class(**settings))


def make_checkpoint(
    path: Path,
    *,
    updates: int = 0,
    relative: float = 3e-3,
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "1GB",
    **model: Any,
) -> Path:
    """Save a checkpoint; each update adds Gaussian noise to every matrix, `relative` to its
    spread."""
    made = make_model(**model)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(updates):
            for parameter in made.parameters():
                if parameter.ndim == 2:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter += relative * parameter.std() * noise
    made.to(dtype).save_pretrained(path, max_shard_size=max_shard_size)
    tokenizer().save_pretrained(path)
    return path


def write_problems(path: Path) -> Path:
    """Write `PROBLEMS` as a benchmark file; return its path."""
    path.write_text("".join(json.dumps(problem) + "\n" for problem in PROBLEMS))
    return path


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, read with the safetensors library."""
    from safetensors.torch import load_file

    found: dict[str, torch.Tensor] = {}
    for file in sorted(path.glob("*.safetensors")):
        found.update(load_file(file))
    return found
