"""Reads the records of the blended tensors of a run."""

from __future__ import annotations

import json

from svdjobs.records import BlendRecord
from svdjobs.runs import layout
from svdjobs.runs.outputs import find_manifest, read_finished
from svdjobs.storage.objects import record_in
from svdjobs.storage.store import Store


def shard_records(store: Store, alpha: float) -> list[BlendRecord]:
    """The records of all tensors of a blend; empty if it is not finished."""
    prefix = layout.checkpoint_prefix(alpha)
    manifest = find_manifest(store, prefix)
    names = [file.key for file in manifest.files] if manifest else []
    return [
        record_in(BlendRecord, item, f"{prefix}/{name}")
        for name in names
        if name.startswith("svd_logs/") and name.endswith(".safetensors.json")
        for item in json.loads(read_finished(store, prefix, name, manifest))["tensors"]
    ]
