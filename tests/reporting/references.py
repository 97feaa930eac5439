"""What a page would load from elsewhere."""

from __future__ import annotations

import html
import re


def outside_references(page: str) -> list[str]:
    """Everything a page would load from elsewhere; a self-contained page has none."""
    found = re.findall(r'(?:src|href)\s*=\s*"([^"#][^"]*)"', page)
    found += re.findall(r"@import|url\((?!#)[^)]*\)", page)
    return [html.unescape(item) for item in found if not item.startswith("data:")]
