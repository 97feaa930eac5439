"""Turn the comments of values.yaml (`# -- meaning` above each value) into the README's table."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from tests.helm.chart import CHART

BEGIN, END = "<!-- values: begin -->\n", "<!-- values: end -->\n"
_KEY = re.compile(r"( *)([A-Za-z]+):(?: |$)")


class Value(NamedTuple):
    """A value of the chart."""

    path: str
    default: Any
    meaning: str


def values() -> list[Value]:
    """All values of values.yaml that have a comment, in order."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    defaults = yaml.safe_load(text)
    return [Value(path, _at(defaults, path), meaning) for path, meaning in _commented(text)]


def _commented(text: str) -> Iterator[tuple[str, str]]:
    above: list[str] = []
    meaning = ""
    for line in text.splitlines():
        if line.strip().startswith("# -- "):
            meaning = line.strip().removeprefix("# -- ")
        elif found := _KEY.match(line):
            above = [*above[: len(found[1]) // 2], found[2]]
            if meaning:
                yield ".".join(above), meaning
            meaning = ""


def _at(document: Any, path: str) -> Any:
    for key in path.split("."):
        document = document[key]
    return document


def leaves(document: Any, above: str = "") -> Iterator[str]:
    """The path of every value: everything but the groups, which are maps with fixed keys."""
    for key, value in document.items():
        path = f"{above}{key}"
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{path}.")
        else:
            yield path


def table() -> str:
    """All values as a Markdown table."""
    rows = ["| value | default | meaning |", "|---|---|---|"]
    for value in values():
        default = json.dumps(value.default, ensure_ascii=False)
        rows.append(f"| `{value.path}` | `{default}` | {_escaped(value.meaning)} |")
    return "\n".join(rows) + "\n"


def described(schema: str) -> str:
    """values.schema.json in which every value has its comment as a description."""
    document = json.loads(schema)
    for value in values():
        found, stage = document, value.path.partition(".")[0]
        for key in value.path.split("."):
            kind = found.get("$ref", "").rpartition("/")[2]
            found = (document["definitions"][kind] if kind else found)["properties"][key]
        # The stages share a definition.
        found["description"] = re.sub(rf" an? {stage} pod", " a pod", value.meaning)
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def with_table(readme: str) -> str:
    """The README with a new table."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"
