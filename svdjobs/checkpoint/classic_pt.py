"""The `.pt` files that the field's scripts write, one for each tensor: their names and bytes."""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any

_LONGEST = 200
"""Characters of a name before it is cut: file systems take 255 bytes, partial files' names more."""
_DIGITS = 16


def log_name(tensor_name: str) -> str:
    """File name of a tensor's log, without `.pt`, as the field's scripts spell it: `__` for a dot,
    `_slash_` for a slash.

    Other names of tensors could come out the same (`a.b` and `a__b`), or be no file name at all.
    Those get a digest behind a dot, which no usual name has, so that no two tensors share a file.
    """
    spelled = tensor_name.replace(".", "__").replace("/", "_slash_")
    plain = re.sub(r"[^\w+@=-]", "_", spelled, flags=re.ASCII)[:_LONGEST]
    if plain.replace("_slash_", "/").replace("__", ".") == tensor_name:
        return plain
    digest = hashlib.sha256(tensor_name.encode(errors="surrogatepass")).hexdigest()
    return f"{plain}.{digest[:_DIGITS]}"


def pickled(content: dict[str, Any]) -> bytes:
    """Bytes of a `.pt` file."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
