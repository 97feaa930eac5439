"""Compute the divergence of two next-token distributions from their logits.

Shape legend: T tokens, V vocabulary, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

ROWS = 256
"""Rows of logits at a time; 256 rows of 150,000 float64 numbers are 0.3 GB."""


class Apart(NamedTuple):
    """How far two next-token distributions are apart, for each token, T in float64."""

    kl_T: torch.Tensor
    """KL(p ‖ q) in nats: the sum over the vocabulary."""
    variation_T: torch.Tensor
    """Total variation, half of Σ|p − q|: how often two draws differ that are coupled best."""


def apart(logits_p_TV: torch.Tensor, logits_q_TV: torch.Tensor, temperature: float = 1.0) -> Apart:
    """Compare the distributions of two rows of logits, each at a temperature."""
    log_p_TV = (logits_p_TV.to(torch.float64) / temperature).log_softmax(dim=-1)
    log_q_TV = (logits_q_TV.to(torch.float64) / temperature).log_softmax(dim=-1)
    p_TV, q_TV = log_p_TV.exp(), log_q_TV.exp()
    return Apart((p_TV * (log_p_TV - log_q_TV)).sum(dim=-1), (p_TV - q_TV).abs().sum(dim=-1) / 2)


def apart_of_states(
    p_TH: torch.Tensor,
    head_p: Callable[[torch.Tensor], torch.Tensor],
    q_TH: torch.Tensor,
    head_q: Callable[[torch.Tensor], torch.Tensor],
    temperature: float = 1.0,
) -> Apart:
    """Compare the same from hidden states and the heads that turn them into logits; only `ROWS`
    rows of logits exist at a time."""
    pieces = [
        apart(head_p(p_TH[start : start + ROWS]), head_q(q_TH[start : start + ROWS]), temperature)
        for start in range(0, len(p_TH), ROWS)
    ]
    if not pieces:
        return Apart(*(torch.zeros(0, dtype=torch.float64) for _ in range(2)))
    return Apart(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))
