"""Write YAML as a person would: strings of several lines as blocks, no anchors."""

from __future__ import annotations

from typing import Any


def dump(document: Any) -> str:
    """The document as YAML text, with its keys in their own order."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return yaml.dump(document, Dumper=Dumper, sort_keys=False, width=100, allow_unicode=True)
