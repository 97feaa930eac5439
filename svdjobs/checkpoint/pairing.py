"""Check from a few values whether two checkpoints can be a pair, and what rounding did to them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.selection import layer_and_family
from svdjobs.records import RoundingRecord, TensorPlan

# Values of each matrix to compare first; they tell most checkpoints apart.
_FIRST = 1024
_BLOCK = 64
# Values of a family for the estimate of its rounding noise, which is good to a few percent.
_SAMPLE = 1 << 16
# If one checkpoint was trained from the other, their weights correlate above 0.99; unrelated
# weights correlate only by chance.
_ALIKE, _UNLIKE = 0.9, 0.5


def what_speaks_against(
    before: Checkpoint, after: Checkpoint, chosen: Sequence[TensorPlan]
) -> list[str]:
    """Return the reasons against a sweep over these matrices: none of them differs, or some are
    transposed in one checkpoint."""
    reasons = _transposed(before, after, chosen)
    if chosen and _same(before, after, chosen):
        reasons.append(
            f"before ({before.label}) and after ({after.label}) hold the same values in all "
            f"{len(chosen)} matrices, so there is nothing to blend; give two different checkpoints"
        )
    return reasons


def rounding_of(
    before: Checkpoint, after: Checkpoint, chosen: Sequence[TensorPlan]
) -> dict[str, RoundingRecord]:
    """Estimate what storing in 16 bits alone does to each module family.

    The estimate is from the first values of the matrix in the family's middle layer. A family that
    was not rounded is left out.
    """
    families: dict[str, list[str]] = {}
    for tensor in sorted(chosen, key=lambda t: (layer_and_family(t.name)[0] or 0, t.name)):
        families.setdefault(layer_and_family(tensor.name)[1], []).append(tensor.name)
    found = {
        family: _rounding(before, after, names[len(names) // 2])
        for family, names in families.items()
    }
    return {family: record for family, record in found.items() if record.noise > 0}


def _rounding(before: Checkpoint, after: Checkpoint, name: str) -> RoundingRecord:
    from svdjobs.kernels.rounding import noise_between

    values = [checkpoint.head(name, _SAMPLE) for checkpoint in (before, after)]
    noise, weights = noise_between(*values)
    return RoundingRecord(
        noise=math.sqrt(noise / weights) if weights else 0.0,
        weight_rms=math.sqrt(weights / len(values[1])) if len(values[1]) else 0.0,
    )


def _same(before: Checkpoint, after: Checkpoint, chosen: Sequence[TensorPlan]) -> bool:
    """Whether all matrices are equal. Read whole matrices only if all their first values are."""
    for elements in (_FIRST, None):
        if any(_differ(before, after, tensor.name, elements) for tensor in chosen):
            return False
    return True


def _differ(before: Checkpoint, after: Checkpoint, name: str, elements: int | None) -> bool:
    count = before.entries[name].elements if elements is None else elements
    return not np.array_equal(before.head(name, count), after.head(name, count))


def _transposed(before: Checkpoint, after: Checkpoint, chosen: Iterable[TensorPlan]) -> list[str]:
    """Return a reason if square matrices fit each other only transposed.

    Only the first matrix of every family and size is checked.
    """
    seen: dict[tuple[str, tuple[int, ...]], str] = {}
    for tensor in chosen:
        if tensor.shape[0] == tensor.shape[1] and tensor.shape[0] >= _BLOCK:
            _, family = layer_and_family(tensor.name)
            seen.setdefault((family, tensor.shape), tensor.name)
    names = [name for name in seen.values() if _is_transposed(before, after, name)]
    if not names:
        return []
    return [
        f"{', '.join(names)}: before fits after only if one of them is transposed; they were "
        f"saved in different orientations ([out, in] and [in, out]). Save one of them again"
    ]


def _is_transposed(before: Checkpoint, after: Checkpoint, name: str) -> bool:
    ours, theirs = (_corner(checkpoint, name) for checkpoint in (before, after))
    return _correlation(ours, theirs.T) > _ALIKE and _correlation(ours, theirs) < _UNLIKE


def _corner(checkpoint: Checkpoint, name: str) -> npt.NDArray[np.float64]:
    """Return the upper left block of a square matrix. Read only its first rows."""
    columns = checkpoint.entries[name].shape[1]
    rows_BN = checkpoint.head(name, _BLOCK * columns).reshape(_BLOCK, columns)
    return rows_BN[:, :_BLOCK]


def _correlation(a_BB: npt.NDArray[np.float64], b_BB: npt.NDArray[np.float64]) -> float:
    a_BB, b_BB = a_BB - a_BB.mean(), b_BB - b_BB.mean()
    scale = float(np.linalg.norm(a_BB) * np.linalg.norm(b_BB))
    return float((a_BB * b_BB).sum()) / scale if scale > 0 else 0.0
