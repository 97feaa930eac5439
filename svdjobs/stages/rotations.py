"""rotations: measure how singular bases turn along base → rl1 → rl2, and under random updates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from svdjobs.checkpoint.selection import layer_and_family
from svdjobs.config import RotationsConfig, SweepConfig
from svdjobs.devices import here
from svdjobs.errors import IncompleteError
from svdjobs.fingerprint import derived_seed
from svdjobs.records import (
    Manifest,
    Record,
    RotationMetrics,
    RotationNull,
    RotationRow,
    SideMetrics,
)
from svdjobs.runs import cost, layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import OutputKey, begin
from svdjobs.runs.rows import write_rows
from svdjobs.storage.store import Store
from svdjobs.weights.factors import Factors

if TYPE_CHECKING:
    import torch

    from svdjobs.kernels.rotation import Bases

STAGE = "rotations"
VERSION = "1"
# Memory, in tensors: a triple and a random triple hold six matrices and their bases.
TRIPLES = 6


def run(config: SweepConfig, store: Store, *, force: bool = False) -> Manifest:
    """Measure the rotation of every selected tensor. A killed run resumes with the next part.

    Raises:
        IncompleteError: the config has no `rotations` section, or factors are missing.
    """
    rotations = config.rotations
    if rotations is None:
        raise IncompleteError("this config has no `rotations` section.")
    plan = layout.load_plan(store, config, stage=STAGE)
    chain = layout.rotation_chain(config)
    checkpoints = RunCheckpoints(config)
    factors = [Factors(store, checkpoint_id, stage=STAGE) for checkpoint_id in chain]
    inputs = {
        role: checkpoints.identity(source, store)
        for role, source in zip(("base", "rl1", "rl2"), chain.values(), strict=True)
    }
    for source, factor, origin in zip(chain.values(), factors, inputs.values(), strict=True):
        factor.require_origin(checkpoints.open(source), origin)
    output = begin(
        store,
        layout.ROTATIONS,
        OutputKey(
            stage=STAGE,
            version=VERSION,
            config={**rotations.model_dump(mode="json"), "parts": plan.parts},
            inputs=inputs,
        ),
        force=force,
    )
    if output.finished:
        return output.finished
    views = [checkpoints.matrices(source).view for source in chain.values()]
    shapes = {tensor.name: tensor.shape for tensor in plan.selected}
    flops = {name: _flops(shape, rotations.null_draws) for name, shape in shapes.items()}

    def rows(tensor: str) -> list[RotationRow]:
        triple = [
            factor.bases(tensor, view.read(tensor).to(here()))
            for view, factor in zip(views, factors, strict=True)
        ]
        return [measure(tensor, triple, rotations)]

    bytes_each = TRIPLES * cost.peak_tensor_bytes(plan.selected)
    write_rows(output, plan.parts, rows, flops, device=config.compute.device, bytes_each=bytes_each)
    return output.commit()


def _flops(shape: tuple[int, ...], draws: int) -> float:
    """Operations for one tensor: three cross-Gram products per triple, the real one and each random
    one, and two decompositions per random triple."""
    m, n = shape
    triple = 6.0 * m * n * min(m, n)
    return triple + draws * (triple + 2 * cost.decompose_flops(shape, vectors=True))


def measure(name: str, triple: list[Bases], config: RotationsConfig) -> RotationRow:
    """Metrics of a triple base, rl1, rl2, and their mean over random triples of the same norms."""
    from svdjobs.kernels import rotation

    m, n = triple[0].w_MN.shape
    layer, family = layer_and_family(name)
    measured, rank = _metrics(triple, config.top_k)
    base, rl1, rl2 = (bases.w_MN for bases in triple)
    first, scale = rotation.update_norm(base, rl1)
    second, _ = rotation.update_norm(rl1, rl2)
    total, _ = rotation.update_norm(base, rl2)
    update_norm = total / scale if scale > 0 else None
    draws = [
        _metrics(
            _random_triple(triple[0], first, second, total, derived_seed(config.seed, name, draw)),
            config.top_k,
        )[0]
        for draw in range(config.null_draws)
    ]
    null = RotationNull(
        **_mean(draws),
        haar_mse=rotation.haar_mse(max(m, n), min(m, n)),
        nss_formula=None if update_norm is None else rotation.nss_null(update_norm, (m, n)),
        touchable_formula=1 / max(m, n),
    )
    return RotationRow(
        name=name,
        layer=layer,
        family=family,
        shape=(m, n),
        rank=rank,
        metrics=measured.model_copy(update={"update_norm": update_norm}),
        null=null,
        trivial_side="both" if m == n else "vh" if m > n else "u",
    )


def _random_triple(
    base: Bases, first: float, second: float, total: float, seed: int
) -> list[Bases]:
    """base, base + E1, base + E1 + E2, for Gaussian E1, E2 and E1 + E2 of the real norms.

    E2 = c·E1 + G, where G is independent of E1. Successive RL phases often move weights in the same
    direction; then the random updates do so too.
    """
    from svdjobs.kernels.rotation import bases_of, random_update

    c = (total**2 - first**2 - second**2) / (2 * first**2) if first > 0 else 0.0
    rest = max(0.0, second**2 - (c * first) ** 2) ** 0.5
    rl1_MN = random_update(base.w_MN, first, seed)
    on_MN = rl1_MN + c * (rl1_MN - base.w_MN)
    moved = (rl1_MN, random_update(on_MN, rest, (seed + 1) % 2**63))
    return [base, *map(bases_of, moved)]


def _mean(draws: Sequence[Record]) -> dict[str, Any]:
    """Mean of each metric over the random triples, by field; omit a metric that is None in one."""
    means: dict[str, Any] = {}
    for name in type(draws[0]).model_fields if draws else ():
        values = [getattr(draw, name) for draw in draws]
        if isinstance(values[0], Record):
            means[name] = type(values[0])(**_mean(values))
        elif all(value is not None for value in values):
            means[name] = sum(values) / len(values)
    return means


def _metrics(triple: list[Bases], top_k: int) -> tuple[RotationMetrics, int]:
    """Metrics of one triple, and the number of singular directions that they use."""
    from svdjobs.kernels import rotation, spectrum

    base, rl1, rl2 = triple
    r = min(spectrum.rank(bases.s_K) for bases in triple)
    # At most a quarter of the directions: k near min(m, n) would equal the full metric.
    t = min(r, max(1, min(top_k, min(base.w_MN.shape) // 4)))
    side = ("u", "vh") if base.tall else ("vh", "u")
    metrics = RotationMetrics(
        nss=rotation.nss(base.s_K, rl2.s_K),
        touchable_share=rotation.touchable_share(base.w_MN, rl2),
        stable_rank_base=spectrum.stable_rank(base.s_K),
        stable_rank_rl2=spectrum.stable_rank(rl2.s_K),
    )
    if r == 0:
        return metrics, 0
    pairs = ((base, rl1), (rl1, rl2), (base, rl2))
    thin, square = zip(*(rotation.overlaps(a, b, r) for a, b in pairs), strict=True)
    tops = (
        (rotation.thin_top(base, t), rotation.thin_top(rl2, t)),
        (base.square_KK[:, :t], rl2.square_KK[:, :t]),
    )
    sides = {
        name: _side(overlaps, top, t)
        for name, overlaps, top in zip(side, (thin, square), tops, strict=True)
    }
    return metrics.model_copy(update=sides), r


def _side(
    overlaps: Sequence[torch.Tensor], top: tuple[torch.Tensor, torch.Tensor], t: int
) -> SideMetrics:
    """Metrics of one side: R1, R2, R3 (R×R), and the leading t directions of base and rl2 (L×T)."""
    from svdjobs.kernels import rotation

    angles_T = rotation.principal_angles(*top)
    return SideMetrics(
        mse=rotation.composition_mse(*overlaps),
        mse_top=rotation.composition_mse(*(overlap_RR[:t, :t] for overlap_RR in overlaps)),
        angle_max=float(angles_T[-1]),
        angle_rms=float(angles_T.square().mean().sqrt()),
    )
