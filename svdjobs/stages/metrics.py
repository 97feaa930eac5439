"""metrics: how every matrix changed from before to after, beside random updates of the same norm.

With further checkpoints in the config, also the way of every matrix through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from svdjobs.checkpoint.matrices import Sizes
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.selection import layer_and_family
from svdjobs.config import MetricsConfig, SweepConfig
from svdjobs.devices import here
from svdjobs.errors import IncompleteError
from svdjobs.fingerprint import derived_seed
from svdjobs.records import (
    Manifest,
    MetricsRow,
    TensorPlan,
    TrajectoryRecord,
    UpdateSpectrumRecord,
)
from svdjobs.runs import cost, layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import OutputKey, begin, find_manifest
from svdjobs.runs.rows import write_rows
from svdjobs.storage.store import Store
from svdjobs.weights.factors import Factors
from svdjobs.weights.heads import heads_of

if TYPE_CHECKING:
    from svdjobs.kernels.metrics.pair import Pair
    from svdjobs.kernels.rotation import Bases

STAGE = "metrics"
VERSION = "2"
# Memory, in tensors: two pairs with their bases and updates in float64, and an order of entries.
TENSORS = 8


def run(config: SweepConfig, store: Store, *, force: bool = False) -> Manifest:
    """Measure every selected matrix and the routers of experts. A killed run resumes with the next
    part.

    Raises:
        IncompleteError: the config has no `metrics` section.
        TensorError: a weight is not finite; the error names the tensor.
    """
    if config.metrics is None:
        raise IncompleteError("this config has no `metrics` section.")
    plan = layout.load_plan(store, config, stage=STAGE)
    routers = [[tensor.name for tensor in plan.routers]] if plan.routers else []
    parts, selected = plan.parts + routers, plan.measured
    checkpoints = RunCheckpoints(config)
    chain = {"before": config.before, **config.checkpoints, "after": config.after}
    output = begin(
        store,
        STAGE,
        OutputKey(
            stage=STAGE,
            version=VERSION,
            config={**config.metrics.model_dump(mode="json"), "parts": parts},
            inputs={name: checkpoints.identity(source, store) for name, source in chain.items()},
        ),
        force=force,
    )
    if output.finished:
        return output.finished
    sources = [
        _Source(checkpoints.matrices(source).view, _factors(store, checkpoints, name, source))
        for name, source in chain.items()
    ]
    sizes, tensors = Sizes.of(checkpoints.after.config), {t.name: t for t in selected}
    measured = config.metrics

    def rows(name: str) -> list[MetricsRow]:
        return measure(tensors[name], [source.bases(name) for source in sources], sizes, measured)

    bytes_each = (TENSORS + len(chain)) * cost.peak_tensor_bytes(selected)
    flops = {t.name: cost.metrics_flops(t.shape, measured.null_draws) for t in selected}
    write_rows(output, parts, rows, flops, device=config.compute.device, bytes_each=bytes_each)
    return output.commit()


class _Source:
    """A checkpoint, with its factors if the run has finished ones."""

    def __init__(self, checkpoint: Checkpoint, factors: Factors | None) -> None:
        self._checkpoint = checkpoint
        self._factors = factors

    def bases(self, name: str) -> Bases:
        """A matrix with its decomposition: the one in the factors, or the same, computed."""
        from svdjobs.kernels.rotation import bases_of

        w_MN = self._checkpoint.read(name).to(here())
        if self._factors is not None and name in self._factors:
            return self._factors.bases(name, w_MN)
        return bases_of(w_MN)


def _factors(
    store: Store, checkpoints: RunCheckpoints, checkpoint_id: str, source: str
) -> Factors | None:
    """The run's factors of a checkpoint, if they are finished, have vectors and are its own."""
    manifest = find_manifest(store, layout.factors_prefix(checkpoint_id))
    if manifest is None or not manifest.config.get("vectors"):
        return None
    if manifest.inputs["checkpoint"] != checkpoints.identity(source, store):
        return None
    return Factors(store, checkpoint_id, stage=STAGE)


def measure(
    tensor: TensorPlan, matrices: Sequence[Bases], sizes: Sizes, config: MetricsConfig
) -> list[MetricsRow]:
    """Rows of a matrix and, if it has some, of its heads. `matrices` are those of the chain."""
    from svdjobs.kernels.metrics.pair import Pair
    from svdjobs.kernels.metrics.trajectories import trajectory
    from svdjobs.kernels.metrics.updates import update_spectrum
    from svdjobs.kernels.rotation import bases_of

    layer, family = layer_and_family(tensor.name)
    way = trajectory(matrices) if len(matrices) > 2 else None

    def row(pair: Pair, head: int | None) -> MetricsRow:
        seed = derived_seed(config.seed, tensor.name, -1 if head is None else head)
        values, null = beside_null(pair, config.null_draws, seed)
        spectrum = update_spectrum(pair) if head is None else None
        return MetricsRow(
            name=tensor.name,
            layer=layer,
            family=family,
            shape=pair.shape,
            weight_norm=pair.before_norm,
            head=head,
            values=values,
            null=null,
            trajectory=TrajectoryRecord(**way._asdict()) if way and head is None else None,
            spectrum=UpdateSpectrumRecord(**spectrum._asdict()) if spectrum else None,
        )

    before, after = matrices[0], matrices[-1]
    rows = [row(Pair(before, after), None)]
    heads = heads_of(tensor.name, tensor.shape, sizes) if config.heads else None
    if heads is not None and heads.total > 1:
        for head in range(heads.total):
            own = [heads.of(b.w_MN, head).contiguous() for b in (before, after)]
            rows.append(row(Pair(bases_of(own[0]), bases_of(own[1])), head))
    return rows


def beside_null(pair: Pair, draws: int, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of a pair, and their means over random updates of the same norm."""
    from svdjobs.kernels.metrics.catalogue import measure as all_metrics
    from svdjobs.kernels.metrics.pair import random_pair

    found: dict[str, list[float]] = {}
    for draw in range(draws if pair.update_norm else 0):
        for name, value in all_metrics(random_pair(pair, (seed + draw) % 2**63)).items():
            found.setdefault(name, []).append(value)
    means = {name: sum(values) / len(values) for name, values in found.items()}
    return all_metrics(pair), means
