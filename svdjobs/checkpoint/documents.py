"""Read and check the JSON files of a checkpoint and the other files beside its weights.

They may come from anywhere, so their size is bounded.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from svdjobs.checkpoint.foreign import what_it_is
from svdjobs.errors import CheckpointError, DamagedError, MissingKeyError
from svdjobs.storage.local import LocalStore
from svdjobs.storage.objects import parsed_json
from svdjobs.storage.store import Readable

CONFIG, GENERATION = "config.json", "generation_config.json"
# Files that are copied into every checkpoint we write. README.md is not: our card replaces it.
COMPANIONS = (
    GENERATION, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
    "chat_template.json", "preprocessor_config.json", "processor_config.json",
)  # fmt: skip
# A config has kilobytes. An index of 100,000 tensors has ten megabytes and a comma per tensor.
_MAX_CONFIG_BYTES, _MAX_MARKS = 4 << 20, 500_000
# The sizes in config.json that we compute with. Other sizes may be lists, one number per layer.
_SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings",
)  # fmt: skip


def companions(store: Readable) -> list[str]:
    """Return the names of the files in COMPANIONS that are present."""
    with ThreadPoolExecutor(8) as pool:
        present = pool.map(store.exists, COMPANIONS)
        return [name for name, exists in zip(COMPANIONS, present, strict=True) if exists]


def check_companions(store: Readable, label: str) -> None:
    """Check that no companion file is a link out of the folder, and check the generation config.

    Raises:
        CheckpointError: a file is a link out of the folder, or a token id is not a number.
    """
    if isinstance(store, LocalStore):
        for name in (CONFIG, *COMPANIONS):
            if (target := _outside(store, name)) is not None:
                raise CheckpointError(
                    f"{label}: {name} is a link to {target}, outside the folder, and would be "
                    f"copied into every checkpoint of the run. If the file belongs to this "
                    f"checkpoint, replace the link by a copy: "
                    f"cp --remove-destination {target} {store.path(name)}"
                )
    try:
        generation = read_document(store, GENERATION, label)
    except MissingKeyError:
        return
    if wrong := _wrong_ids(generation):
        raise CheckpointError(f"{label}: {GENERATION} cannot be right: {'; '.join(wrong)}.")


def _outside(store: LocalStore, name: str) -> Path | None:
    """Return the target of a link that leads out of the folder and the blobs of its hub cache."""
    path, root = store.path(name), store.root.resolve()
    if not path.is_symlink():
        return None
    real = path.resolve()
    # huggingface_hub, "Understand caching": <repository>/snapshots/<commit>/<name>
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else root
    return None if real.is_relative_to(root) or real.parent == blobs else real


def _wrong_ids(part: dict[str, Any], prefix: str = "") -> list[str]:
    """Return a sentence for each token id of a config that is not a number or a list of them."""
    wrong = []
    for name in ("eos_token_id", "bos_token_id", "pad_token_id"):
        value = part.get(name)
        ids = value if isinstance(value, list) else [value]
        if any(one is not None and type(one) is not int for one in ids):
            wrong.append(f"{prefix}{name} is {value!r:.40}, expected a token id or several")
    return wrong


def read_config(store: Readable, label: str) -> dict[str, Any]:
    """Read and check the config.json of a checkpoint.

    Raises:
        CheckpointError: there is no config.json, or it cannot be right.
    """
    try:
        config = read_document(store, CONFIG, label)
    except MissingKeyError:
        raise CheckpointError(
            f"{label}: no config.json in {store.url}, so this is not a Hugging Face checkpoint "
            f"folder.{what_it_is(store)}"
        ) from None
    check_config(config, label)
    return config


def read_document(
    store: Readable, key: str, label: str, most_bytes: int = _MAX_CONFIG_BYTES
) -> dict[str, Any]:
    """Read a JSON file of a checkpoint that holds an object of bounded size.

    Raises:
        MissingKeyError: the file does not exist.
        CheckpointError: the file is too large, or does not hold a JSON object.
    """
    where = f"{store.url}/{key}"
    try:
        size = store.size(key)
        if size > most_bytes:
            raise CheckpointError(
                f"{label}: {key} has {size:,} bytes; expected at most {most_bytes:,}."
            )
        data = store.read(key)
        if (marks := sum(data.count(mark) for mark in (b"[", b"{", b","))) > _MAX_MARKS:
            raise CheckpointError(
                f"{label}: {key} holds some {marks:,} values; expected at most {_MAX_MARKS:,}."
            )
        document = parsed_json(data, where, unique=True, advice="Fetch the checkpoint again.")
        json.dumps(document, ensure_ascii=False).encode()  # refuses half of a surrogate pair
    except DamagedError as error:
        raise CheckpointError(f"{label}: {error}") from None
    except (UnicodeEncodeError, RecursionError):
        raise CheckpointError(
            f"{label}: {key} holds half of a surrogate pair, which is not valid text, or is nested "
            f"too deep. Fetch the checkpoint again."
        ) from None
    if not isinstance(document, dict):
        raise CheckpointError(f"{label}: {key} must hold a JSON object.")
    return document


def check_config(config: dict[str, Any], label: str) -> None:
    """Check the types of the values of a config.json that svdjobs reads.

    Raises:
        CheckpointError: values have a wrong type; it names all of them.
    """
    wrong = []
    for prefix, part in (("", config), ("text_config.", config.get("text_config") or {})):
        if not isinstance(part, dict):
            wrong.append(f"text_config is {part!r:.40}, expected an object")
            continue
        for name in _SIZES:
            value = part.get(name)
            if value is not None and (type(value) is not int or value < 1):
                wrong.append(f"{prefix}{name} is {value!r:.40}, expected a positive integer")
        wrong += _wrong_ids(part, prefix)
    settings = config.get("quantization_config")
    if settings is not None and not isinstance(settings, dict):
        wrong.append(f"quantization_config is {settings!r:.40}, expected an object")
    classes = config.get("architectures")
    if classes is not None and not (
        isinstance(classes, list) and all(type(name) is str for name in classes)
    ):
        wrong.append(f"architectures is {classes!r:.40}, expected a list of names")
    if wrong:
        raise CheckpointError(f"{label}: config.json cannot be right: {'; '.join(wrong)}.")
