"""The exact divergence of next-token distributions."""

from __future__ import annotations

import pytest
import scipy.stats
import torch

from svdjobs.kernels import divergence


def test_it_is_the_sum_over_the_vocabulary() -> None:
    p, q = torch.randn(2, 300, 50, generator=torch.Generator().manual_seed(0))
    expected = scipy.stats.entropy(p.softmax(-1).double(), q.softmax(-1).double(), axis=1)
    assert divergence.apart(p, q).kl_T.tolist() == pytest.approx(expected, rel=1e-5)
    assert not divergence.apart(p, p).kl_T.any()


def test_it_is_half_the_variance_of_a_small_change() -> None:
    p = torch.randn(4, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    change = 1e-4 * torch.randn(4, 50, generator=torch.Generator().manual_seed(2)).double()
    weights = p.softmax(-1)
    mean = (weights * change).sum(-1, keepdim=True)
    variance = (weights * (change - mean) ** 2).sum(-1)
    assert divergence.apart(p, p + change).kl_T.tolist() == pytest.approx(
        (variance / 2).tolist(), rel=1e-3
    )


def test_states_go_through_their_heads_in_pieces() -> None:
    generator = torch.Generator().manual_seed(3)
    states = torch.randn(2 * divergence.ROWS + 3, 8, generator=generator)
    heads = [torch.nn.Linear(8, 20, bias=False) for _ in range(2)]
    with torch.no_grad():
        found = divergence.apart_of_states(states, heads[0], states, heads[1], 0.7)
        logits = [head(states) for head in heads]
        expected = divergence.apart(logits[0], logits[1], 0.7)
        assert all(torch.allclose(a, b) for a, b in zip(found, expected, strict=True))
        none = divergence.apart_of_states(states[:0], heads[0], states[:0], heads[1])
        assert [part.tolist() for part in none] == [[], []]


def test_a_temperature_divides_the_logits_and_variation_is_half_the_distance() -> None:
    p, q = torch.randn(2, 30, 50, generator=torch.Generator().manual_seed(4)).double()
    found, scaled = divergence.apart(p, q, 0.5), divergence.apart(2 * p, 2 * q)
    assert all(torch.equal(a, b) for a, b in zip(found, scaled, strict=True))
    distance = (p.softmax(-1) - q.softmax(-1)).abs().sum(-1)
    assert torch.allclose(divergence.apart(p, q).variation_T, distance / 2)
