from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import pytest
import torch

from svdjobs.config import RotationsConfig, SweepConfig
from svdjobs.errors import IncompleteError
from svdjobs.kernels.rotation import Bases
from svdjobs.kernels.spectrum import decompose as kernel
from svdjobs.records import RotationRow
from svdjobs.runs.rows import load_rows
from svdjobs.stages import decompose, plan, rotations
from svdjobs.storage.local import LocalStore
from tests.checkpoints import tensors
from tests.kernels.pairs import gaussian

MakeConfig = Callable[..., SweepConfig]


def rows(config: SweepConfig) -> list[RotationRow]:
    store = LocalStore(config.store_url)
    plan.run(config, store)
    decompose.run(config, store)
    rotations.run(config, store)
    return load_rows(store, "rotations", RotationRow, stage="test")


def test_one_row_per_selected_tensor(make_config: MakeConfig, chain: dict[str, Path]) -> None:
    by_name = {row.name: row for row in rows(make_config())}
    before, after = tensors(chain["base"]), tensors(chain["rl2"])
    assert len(by_name) == 14
    for name, row in by_name.items():
        r = (after[name] - before[name]).norm() / before[name].norm()
        assert row.metrics.update_norm == pytest.approx(float(r), rel=1e-5)
        assert row.null.nss_formula == pytest.approx(float(r) / max(row.shape) ** 0.5, rel=1e-5)
    assert by_name["model.layers.1.mlp.up_proj.weight"].trivial_side == "vh"
    assert by_name["model.layers.1.mlp.down_proj.weight"].trivial_side == "u"
    assert by_name["model.layers.1.self_attn.q_proj.weight"].layer == 1


def test_random_updates_look_like_their_null(make_config: MakeConfig) -> None:
    """The chain's updates are Gaussian, so every metric is near its null."""
    measured = rows(make_config(rotations={"rl1": make_config().rotations.rl1, "null_draws": 4}))  # type: ignore[union-attr]
    for key in ("nss", "touchable_share", "u.angle_rms", "vh.angle_rms"):
        real = torch.tensor([attrgetter(key)(row.metrics) for row in measured])
        null = torch.tensor([attrgetter(key)(row.null) for row in measured])
        assert real.median() == pytest.approx(float(null.median()), rel=0.35), key


def triple(*matrices: torch.Tensor) -> list[Bases]:
    made = []
    for w in matrices:
        factors = kernel(w)
        assert factors.basis_KK is not None
        made.append(Bases(w, factors.s_K, factors.basis_KK))
    return made


def test_nothing_moved() -> None:
    w = gaussian(20, 12, seed=0)
    row = rotations.measure("x.layers.0.mlp.w", triple(w, w, w), RotationsConfig(rl1="-"))
    assert row.metrics.nss == 0
    assert row.metrics.update_norm == 0
    assert row.metrics.touchable_share is None
    angle = row.metrics.u.angle_max
    assert angle is not None
    assert angle < 1e-12


def test_zero_matrices_give_none_and_not_nan() -> None:
    zero = torch.zeros(6, 4)
    row = rotations.measure("zero", triple(zero, zero, zero), RotationsConfig(rl1="-"))
    assert row.rank == 0
    assert row.metrics.nss is None
    assert row.metrics.update_norm is None


def test_rank_deficient_directions_are_left_out() -> None:
    w = gaussian(20, 3, seed=0) @ gaussian(3, 12, seed=1)
    row = rotations.measure("low", triple(w, 1.01 * w, 1.02 * w), RotationsConfig(rl1="-"))
    assert row.rank == 3
    values = [
        *row.metrics.model_dump(exclude={"u", "vh"}).values(),
        *row.metrics.u.model_dump().values(),
    ]
    assert all(value == value for value in values)
    assert None not in values


def test_without_a_rotations_section(make_config: MakeConfig) -> None:
    config = make_config(rotations=None)
    with pytest.raises(IncompleteError, match="no `rotations` section"):
        rotations.run(config, LocalStore(config.store_url))


def test_null_has_the_norm_of_every_step() -> None:
    """Two updates in the same direction have random ones in the same: 1 + 1 = 2, not √2."""
    from svdjobs.kernels.rotation import update_norm

    w = gaussian(40, 30, seed=0)
    for first, second, total in (
        (1.0, 1.0, 2.0),
        (1.0, 2.0, 2.5),
        (1.0, 1.0, 0.5),
        (0.0, 1.0, 1.0),
    ):
        base, rl1, rl2 = rotations._random_triple(triple(w)[0], first, second, total, seed=1)
        assert update_norm(base.w_MN, rl1.w_MN)[0] == pytest.approx(first, abs=1e-4)
        assert update_norm(base.w_MN, rl2.w_MN)[0] == pytest.approx(total, rel=0.1)
