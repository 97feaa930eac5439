"""Compare a checkpoint's output head with what its config says."""

from __future__ import annotations

import numpy as np

from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.selection import LM_HEAD, TOKEN_EMBEDDING

_COMPARED_ELEMENTS = 4096


def missing_head(checkpoint: Checkpoint) -> str | None:
    """Return an error if the config says that there is an untied head, but no tensor is one."""
    text = checkpoint.config.get("text_config") or {}
    tied = checkpoint.config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    generates = checkpoint.architecture.endswith(("ForCausalLM", "ForConditionalGeneration"))
    if tied is not False or not generates or any(map(LM_HEAD.search, checkpoint.entries)):
        return None
    return (
        f"{checkpoint.label}: config.json says tie_word_embeddings false, but no tensor is an "
        f"lm_head: an engine would fill it with random numbers. Set it to true if the embedding is "
        f"the head, or save the checkpoint again with its head."
    )


def other_head(checkpoint: Checkpoint) -> str | None:
    """Return a note if a tied checkpoint holds a head that differs from its embedding."""
    heads = [name for name in checkpoint.entries if LM_HEAD.search(name)]
    embeddings = [name for name in checkpoint.entries if TOKEN_EMBEDDING.search(name)]
    if not checkpoint.tied or len(heads) != 1 or len(embeddings) != 1:
        return None
    head, embedding = (checkpoint.head(n, _COMPARED_ELEMENTS) for n in (*heads, *embeddings))
    if np.array_equal(head, embedding):
        return None
    return (
        f"config.json says tie_word_embeddings true, but {heads[0]} differs from {embeddings[0]}: "
        f"engines take the embedding for both, and so do blends."
    )
