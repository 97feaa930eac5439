# ruff: noqa: TID253 - `train.py` imports this module inside a function
"""Train the demo model: imitation of imperfect demonstrations, then reinforcement learning.

Both objectives are a weighted mean of the log-probabilities of completion tokens. Imitation weights
every token by 1, reinforcement learning weights it by the advantage of its completion. Shape
suffixes are those of `model.py`, and G completions per problem, Q problems (B = Q G).
"""

import math
import random
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

import torch
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from svdjobs.demo import prompt_of
from svdjobs.demo.model import Batch, draw_completions, encode, log_probabilities, texts_of
from svdjobs.demo.problems import Problem, training_problems, write_demonstration
from svdjobs.evaluation.grading.rule import grade_completion
from svdjobs.records import Outcome

_MAX_GRADIENT_NORM: Final = 1.0

Report = Callable[[int, float], None]
"""A function that is called after every update, with its index and its loss (imitation) or its
mean reward (RL)."""


class SupervisedSettings(NamedTuple):
    """How `base` is trained from random weights."""

    seed: int
    n_updates: int = 1000
    batch_size: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.01
    n_warmup_updates: int = 30


class ReinforceSettings(NamedTuple):
    """How `rl1` and `rl2` are trained; the two differ in `seed` and `n_updates` only."""

    seed: int
    n_updates: int
    n_problems: int = 32
    """Problems per update, with `group_size` completions each."""
    group_size: int = 8
    learning_rate: float = 5e-5
    n_warmup_updates: int = 5


def train_supervised(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    settings: SupervisedSettings,
    report: Report,
) -> None:
    """Train `model` in place to imitate demonstrations, slips included (AdamW, cosine decay)."""
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
    )
    problems = training_problems(settings.seed)
    rng = random.Random(settings.seed)
    for update in range(settings.n_updates):
        warmup = min((update + 1) / settings.n_warmup_updates, 1.0)
        decay = max(0.02, 0.5 * (1 + math.cos(math.pi * update / settings.n_updates)))
        chosen = list(islice(problems, settings.batch_size))
        batch = encode(
            tokenizer,
            [prompt_of(problem.text) for problem in chosen],
            [write_demonstration(problem, rng) for problem in chosen],
        )
        loss = -log_probabilities(model, batch).sum() / batch.drawn_BC.sum()
        _update(model, optimiser, loss, settings.learning_rate * warmup * decay)
        report(update, loss.item())


def train_reinforced(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    settings: ReinforceSettings,
    report: Report,
) -> None:
    """Train `model` in place to reinforce completions that svdjobs' grader finds correct.

    The method is GRPO (Shao et al. 2024, arXiv:2402.03300) with one update per batch of
    completions. The importance ratio is then 1 and nothing is clipped, so this is REINFORCE with a
    group-normalised advantage. There is no KL term, and the loss is per token, not per completion
    (DAPO, Yu et al. 2025, arXiv:2503.14476). AdamW updates all weights without weight decay, at a
    constant rate after a short warm-up.
    """
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    problems = training_problems(settings.seed)
    generator = torch.Generator().manual_seed(settings.seed)
    for update in range(settings.n_updates):
        chosen = _grouped(problems, settings)
        prompts = [prompt_of(problem.text) for problem in chosen]
        batch = draw_completions(model, tokenizer, prompts, generator)
        reward_B = _rewards(tokenizer, batch, chosen)
        advantage_B = group_advantages(reward_B.view(-1, settings.group_size)).view(-1, 1)
        loss = -(log_probabilities(model, batch) * advantage_B).sum() / batch.drawn_BC.sum()
        warmup = min((update + 1) / settings.n_warmup_updates, 1.0)
        _update(model, optimiser, loss, settings.learning_rate * warmup)
        report(update, reward_B.mean().item())


def group_advantages(reward_QG: torch.Tensor) -> torch.Tensor:
    """The reward minus its mean over the group, divided by its standard deviation over the group.

    The advantages of a group with equal rewards are 0: it does not show which completion is better.
    """
    centred_QG = reward_QG - reward_QG.mean(dim=1, keepdim=True)
    advantage_QG: torch.Tensor = centred_QG / (reward_QG.std(dim=1, keepdim=True) + 1e-4)
    return advantage_QG


def _grouped(problems: Iterator[Problem], settings: ReinforceSettings) -> list[Problem]:
    chosen = islice(problems, settings.n_problems)
    return [problem for problem in chosen for _ in range(settings.group_size)]


def _rewards(tokenizer: Qwen2Tokenizer, batch: Batch, problems: list[Problem]) -> torch.Tensor:
    """The rewards (B,): 1 for a correct completion that ends with EOS, else 0."""
    outcomes = [
        grade_completion(text, problem.gold)
        for text, problem in zip(texts_of(tokenizer, batch), problems, strict=True)
    ]
    correct_B = torch.tensor([outcome is Outcome.CORRECT for outcome in outcomes])
    ended_B = (batch.tokens_BT == tokenizer.eos_token_id).any(dim=1)
    reward_B: torch.Tensor = (correct_B & ended_B).float()
    return reward_B


def _update(
    model: Qwen2ForCausalLM,
    optimiser: torch.optim.Optimizer,
    loss: torch.Tensor,
    learning_rate: float,
) -> None:
    for group in optimiser.param_groups:
        group["lr"] = learning_rate
    optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), _MAX_GRADIENT_NORM)
    optimiser.step()
