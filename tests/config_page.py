"""Write docs/config.md and the JSON schema of sweeps from the models of the config.

python -m tests.config_page        (`make render` runs it)
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from svdjobs.config import SweepConfig
from svdjobs.config_schema import sweep_schema
from svdjobs.settings import Key, keys

PAGE = Path(__file__).parents[1] / "docs" / "config.md"
SCHEMA = Path(__file__).parents[1] / "jobs" / "sweeps" / "sweep.schema.json"
HEAD = """# Every key of a sweep

<!-- Generated from svdjobs/config.py by `make render`. -->

A sweep is one YAML file with these keys. `svdjobs keys SECTION` prints the same. `*` stands for
each item of a list, or for a name of yours. On the command line, `--set KEY=VALUE` overrides a key.
"""


def page() -> str:
    """The page: top-level keys first, then a table for each section."""
    found = list(keys(SweepConfig))
    meanings = {key.name: key.meaning for key in found}
    tables = [HEAD]
    for section in dict.fromkeys(key.name.rpartition(".")[0] for key in found):
        title = section or "Top level"
        tables.append(f"\n## {title}\n\n")
        if section in meanings:
            tables.append(f"{meanings[section]}\n\n")
        tables += _rows([key for key in found if key.name.rpartition(".")[0] == section])
    return "".join(tables)


def _rows(found: list[Key]) -> Iterator[str]:
    yield "| key | default | meaning |\n|---|---|---|\n"
    for key in found:
        default = key.default.removeprefix(" = ").strip() or "a section"
        code = default if default in ("(required)", "a section") else f"`{default}`"
        meaning = key.meaning.replace("|", "\\|")
        yield f"| `{key.name}` | {code} | {meaning} |\n"


def schema() -> str:
    """The JSON schema that the examples name."""
    return json.dumps(sweep_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
    SCHEMA.write_text(schema())
