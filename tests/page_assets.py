"""Write svdjobs/reporting/assets/vega.min.js again: the Vega that vl-convert contains.

`python -m tests.page_assets`, after another version of vl-convert or of `charts.VERSION`. The page
draws figures with the same Vega as the files, so that they look the same.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import vl_convert

from svdjobs.reporting import charts

ASSETS = Path(__file__).parents[1] / "svdjobs" / "reporting" / "assets"


def first_line() -> str:
    """What the file says of itself."""
    vega, embed = vl_convert.get_vega_version(), vl_convert.get_vega_embed_version()
    return (
        f"/* Vega {vega}, Vega-Lite {charts.VERSION}, Vega-Embed {embed}, as vl-convert "
        f"{version('vl-convert-python')} bundles them: BSD-3-Clause, see LICENSES.txt. */"
    )


def main() -> None:
    """Write the file."""
    snippet = "window.vegaEmbed = vegaEmbed;"
    bundle = vl_convert.javascript_bundle(snippet=snippet, vl_version=charts.VERSION)
    (ASSETS / "vega.min.js").write_text(f"{first_line()}\n{bundle.strip()}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
