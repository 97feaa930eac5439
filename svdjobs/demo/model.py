# ruff: noqa: TID253 - `train.py` imports this module inside a function
"""The demo model, its batches, and how it generates completions and computes their likelihood.

Shape suffixes: B completions in a batch, P prompt positions (left-padded), C completion positions
(right-padded), T = P + C, V vocabulary.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

MAX_NEW_TOKENS: Final = 48
"""Longest completion in tokens; the longest demonstration has 36."""

HIDDEN_SIZE: Final = 128
N_LAYERS: Final = 3
N_HEADS: Final = 4
"""Four heads give a head dimension of 32, the smallest that vLLM runs on a CPU."""
N_KV_HEADS: Final = 1
"""k and v are then wide matrices (32 x 128), while q and o are square, and gate and up tall."""
INTERMEDIATE_SIZE: Final = 192


class Batch(NamedTuple):
    """Prompts with their completions, as tokens."""

    tokens_BT: torch.Tensor
    """int64: the left-padded prompt, then the right-padded completion."""
    real_BT: torch.Tensor
    """bool: False on padding."""
    n_prompt_positions: int
    """P, the position at which the completion starts."""

    @property
    def drawn_BC(self) -> torch.Tensor:  # noqa: N802 - a tensor, so with its shape
        """Bool: True on the tokens of the completion, including EOS."""
        return self.real_BT[:, self.n_prompt_positions :]


def build_model(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2ForCausalLM:
    """A new float32 model with random weights and tied embeddings; seeds torch globally."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=INTERMEDIATE_SIZE,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_KV_HEADS,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config.do_sample = True
    model.generation_config.temperature = 1.0
    model.generation_config.max_new_tokens = MAX_NEW_TOKENS
    return model


def encode(tokenizer: Qwen2Tokenizer, prompts: Sequence[str], completions: Sequence[str]) -> Batch:
    """A batch of prompts and completions that are tokenised separately and then joined.

    A merge across the border would give other tokens than the prompt has when the model generates.
    """
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    prompt_tokens = [tokenizer.encode(prompt) for prompt in prompts]
    drawn_tokens = [[*tokenizer.encode(text), eos] for text in completions]
    n_prompt = max(map(len, prompt_tokens))
    n_drawn = max(map(len, drawn_tokens))
    tokens_BT = torch.tensor(
        [
            [pad] * (n_prompt - len(prompt)) + prompt + drawn + [pad] * (n_drawn - len(drawn))
            for prompt, drawn in zip(prompt_tokens, drawn_tokens, strict=True)
        ]
    )
    return Batch(tokens_BT, tokens_BT != pad, n_prompt)


def log_probabilities(model: Qwen2ForCausalLM, batch: Batch) -> torch.Tensor:
    """The natural log-probability of each completion token given the tokens before it (B, C); 0 on
    padding."""
    tokens_BT, real_BT, n_prompt = batch
    hidden = model(
        input_ids=tokens_BT[:, :-1],
        attention_mask=real_BT[:, :-1],
        position_ids=_positions(real_BT)[:, :-1],
        logits_to_keep=tokens_BT.shape[1] - n_prompt,
        use_cache=False,
    )
    targets_BC = tokens_BT[:, n_prompt:]
    log_p_BC = -torch.nn.functional.cross_entropy(
        hidden.logits.transpose(1, 2), targets_BC, reduction="none"
    )
    return log_p_BC * batch.drawn_BC


@torch.no_grad()
def draw_completions(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    prompts: Sequence[str],
    generator: torch.Generator,
    *,
    temperature: float = 1.0,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> Batch:
    """Generate one completion per prompt from the full distribution (no top-k, no top-p).

    `generate` of transformers uses torch's global random state; this loop uses `generator` only.
    """
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    rows = [tokenizer.encode(prompt) for prompt in prompts]
    n_prompt = max(map(len, rows))
    tokens_BT = torch.tensor([[pad] * (n_prompt - len(row)) + row for row in rows])
    real_BT = tokens_BT != pad
    ended_B = torch.zeros(len(rows), dtype=torch.bool)
    new_BT, cache = tokens_BT, None
    for _ in range(max_new_tokens):
        reply = model(
            input_ids=new_BT,
            attention_mask=real_BT,
            position_ids=_positions(real_BT)[:, -new_BT.shape[1] :],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = reply.past_key_values
        p_BV = torch.softmax(reply.logits[:, -1] / temperature, dim=-1)
        p_BV[:, pad] = 0.0
        new_B = torch.multinomial(p_BV, 1, generator=generator).squeeze(1)
        new_B = torch.where(ended_B, pad, new_B)
        new_BT = new_B.unsqueeze(1)
        tokens_BT = torch.cat([tokens_BT, new_BT], dim=1)
        real_BT = torch.cat([real_BT, ~ended_B.unsqueeze(1)], dim=1)
        ended_B = ended_B | (new_B == eos)
        if bool(ended_B.all()):
            break
    return Batch(tokens_BT, real_BT, n_prompt)


def texts_of(tokenizer: Qwen2Tokenizer, batch: Batch) -> list[str]:
    """The completions as text, without EOS and padding."""
    texts: list[str] = tokenizer.batch_decode(
        batch.tokens_BT[:, batch.n_prompt_positions :], skip_special_tokens=True
    )
    return texts


def _positions(real_BT: torch.Tensor) -> torch.Tensor:
    """Positions that start at 0 on the first real token, whatever the padding before it."""
    positions_BT: torch.Tensor = (real_BT.long().cumsum(dim=1) - 1).clamp(min=0)
    return positions_BT
