"""Where a completion ends: at an end-of-text token, or at the end of the context."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from svdjobs.errors import CheckpointError


def stop_tokens(folder: str, tokenizer: Any) -> list[int]:
    """End-of-text ids that a checkpoint's generation config and config, and the tokenizer, name.

    Raises:
        CheckpointError: none of them names one.
    """
    stop: set[int] = set()
    named = [_eos(Path(folder) / name) for name in ("generation_config.json", "config.json")]
    for found in (*named, tokenizer.eos_token_id):
        stop.update([found] if isinstance(found, int) else found or [])
    if not stop:
        raise CheckpointError(
            "neither the checkpoint nor the tokenizer names an end-of-text token, so every "
            "completion would run to max_tokens. Set eos_token in tokenizer_config.json."
        )
    return sorted(stop)


def context_of(folder: str) -> int | None:
    """Tokens of prompt and completion together that a checkpoint is made for, if it says."""
    document = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    found = (document.get("text_config") or document).get("max_position_embeddings")
    return found if isinstance(found, int) else None


def _eos(path: Path) -> Any:
    if not path.exists():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    text = document.get("text_config")
    inner = text.get("eos_token_id") if isinstance(text, dict) else None
    return document.get("eos_token_id", inner)
