"""drop-weights: delete the weights of an evaluated blend, and keep what was measured of it."""

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
    """Delete the weights of one alpha once all its evaluations are finished.

    The manifest says so first: from then on the checkpoint is one that was measured only, whose
    weights an engine can still be given, computed from after and D.

    Raises:
        IncompleteError: an evaluation is missing, or the blend itself.
    """
    prefix = layout.checkpoint_prefix(alpha)
    (manifest,) = require(store, [prefix], stage=STAGE)
    results = [
        layout.results_prefix(alpha_id(alpha), section.name) for section in config.benchmarks
    ]
    if missing := [place for place in results if find_manifest(store, place) is None]:
        raise IncompleteError(
            f"the weights of {alpha_id(alpha)} are still needed: {', '.join(missing)} is not there."
        )
    kept = [file for file in manifest.files if not file.key.endswith(WEIGHT_FILE_SUFFIXES)]
    if len(kept) < len(manifest.files):
        document = manifest.model_copy(update={"files": kept}).model_dump(mode="json")
        write_json(store, f"{prefix}/{MANIFEST}", document)
    gone = {key: n for key, n in store.sizes(prefix).items() if key.endswith(WEIGHT_FILE_SUFFIXES)}
    for key in gone:
        store.delete(key)
    say(f"{alpha_id(alpha)}: deleted {len(gone)} weight files, {size(sum(gone.values()))}")
