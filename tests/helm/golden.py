"""Write the generated files of the chart: renders of its example values, the README's table,
and the descriptions in the schema of its values.

python -m tests.helm.golden        (a part of `make render`)
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.helm.chart import CHART, Values, examples, render
from tests.helm.documented import described, with_table

GOLDEN = Path(__file__).parent / "golden"
README = CHART / "README.md"
SCHEMA = CHART / "values.schema.json"
# Without a cluster, each render makes new random keys.
_MADE_UP = re.compile(r"(AWS_(?:ACCESS_KEY_ID|SECRET_ACCESS_KEY): )[A-Za-z0-9+/]{20,}=*")


def text_of(values: Values) -> str:
    """All documents as one text, without random keys and trailing spaces."""
    texts = [
        f"---\n# Template: {path}\n{text.strip()}\n"
        for path, text in render(values).items()
        if path.endswith(".yaml")
    ]
    lines = "".join(texts).splitlines()
    return _MADE_UP.sub(r"\1<made up>", "\n".join(line.rstrip() for line in lines) + "\n")


def main() -> None:
    wanted = {GOLDEN / f"{name}.yaml": text_of(values) for name, values in examples().items()}
    for old in set(GOLDEN.glob("*.yaml")) - set(wanted):
        old.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    SCHEMA.write_text(described(SCHEMA.read_text(encoding="utf-8")), encoding="utf-8")
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
