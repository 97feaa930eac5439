"""Time reading against sampling on the demo with 41 alphas. `make bench` runs this.

Both ways evaluate the same blends with vLLM on this machine: in one, every alpha reads after's 800
answers, in the other every alpha draws 800 of its own. Their intervals of the difference from after
differ in width, so the ratio of times at equal width is larger than that of the times by the square
of the ratio of widths. Then the map is timed, and swaps of one matrix and of all.
"""

from __future__ import annotations

import csv
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from svdjobs.config import SweepConfig
from svdjobs.config_file import load_config
from svdjobs.evaluation.session import open_session
from svdjobs.stages import blend, decompose, plan, report
from svdjobs.storage.local import LocalStore
from svdjobs.variant_config import VariantConfig
from tests.benchmarks.evaluation import DEMO, noted, timed

ALPHAS = "alphas={from: 0, to: 1, step: 0.025}"
COMMON = (ALPHAS, "evaluate.engine=vllm", "evaluate.second_grader=off", "rotations=null")
WAYS = {
    "read": ("map=null", "evaluate.sampled=[after]"),
    "sampled": ("map=null", "evaluate.sampled=all", "evaluate.read=0"),
    "map": ("alphas=[]", "evaluate.sampled=[after]"),
}
QUANTITY = {"read": "read_minus_after", "sampled": "minus_after"}
SWAPS = 20


def mean_width(config: SweepConfig, quantity: str) -> float:
    """Mean width of the intervals of all alphas but 1, in points."""
    report.run(config, LocalStore(config.store_url))
    with (Path(config.store_url) / "report/tables/numbers.csv").open(encoding="utf-8") as file:
        rows = [r for r in csv.DictReader(file) if r["quantity"] == quantity and r["low"] != "nan"]
    widths = [
        100 * (float(row["high"]) - float(row["low"]))
        for row in rows
        if row["checkpoint"].startswith("alpha-")
    ]
    return statistics.fmean(widths)


def swaps_per_second(config: SweepConfig) -> dict[str, float]:
    """How often another variant of one matrix, and of all, is put into a running engine and
    verified."""
    found = {}
    with open_session(config, LocalStore(config.store_url)) as session:
        holder = session.engine_holder
        holder.engine_with("after")
        for name, part in (("one", {"layers": (2,), "families": ("mlp.down_proj",)}), ("all", {})):
            started = time.perf_counter()
            for swap in range(SWAPS):
                spec = VariantConfig.model_validate({"extrapolate": 0.01 * (swap + 1), **part})
                holder.engine_with_variant(f"{name} {swap}", spec)
            found[name] = SWAPS / (time.perf_counter() - started)
            holder.engine_with("after")
    return found


def measure() -> dict[str, Any]:
    """Time both ways on the same blends, then the map and the swaps."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {
            way: load_config(DEMO, (*COMMON, *own, f"store={Path(folder) / way / 'run'}"))
            for way, own in WAYS.items()
        }
        store = LocalStore(runs["read"].store_url)
        for stage in (plan, decompose, blend):
            stage.run(runs["read"], store)
        for way in ("sampled", "map"):
            shutil.copytree(store.url, runs[way].store_url)
        plan.run(runs["map"], LocalStore(runs["map"].store_url))
        seconds = {}
        for way, config in runs.items():
            click.echo(f"{way} …", err=True)
            seconds[way] = timed(config)
        widths = {way: mean_width(runs[way], quantity) for way, quantity in QUANTITY.items()}
        swaps = swaps_per_second(runs["map"])
    narrower = widths["sampled"] / widths["read"]
    return {
        "alphas": len(runs["read"].alphas),
        "read_seconds": seconds["read"],
        "sampled_seconds": seconds["sampled"],
        "map_seconds": seconds["map"],
        "read_width": widths["read"],
        "sampled_width": widths["sampled"],
        "narrower": narrower,
        "faster": seconds["sampled"] / seconds["read"],
        "at_equal_width": narrower**2 * seconds["sampled"] / seconds["read"],
        "swaps_of_one": swaps["one"],
        "swaps_of_all": swaps["all"],
    }


def show(found: dict[str, Any]) -> str:
    """The comparison in words."""
    return (
        f"{found['alphas']} alphas of the demo with vLLM: read {found['read_seconds']:.0f} s, "
        f"intervals {found['read_width']:.2f} points wide; sampled {found['sampled_seconds']:.0f} "
        f"s, {found['sampled_width']:.2f} points wide: {found['faster']:.1f}× faster and "
        f"{found['narrower']:.1f}× narrower, {found['at_equal_width']:.0f}× faster at equal "
        f"width; the map of 43 variants {found['map_seconds']:.0f} s; swaps per second: "
        f"{found['swaps_of_one']:.1f} of one matrix, {found['swaps_of_all']:.1f} of all 21"
    )


@click.command()
def main() -> None:
    """Print the comparison and add it to runs/bench.json."""
    found = measure()
    click.echo(show(found))
    noted("reading", found)


if __name__ == "__main__":
    main()
