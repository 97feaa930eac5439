"""Every measured number in the docs is in a block that `make docs-figures` writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.benchmarks import figures


def page(name: str) -> str:
    return (figures.ROOT / name).read_text(encoding="utf-8")


def test_every_block_is_one_that_the_command_writes() -> None:
    bench = {
        "machine": "a machine", "shapes": [], "evaluation": {
            "reused_seconds": 1, "separate_seconds": 2, "ratio": 2, "checkpoints": 8,
            "equal_checkpoints": 8,
        },
        "memory": {"usual_layers": 1, "usual_bytes": 2, "svdjobs_bytes": 1, "ratio": 2},
        "overall": {"usual_seconds": 1, "svdjobs_seconds": 1, "ratio": 1, "error_ratio": 1},
        "grading": {"workers": 2, "mixed": 1, "integers": 2},
        "report": {"completions": 1, "seconds": 1, "gib": 1, "page_mb": 1, "parts_mb": 1},
        "reading": {
            "alphas": 41, "read_seconds": 1, "sampled_seconds": 2, "map_seconds": 1,
            "narrower": 2, "at_equal_width": 8, "swaps_of_one": 2, "swaps_of_all": 1,
        },
    }  # fmt: skip
    known = {
        "pair",
        "demo",
        "divergence",
        "store",
        "result",
        "reading",
        *figures.bench_figures(bench),
    }
    found = [name for name in figures.PAGES for name in figures.names(page(name))]
    assert sorted(found) == sorted(known)


def test_only_blocks_that_were_measured_change() -> None:
    text = "a\n<!-- figures: x -->\nold\n<!-- end of figures -->\nb <!-- figures: y -->\n1\n"
    text += "  <!-- end of figures -->\n"
    new = figures.replaced(text, {"x": "new\n"})
    assert new == text.replace("old", "new")
    assert figures.replaced(new, {}) == new


def test_the_demo_pair_is_quoted_as_it_was_measured() -> None:
    measured = json.loads(page("svdjobs/demo/measured.json"))
    text = page("README.md")
    assert figures.replaced(text, {"pair": figures.pair(measured)}) == text


def test_times_are_quoted_in_blocks_only() -> None:
    """A time outside a block goes stale, because no command writes it again."""
    for name in figures.PAGES:
        prose = figures.BLOCK.sub("", page(name))
        assert re.findall(r"[^.\n]*\b\d+ s\b[^.\n]*", prose) == []


def test_the_ratio_is_read_from_the_reports_own_table(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text(
        'checkpoint,NLL,KL\nbefore,1,"0.0151 [0.0072, 0.023]"\nalpha-0.0000,1,2.0e-05\n'
    )
    assert round(figures.divergence_ratio(path)) == 755
