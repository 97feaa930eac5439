"""The way of a matrix through checkpoints, planted."""

from __future__ import annotations

import math

import pytest
import torch

from svdjobs.kernels.metrics.trajectories import trajectory
from svdjobs.kernels.rotation import bases_of


def matrices(*moves: torch.Tensor) -> list[torch.Tensor]:
    found = [torch.randn(60, 40, generator=torch.Generator().manual_seed(0)).double()]
    for move in moves:
        found.append(found[-1] + move)
    return found


def unit(seed: int) -> torch.Tensor:
    e = torch.randn(60, 40, generator=torch.Generator().manual_seed(seed)).double()
    found: torch.Tensor = e / e.norm()
    return found


def test_a_straight_way() -> None:
    own = matrices(unit(1), 2 * unit(1), 3 * unit(1))
    found = trajectory([bases_of(w) for w in own])
    scale = float(own[0].norm())
    assert found.from_previous == pytest.approx([1 / scale, 2 / scale, 3 / scale])
    assert found.from_first == pytest.approx([1 / scale, 3 / scale, 6 / scale])
    assert found.straightness == pytest.approx(1)
    assert [c for row in found.cosines for c in row] == pytest.approx([1.0] * 9)


def test_there_and_back() -> None:
    found = trajectory([bases_of(w) for w in matrices(unit(1), -unit(1))])
    assert found.straightness == pytest.approx(0, abs=1e-7)
    assert found.cosines[0][1] == pytest.approx(-1)
    first, last = found.affinity_first
    assert first is not None
    assert first < 1 - 1e-6
    assert last == pytest.approx(1)


def test_unrelated_steps() -> None:
    found = trajectory([bases_of(w) for w in matrices(*(unit(seed) for seed in range(1, 9)))])
    assert found.straightness == pytest.approx(1 / math.sqrt(8), rel=0.1)
    assert found.cosines[2][5] == pytest.approx(0, abs=0.1)


def test_no_move_and_no_matrix() -> None:
    found = trajectory([bases_of(w) for w in matrices(torch.zeros(60, 40))])
    assert found.straightness is None
    assert found.cosines == [[None]]
    zero = bases_of(torch.zeros(4, 3))
    assert trajectory([zero, zero]).affinity_first == [None]
