"""The names and bytes of the `.pt` logs, one for each tensor, as the usual scripts write them."""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any

_LONGEST = 200
"""Longest name in characters. File systems take 255 bytes; the name of a partial file is longer."""
_DIGITS = 16


def log_name(tensor_name: str) -> str:
    """Return the file name of a tensor's log, without `.pt`, as the usual scripts spell it.

    They write `__` for a dot and `_slash_` for a slash.

    Two tensor names can have the same spelling (`a.b` and `a__b`), and a spelling can be too long
    or no file name. A name that cannot be read back from its spelling gets a dot and a digest, so
    no two tensors share a file. No other name has a dot.
    """
    spelled = tensor_name.replace(".", "__").replace("/", "_slash_")
    plain = re.sub(r"[^\w+@=-]", "_", spelled, flags=re.ASCII)[:_LONGEST]
    if plain.replace("_slash_", "/").replace("__", ".") == tensor_name:
        return plain
    digest = hashlib.sha256(tensor_name.encode(errors="surrogatepass")).hexdigest()
    return f"{plain}.{digest[:_DIGITS]}"


def pickled(content: dict[str, Any]) -> bytes:
    """Return the bytes of a `.pt` file."""
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()
