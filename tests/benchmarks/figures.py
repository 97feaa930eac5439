"""Measure the numbers that the docs quote, and write them there. `make docs-figures` runs this.

A block of a page lies between `<!-- figures: NAME -->` and `<!-- end of figures -->`. For the
blocks about the demo this runs the sweep in a folder, runs it again, and runs it over an S3 server.
The blocks about benchmarks come from runs/bench.json, which `make bench` writes. A block without a
measurement stays as it is, and the command names it.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from svdjobs.config_file import load_config
from svdjobs.provenance import cores, hardware
from svdjobs.storage.dev_server import serving
from tests.benchmarks import report, sweep

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/reading.md")
PICTURES = {
    "accuracy-demo": "demo-accuracy",
    "divergence-demo": "demo-divergence",
    "reading-demo": "demo-reading",
    "map-demo": "demo-map",
}
DEMO = "jobs/sweeps/demo.yaml"
BENCH = ROOT / "runs" / "bench.json"
BLOCK = re.compile(r"(<!-- figures: (\S+) -->\n).*?( *<!-- end of figures -->)", re.DOTALL)


def names(text: str) -> list[str]:
    """The names of the blocks in a page."""
    return [match[2] for match in BLOCK.finditer(text)]


def replaced(text: str, bodies: Mapping[str, str]) -> str:
    """The page with the blocks in `bodies` replaced; other blocks stay."""

    def block(match: re.Match[str]) -> str:
        body = bodies.get(match[2])
        return match[0] if body is None else f"{match[1]}{body.rstrip()}\n{match[3]}"

    return BLOCK.sub(block, text)


def pair(measured: Mapping[str, Any]) -> str:
    """A table of the shipped checkpoints' accuracies, from measured.json."""
    found = measured["accuracy"]
    cells = [
        f"{100 * one['mean']:.1f} % ± {100 * one['standard_error']:.1f}" for one in found.values()
    ]
    rows = [["", *found], ["accuracy", *cells]]
    head, *body = (f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def run_demo(store: str, environment: Mapping[str, str] | None = None) -> tuple[float, str]:
    """Run the demo sweep as a command; return its seconds and its output."""
    command = [sys.executable, "-m", "svdjobs.cli.main", "sweep", DEMO, "--set", f"store={store}"]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.perf_counter() - started, done.stdout


def divergence_ratio(table: Path) -> float:
    """The KL of `before` divided by the KL of alpha = 0, from the report's table."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = {row["checkpoint"]: row["KL"] for row in csv.DictReader(file)}
    before, blend = (
        float(re.split(r"[ \[]", rows[name].strip())[0]) for name in ("before", "alpha-0.0000")
    )
    return before / blend


def numbers(table: Path) -> dict[tuple[str, str], dict[str, float]]:
    """The rows of the report's numbers.csv, by checkpoint and quantity, in points."""
    with table.open(encoding="utf-8", newline="") as file:
        return {
            (row["checkpoint"], row["quantity"]): {
                key: 100 * float(row[key]) for key in ("value", "low", "high")
            }
            for row in csv.DictReader(file)
        }


def result(found: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    """What the demo found, in three sentences."""
    gain = -found["before", "minus_after"]["value"]
    read = found["alpha-0.0000", "read_minus_after"]
    cells = {
        name.removeprefix("map: "): one["value"]
        for (name, quantity), one in found.items()
        if name.startswith("map: layer") and quantity == "read_minus_after"
    }
    largest = min(cells, key=cells.__getitem__)
    layer, family = largest.removeprefix("layer ").split(" ")
    return (
        f"**Result on the demo pair that ships here:** RL raised accuracy by {gain:.0f} points. "
        f"With before's singular values\nput back (alpha = 0), all but {-read['value']:.2f} points "
        f"of that remain (95 % interval {-read['high']:.2f} to {-read['low']:.2f}): the gain is in "
        f"the singular\nvectors. A map says where: layer {layer}'s `{family}` alone carries "
        f"{-cells[largest]:.2f} points."
    )


def sampled_and_read(found: Mapping[tuple[str, str], Mapping[str, float]]) -> str:
    """What alpha = 0 costs on the demo, by reading and by sampling."""
    read, drawn = (
        "{value:+.2f} [{low:+.2f}, {high:+.2f}]".format(**found["alpha-0.0000", quantity])
        for quantity in ("read_minus_after", "minus_after")
    )
    return (
        f"On the demo, alpha = 0 changes accuracy by {read} points by reading, and by {drawn} by "
        f"sampling\n(95 % intervals)."
    )


def demo_figures(folder: Path) -> dict[str, str]:
    """Run the demo sweep three times; return the blocks about it, and copy its figures to docs/."""
    local = folder / "run"
    fresh, printed = run_demo(str(local))
    again, _ = run_demo(str(local))
    for name, picture in PICTURES.items():
        shutil.copy(local / f"report/figures/{name}.png", ROOT / f"docs/{picture}.png")
    screenshots(local / "report/report.html")
    with serving(folder / "s3") as server:
        over_s3, _ = run_demo("s3://svdjobs/demo", {**os.environ, **server.environment})
    ratio = divergence_ratio(local / "report/tables/likelihood-demo.csv")
    found = numbers(local / "report/tables/numbers.csv")
    table = "\n".join(f"    {line}".rstrip() for line in printed.split("\n\n")[0].splitlines())
    objects = sum(path.is_file() for path in local.rglob("*"))
    return {
        "result": result(found),
        "reading": sampled_and_read(found),
        "demo": f"`make demo` takes {fresh:.0f} s after installation on {cores()} cores "
        f"({again:.0f} s when run again:\nfinished stages are skipped) and ends with this table "
        f"and the path of\n`runs/demo/report/report.html`:\n\n{table}",
        "divergence": "In the demo, KL from after grows with the square of 1 − alpha. At alpha = 0 "
        f"it is {float(f'{ratio:.1g}'):.0f} times\nsmaller than that of `before`:",
        "store": f"The demo sweep writes {objects} objects. It takes {over_s3:.0f} s with such a "
        f"server and {fresh:.0f} s with a\nlocal folder.",
    }


def screenshots(page: Path) -> None:
    """Photograph the answers of the report, and a problem that flipped, if there is a browser."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        click.echo("no chromium: the screenshots of the report stay as they are", err=True)
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1180, "height": 820})
        opened.goto(page.absolute().as_uri())
        opened.wait_for_selector("html[data-ready]")
        opened.screenshot(path=ROOT / "docs/report-answers.png")
        opened.select_option("[name=filter]", "flipped between the two")
        opened.click("#problems tbody button >> nth=0")
        opened.wait_for_selector("#problem .beside .text")
        opened.locator("#problem").screenshot(path=ROOT / "docs/report-problem.png")
        browser.close()


def bench_figures(bench: dict[str, Any]) -> dict[str, str]:
    """The blocks about the benchmarks in runs/bench.json."""
    found = {}
    if one := bench.get("report"):
        found["report"] = f"**Reports.** {report.show(one)}"
    if "shapes" in bench:
        lines = sweep.show(bench).splitlines()
        found["sweep"] = "\n".join(f"    {line}".rstrip() for line in lines)
        overall = bench["overall"]
        found["headline"] = (
            f"With six alphas, svdjobs is {overall['ratio']:.1f} times as fast as two float32 SVDs "
            f"per matrix and alpha, and the error in\nwhat a blend changes is "
            f"{overall['error_ratio']:.0f} times smaller ([measured](#speed))."
        )
    if one := bench.get("evaluation"):
        found["engine"] = (
            f"  On the demo sweep one engine takes {one['reused_seconds']:.0f} s; starting one for "
            f"each of the {one['checkpoints']} checkpoints takes\n  "
            f"{one['separate_seconds']:.0f} s ({one['ratio']:.1f} times as long). The completions "
            f"of {one['equal_checkpoints']} of {one['checkpoints']} checkpoints are equal."
        )
    if one := bench.get("reading"):
        found["reading-speed"] = (
            f"**Reading.** {one['alphas']} alphas of the demo: reading takes "
            f"{one['read_seconds']:.0f} s, sampling {one['sampled_seconds']:.0f} s. The intervals "
            f"of\nreading are "
            f"{one['narrower']:.1f} times narrower, so at equal width reading is "
            f"{one['at_equal_width']:.0f} times as fast. The map of 43\nvariants takes "
            f"{one['map_seconds']:.0f} s with the engine's start. One matrix of the running engine "
            f"is exchanged {one['swaps_of_one']:.0f} times per\nsecond, all 21 together "
            f"{one['swaps_of_all']:.1f} times."
        )
    if rates := bench.get("grading"):
        found["grading"] = (
            f"  {rates['workers']} workers grade {rates['mixed']:,.0f} answers per second on a mix "
            f"like MATH-500's, and {rates['integers']:,.0f} on plain integers."
        )
    return found


@click.command()
@click.option("--demo/--no-demo", default=True, help="Run the demo sweep; two minutes.")
def main(demo: bool) -> None:
    """Replace the numbers and pictures in the docs."""
    load_config(ROOT / DEMO)
    bodies = {"pair": pair(json.loads((ROOT / "svdjobs/demo/measured.json").read_text()))}
    if BENCH.exists():
        bodies |= bench_figures(json.loads(BENCH.read_text()))
    if demo:
        with tempfile.TemporaryDirectory() as folder:
            bodies |= demo_figures(Path(folder))
    for page in PAGES:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        path.write_text(replaced(text, bodies), encoding="utf-8")
        if left := sorted(set(names(text)) - set(bodies)):
            click.echo(
                f"{page}: left as they are, since `make bench` has not measured them: "
                f"{', '.join(left)}"
            )
    click.echo(f"measured on {hardware()}")


if __name__ == "__main__":
    main()
