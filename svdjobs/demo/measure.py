# ruff: noqa: TID253 - `train.py` imports this module inside a function
"""Measure the accuracy of a demo checkpoint, and how far training moved its weights."""

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import torch
from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

from svdjobs.demo import prompt_of
from svdjobs.demo.model import draw_completions, texts_of
from svdjobs.evaluation.grading.rule import grade_completion
from svdjobs.records import Outcome


class Accuracy(TypedDict):
    """avg@n on the held-out problems at temperature 1.0."""

    mean: float
    standard_error: float
    """Clustered by problem: the completions of one problem are averaged first."""
    n_problems: int
    n_completions_per_problem: int


def measure_accuracy(
    model: Qwen2ForCausalLM,
    tokenizer: Qwen2Tokenizer,
    problems: Sequence[tuple[str, str]],
    n_completions: int,
    seed: int,
) -> Accuracy:
    """Generate `n_completions` for every (problem, gold) and grade them with svdjobs' grader.

    A completion that reaches the token limit has no closed box, so it counts as not correct.
    """
    generator = torch.Generator().manual_seed(seed)
    n_correct = [0] * len(problems)
    prompts = [prompt_of(problem) for problem, _ in problems]
    for _ in range(n_completions):
        batch = draw_completions(model, tokenizer, prompts, generator)
        for row, text in enumerate(texts_of(tokenizer, batch)):
            n_correct[row] += grade_completion(text, problems[row][1]) is Outcome.CORRECT
    shares = torch.tensor(n_correct, dtype=torch.float64) / n_completions
    return {
        "mean": round(shares.mean().item(), 4),
        "standard_error": round(shares.std().item() / math.sqrt(len(problems)), 4),
        "n_problems": len(problems),
        "n_completions_per_problem": n_completions,
    }


def relative_change(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> float:
    """‖W_after − W_before‖ / ‖W_before‖, Frobenius, over all attention and MLP matrices."""
    names = sorted(name for name in before if name.endswith("_proj.weight"))
    change = sum((after[name].double() - before[name].double()).square().sum() for name in names)
    size = sum(before[name].double().square().sum() for name in names)
    return math.sqrt(float(change) / float(size))
