"""Write docs/metrics.md from the catalogue of metrics, and what the report says of them.

The stage that writes the report has no torch, so it cannot import the catalogue.

python -m tests.metrics_page        (`make render` runs it)
"""

from __future__ import annotations

import json
from pathlib import Path

from svdjobs.kernels.metrics.catalogue import GROUPS
from svdjobs.kernels.metrics.registry import METRICS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "metrics.md"
SAID = ROOT / "svdjobs" / "reporting" / "assets" / "metrics.json"
HEAD = """# Metrics of weights

<!-- Generated from svdjobs/kernels/metrics by `make render`. -->

`svdjobs diff BEFORE AFTER`, and a sweep with a section `metrics: {}`, measure how every matrix
changed. Beside each number stands its *null*: the same metric of `before` and of `before` plus
Gaussian noise with the norm of the update. A change that is like its null says no more than
"something of this size happened". Values of all matrices and attention heads are in
`tables/metrics-all.csv`, under the names below; `.u` and `.v` are the left and right singular
vectors, and a number is the k of a subspace.

All of them are computed in float64 (singular values and vectors from a float64 Gram matrix). A
metric is left out where it is not defined, e.g. k = 64 for a matrix of rank 100. A *cluster* is a
group of singular values that an update of this size can make change places: nearer to each other
than 2·‖ΔW‖₂ (Weyl). A weight that is NaN or infinite is an error that names the tensor.

| symbol | meaning |
|---|---|
| W, m × n; K = min(m, n) | a weight matrix as stored |
| ΔW | W_after − W_before |
| s, u, v | singular values, descending; left and right singular vectors |
| d | dimension of a vector: m on the left, n on the right |
"""
TRAJECTORIES = """
## trajectories

With more than two checkpoints every row of a matrix also has its way through them
(`svdjobs/kernels/metrics/trajectories.py`): the distance from the first and from the previous
checkpoint, the cosines between steps, chord over path (1: straight; 1/√n: a random walk of n equal
steps), and the overlap of the leading subspaces with those of the first and of the previous
checkpoint.
"""


def page() -> str:
    """The page, in the order of the catalogue."""
    parts = [HEAD]
    for group, module in GROUPS.items():
        parts.append(f"\n## {group}\n\n{(module.__doc__ or '').strip()}\n")
        for metric in (metric for metric in METRICS.values() if metric.group == group):
            unit = "" if metric.unit == "1" else f" (in {metric.unit})"
            rows = {
                "null": metric.null,
                "near-equal singular values": metric.clusters,
                "what fools it": metric.pitfalls,
                "source": metric.source,
            }
            parts.append(f"\n### {metric.name}\n\n{metric.what}{unit}\n\n    {metric.formula}\n\n")
            parts += [f"- {name}: {text}\n" for name, text in rows.items() if text != "-"]
    return "".join([*parts, TRAJECTORIES])


def said() -> str:
    """What each metric tells, by its name, for the report."""
    what = {name: METRICS[name].what for name in sorted(METRICS)}
    return json.dumps(what, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    SAID.write_text(said())
