"""Make the two descriptions of a blended checkpoint: `svd_blend_meta.json` and the model card."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from svdjobs.config import SweepConfig, alpha_id
from svdjobs.escape import code
from svdjobs.provenance import versions
from svdjobs.records import BlendRecord, Plan
from svdjobs.statistics import cast_error_total, realised_total

BLEND_META = "svd_blend_meta.json"


def model_card(config: SweepConfig, alpha: float, records: Sequence[BlendRecord]) -> str:
    """Return the model card (Markdown): what the weights are and how they were made."""
    extrapolation = "" if 0 <= alpha <= 1 else " (extrapolation: alpha is outside [0, 1])"
    made = versions()
    dtype = config.blend.storage_dtype
    written = config.blend.write_checkpoints
    bases, values = config.bases_of, config.values_of
    made_how = f"written in {dtype}" if written else f"measured as {dtype}, weights not written,"
    return f"""---
library_name: transformers
tags: [svdjobs, singular-value-blend]
---

# Singular-value blend, alpha = {alpha:g}{extrapolation}

- before: {code(config.before)}
- after: {code(config.after)}
- {len(records)} matrices blended, everything else is {bases}'s:
  `U_{bases} · diag(alpha·S_{bases} + (1-alpha)·S_{values}) · Vh_{bases}`
- {made_how} by svdjobs {made["svdjobs"]} (commit {made["git"]})

Loading in a 16-bit dtype drowns an RL-sized blend in rounding; `svd_blend_meta.json` has the
realised fraction and the error of the difference to {bases}, for each dtype and tensor.
"""


def blend_meta(
    config: SweepConfig, plan: Plan, alpha: float, records: list[BlendRecord]
) -> dict[str, Any]:
    """Return `svd_blend_meta.json`: the keys of the usual scripts, and some that svdjobs adds."""
    # Relative to the run: an absolute path would make the bytes depend on where the run lies.
    folder = f"checkpoints/{alpha_id(alpha)}"
    skipped = [[tensor.name, tensor.skip] for tensor in plan.tensors if tensor.skip]
    return {
        "model_before": config.before,
        "model_after": config.after,
        "alpha": alpha,
        "direction": config.direction,
        "extrapolation": not 0 <= alpha <= 1,
        "dtype": config.blend.storage_dtype,
        "output_dir": folder,
        "log_dir": f"{folder}/svd_logs/alpha_{alpha:g}",
        "cpu_only": True,
        "svd_device": "cpu",
        "blended_keys": [record.name for record in records],
        "blended_keys_count": len(records),
        "skipped_keys": skipped,
        "skipped_keys_count": len(skipped),
        "per_layer_meta": {
            record.name: {
                "shape": record.shape,
                "sigma_len": min(record.shape),
                "log_file": record.log_file,
                "guarded": record.guarded,
                "signal_norm": record.signal_norm,
                "weight_norm": record.weight_norm,
                "spectrum_error": record.spectrum_error,
                "realised_fraction": {n: cast.fraction for n, cast in record.casts.items()},
                "cast_error": {n: cast.relative_error for n, cast in record.casts.items()},
            }
            for record in records
        },
        "realised_fraction": realised_total(records),
        "cast_error": cast_error_total(records),
    }
