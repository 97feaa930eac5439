"""Merge a LoRA adapter into its base: W + s·B·A in float32, when the matrix is read.

Files and names are PEFT's (`save_pretrained` of a PeftModel). s is lora_alpha/r (Hu et al. 2021,
arXiv:2106.09685), or lora_alpha/sqrt(r) if use_rslora is set (Kalajdzievski 2023,
arXiv:2312.03732).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from svdjobs.checkpoint.documents import read_document
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.safetensors_format import FLOATS, TensorEntry, read_header
from svdjobs.errors import CheckpointError
from svdjobs.storage.store import Readable

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
# Keys of an adapter's config that change the computation in ways that this module does not support.
_REFUSED = (
    "use_dora", "lora_bias", "layer_replication", "megatron_config", "use_qalora", "use_bdlora",
    "alora_invocation_tokens", "arrow_config", "trainable_token_indices", "target_parameters",
)  # fmt: skip
# Initialisations that leave the base unchanged; others (PiSSA, OLoRA, LoftQ …) change it.
_INITIALISATIONS = (True, False, None, "gaussian", "eva", "orthogonal")
UNMERGED = re.compile(r"\.(base_layer|lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector)(\.|$)")
MERGE = "PeftModel.from_pretrained(BASE, ADAPTER).merge_and_unload().save_pretrained(FOLDER)"


@dataclass(frozen=True)
class _Factors:
    """The two factors of one matrix's update, as entries of the adapter's file, and its scale."""

    a: TensorEntry
    b: TensorEntry
    scale: float
    transposed: bool
    """Whether the base stores the matrix as [in, out]."""


def is_adapter(store: Readable) -> bool:
    """Whether the store holds an adapter."""
    return store.exists(CONFIG) and store.exists(WEIGHTS)


def adapter_config(store: Readable, label: str) -> dict[str, Any]:
    """Read the config of an adapter that this module can merge.

    Raises:
        CheckpointError: the adapter is of an unsupported kind; it names every reason.
    """
    config = read_document(store, CONFIG, label)
    reasons = [f"{key} is {config[key]!r:.40}" for key in _REFUSED if config.get(key)]
    if str(config.get("peft_type")).upper() != "LORA":
        reasons.append(f"peft_type is {config.get('peft_type')!r}, not LORA")
    if config.get("bias") not in (None, "none"):
        reasons.append(f"bias is {config['bias']!r}")
    if config.get("init_lora_weights") not in _INITIALISATIONS:
        reasons.append(f"init_lora_weights is {config['init_lora_weights']!r:.40}")
    if reasons:
        raise CheckpointError(
            f"{label}: svdjobs cannot merge this adapter: {'; '.join(reasons)}. Merge it with "
            f"{MERGE} and give that folder."
        )
    return config


def with_adapter(base: Checkpoint, adapter: Readable, label: str) -> Checkpoint:
    """Return the base with the adapter; each matrix is merged when it is read.

    Raises:
        CheckpointError: the adapter does not fit the base, or is of an unsupported kind.
    """
    config = adapter_config(adapter, label)
    found = {entry.name: entry for entry in read_header(adapter, WEIGHTS)}
    files = Checkpoint(label, adapter, {}, found)
    updates, saved = _sorted(found, config, label)
    if strange := sorted(name for name in (*updates, *saved) if name not in base.entries):
        raise CheckpointError(
            f"{label}: the adapter changes {len(strange)} tensors that are missing in "
            f"{base.label}, e.g. {strange[0]}. Give the adapter's own base: `BASE + ADAPTER`."
        )
    entries, derived = dict(base.entries), dict(base.derived)
    for name, key in saved.items():
        entries[name] = replace(base.entries[name], dtype=key.dtype, shape=key.shape)
        derived[name] = _saved(files, key)
    whole = replace(base, entries=dict(entries), derived=dict(derived))
    for name, factors in updates.items():
        _check_shapes(label, entries[name], factors)
        entries[name] = replace(entries[name], dtype="F32")
        derived[name] = _merged(whole, files, name, factors)
    note = f"{label} is a LoRA: {len(updates)} matrices of {base.label} with their update, float32."
    return replace(
        base,
        label=label,
        entries=entries,
        derived=derived,
        also=(*base.also, (adapter, (CONFIG, WEIGHTS))),
        notes=(*base.notes, note),
    )


def _merged(base: Checkpoint, files: Checkpoint, name: str, factors: _Factors) -> Any:
    def read() -> npt.NDArray[np.float32]:
        w_MN = base.array(name).astype(np.float32)
        a_RN, b_MR = (files.stored(e).astype(np.float32) for e in (factors.a, factors.b))
        update_MN = np.float32(factors.scale) * (b_MR @ a_RN)
        return w_MN + (update_MN.T if factors.transposed else update_MN)

    return read


def _saved(files: Checkpoint, entry: TensorEntry) -> Any:
    return lambda: files.stored(entry)


def _sorted(
    found: Mapping[str, TensorEntry], config: dict[str, Any], label: str
) -> tuple[dict[str, _Factors], dict[str, TensorEntry]]:
    """Sort an adapter's tensors into updates and whole tensors, each by the base tensor's name.

    Whole tensors are those of modules_to_save, and the embedding if the adapter updates it.
    """
    pairs: dict[str, dict[str, TensorEntry]] = {}
    saved: dict[str, TensorEntry] = {}
    for key, entry in found.items():
        name = key.removeprefix(_PREFIX)
        match = re.fullmatch(r"(.+)\.lora_(embedding_)?([AB])(\.default)?(\.weight)?", name)
        if match:
            pairs.setdefault(match[1], {})[(match[2] or "") + match[3]] = entry
        elif "lora_" in name:
            raise CheckpointError(
                f"{label}: {key} is not a factor of a plain LoRA. Merge it with {MERGE} and give "
                f"that folder."
            )
        else:
            saved[re.sub(r"\.(modules_to_save\.default|base_layer)(?=\.)", "", name)] = entry
    updates = {}
    for module, pair in pairs.items():
        kind = "" if "A" in pair else "embedding_"
        a, b = pair.get(f"{kind}A"), pair.get(f"{kind}B")
        if a is None or b is None:
            raise CheckpointError(f"{label}: {module} has only one of the two factors of a LoRA.")
        transposed = kind == "embedding_" or bool(config.get("fan_in_fan_out"))
        updates[f"{module}.weight"] = _Factors(a, b, _scale(module, config, label), transposed)
    return updates, saved


def _scale(module: str, config: dict[str, Any], label: str) -> float:
    """Return s of one module. rank_pattern and alpha_pattern may override r and lora_alpha."""

    def value_of(pattern: str, default: str) -> float:
        for key, value in (config.get(pattern) or {}).items():
            if re.fullmatch(rf"(.*\.)?({key})", module):
                return float(value)
        return float(config[default])

    try:
        rank, alpha = value_of("rank_pattern", "r"), value_of("alpha_pattern", "lora_alpha")
        return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    except (KeyError, TypeError, ValueError, ZeroDivisionError, re.error) as error:
        raise CheckpointError(
            f"{label}: {CONFIG} has no usable r and lora_alpha: {error}."
        ) from None


def _check_shapes(label: str, entry: TensorEntry, factors: _Factors) -> None:
    (rank, columns), (rows, rank_b) = factors.a.shape, factors.b.shape
    update = (columns, rows) if factors.transposed else (rows, columns)
    if rank != rank_b or update != entry.shape or entry.dtype not in FLOATS:
        raise CheckpointError(
            f"{label}: the factors {list(factors.b.shape)}·{list(factors.a.shape)} do not fit "
            f"{entry.name} {list(entry.shape)} ({entry.dtype}). The adapter is of another base, or "
            f"its fan_in_fan_out is wrong."
        )


def refuse_unmerged(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint that holds unmerged adapters beside the matrices they change.

    Raises:
        CheckpointError: the checkpoint holds such adapters.
    """
    if parts := sorted(name for name in checkpoint.entries if UNMERGED.search(name)):
        raise CheckpointError(
            f"{checkpoint.label}: {len(parts)} tensors are parts of unmerged adapters, e.g. "
            f"{parts[0]}: neither they nor the matrices they change are the model's weights. Merge "
            f"them with model.merge_and_unload().save_pretrained(FOLDER) and give that folder."
        )
