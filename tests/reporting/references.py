"""Find references of an HTML page to other files."""

from __future__ import annotations

import html
import re


def outside_references(page: str) -> list[str]:
    """The URLs that a page would load; a self-contained page has none."""
    found = re.findall(r'(?:src|href)\s*=\s*"([^"#][^"]*)"', page)
    found += re.findall(r"@import|url\((?!#)[^)]*\)", page)
    return [html.unescape(item) for item in found if not item.startswith("data:")]
