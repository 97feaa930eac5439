"""Time the report of a large run. `make bench` runs this.

The run has 6 alphas, before and after on 4 benchmarks of 500 problems, with 16 completions of about
100 tokens each, and weights of 30 small layers. Its evaluations are planted. The limits are a
minute and 2 GiB on 2 cores; what a reader opens first must stay below 25 MB.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from tests.benchmarks.evaluation import noted
from tests.planted_run import planted_run


def measure(problems: int = 500, samples: int = 16) -> dict[str, Any]:
    """Plant a run, and time `svdjobs report` on it in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        click.echo("planting a large run …", err=True)
        config = planted_run(folder, problems=problems, samples=samples, with_map=False)
        path = folder / "sweep.json"
        path.write_text(config.model_dump_json())
        started = time.perf_counter()
        command = [sys.executable, "-m", "svdjobs.cli.main", "report", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr}")
        report = folder / "run" / "report"
        ids = len(config.alphas) + 2
        return {
            "completions": ids * len(config.benchmarks) * problems * samples,
            "seconds": seconds,
            "gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
            "page_mb": (report / "report.html").stat().st_size / 1e6,
            "parts_mb": sum(p.stat().st_size for p in report.glob("problems/*")) / 1e6,
        }


def show(found: dict[str, Any]) -> str:
    """The result in a sentence."""
    return (
        f"The report of {found['completions']:,} completions takes {found['seconds']:.0f} s and "
        f"{found['gib']:.1f} GiB of memory. Its page has {found['page_mb']:.1f} MB, and the "
        f"answers beside it {found['parts_mb']:.0f} MB, which a browser loads in parts."
    )


@click.command()
def main() -> None:
    """Print the measurement and add it to runs/bench.json."""
    found = measure()
    click.echo(show(found))
    noted("report", found)


if __name__ == "__main__":
    main()
