"""The end-of-text tokens and the context length of a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from svdjobs.errors import CheckpointError


def stop_tokens(folder: str, tokenizer: Any) -> list[int]:
    """All end-of-text ids in a checkpoint's generation config, its config and the tokenizer.

    Raises:
        CheckpointError: there is none.
    """
    stop: set[int] = set()
    configs = [_eos(Path(folder) / name) for name in ("generation_config.json", "config.json")]
    for eos in (*configs, tokenizer.eos_token_id):
        stop.update([eos] if isinstance(eos, int) else eos or [])
    if not stop:
        raise CheckpointError(
            "neither the checkpoint nor the tokenizer names an end-of-text token, so every "
            "completion would run to max_tokens. Set eos_token in tokenizer_config.json."
        )
    return sorted(stop)


def context_of(folder: str) -> int | None:
    """The most tokens of prompt and completion together; None if the checkpoint does not say."""
    document = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    context = (document.get("text_config") or document).get("max_position_embeddings")
    return context if isinstance(context, int) else None


def _eos(path: Path) -> Any:
    """`eos_token_id` of a config: an id, a list of ids, or None."""
    if not path.exists():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    text = document.get("text_config")
    inner = text.get("eos_token_id") if isinstance(text, dict) else None
    return document.get("eos_token_id", inner)
