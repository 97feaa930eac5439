"""Whether a checkpoint's output head is what its config says."""

from __future__ import annotations

from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.selection import LM_HEAD, TOKEN_EMBEDDING

_LOOKED_AT = 4096


def missing_head(checkpoint: Checkpoint) -> str | None:
    """Why an engine would make up the head: the config says it has one, and it has none."""
    text = checkpoint.config.get("text_config") or {}
    said = checkpoint.config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    generates = checkpoint.architecture.endswith(("ForCausalLM", "ForConditionalGeneration"))
    if said is not False or not generates or any(map(LM_HEAD.search, checkpoint.entries)):
        return None
    return (
        f"{checkpoint.label}: config.json says tie_word_embeddings false, and no tensor is an "
        f"lm_head: an engine would fill it with random numbers. Say true if the embedding is the "
        f"head, or save the checkpoint again with its head."
    )


def other_head(checkpoint: Checkpoint) -> str | None:
    """That a tied checkpoint holds another head than its embedding, which engines do not read."""
    heads = [name for name in checkpoint.entries if LM_HEAD.search(name)]
    embeddings = [name for name in checkpoint.entries if TOKEN_EMBEDDING.search(name)]
    if not checkpoint.tied or len(heads) != 1 or len(embeddings) != 1:
        return None
    import torch

    both = [checkpoint.head(n, _LOOKED_AT).to(torch.float64) for n in (*heads, *embeddings)]
    if torch.equal(*both):
        return None
    return (
        f"config.json says tie_word_embeddings true, but {heads[0]} differs from {embeddings[0]}: "
        f"engines take the embedding for both, and so do blends."
    )
