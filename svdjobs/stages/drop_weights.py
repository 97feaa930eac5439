"""drop-weights: delete the weight files of an evaluated blend, and keep its results."""

from __future__ import annotations

from svdjobs.config import SweepConfig, alpha_id
from svdjobs.errors import IncompleteError
from svdjobs.evaluation.engine_weights import WEIGHT_FILE_SUFFIXES
from svdjobs.progress import say, size
from svdjobs.runs import layout
from svdjobs.runs.outputs import MANIFEST, find_manifest, require
from svdjobs.storage.objects import write_json
from svdjobs.storage.store import Store

STAGE = "drop-weights"


def run(config: SweepConfig, store: Store, *, alpha: float) -> None:
    """Delete the weight files of one alpha, whose evaluations must be finished.

    The manifest stops listing the files before they are deleted. An engine can still get the
    weights: they are then computed from the bases and D.

    Raises:
        IncompleteError: the blend or one of its evaluations is missing.
    """
    prefix = layout.checkpoint_prefix(alpha)
    (manifest,) = require(store, [prefix], stage=STAGE)
    results = [
        layout.evaluation_prefix(config, alpha_id(alpha), section.name)
        for section in config.benchmarks
    ]
    if missing := [prefix for prefix in results if find_manifest(store, prefix) is None]:
        raise IncompleteError(
            f"the weights of {alpha_id(alpha)} are still needed: {', '.join(missing)} is missing."
        )
    kept = [file for file in manifest.files if not file.key.endswith(WEIGHT_FILE_SUFFIXES)]
    if len(kept) < len(manifest.files):
        document = manifest.model_copy(update={"files": kept}).model_dump(mode="json")
        write_json(store, f"{prefix}/{MANIFEST}", document)
    weight_files = {
        key: n for key, n in store.sizes(prefix).items() if key.endswith(WEIGHT_FILE_SUFFIXES)
    }
    for key in weight_files:
        store.delete(key)
    total = size(sum(weight_files.values()))
    say(f"{alpha_id(alpha)}: deleted {len(weight_files)} weight files, {total}")
