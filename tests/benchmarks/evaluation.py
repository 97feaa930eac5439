"""Time one engine for a whole sweep against one engine per checkpoint. `make bench` runs this.

It evaluates the demo sweep (after, six alphas, before) with vLLM on this machine in two ways. One
engine gets the weights of every checkpoint, or, as usual, every checkpoint gets a process and an
engine start. The stages before the evaluation run once and are not timed. The completions of both
ways are compared, because a ratio of times is fair only between equal results.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click

from svdjobs.config import SweepConfig
from svdjobs.config_file import load_config
from svdjobs.evaluation import results
from svdjobs.evaluation.generation import COMPLETIONS
from svdjobs.runs import layout
from svdjobs.stages import blend, decompose, plan
from svdjobs.storage.local import LocalStore

DEMO = Path("jobs/sweeps/demo.yaml")
GREEDY = (
    *("evaluate.engine=vllm", "evaluate.temperature=0", "evaluate.n_samples=1"),
    *("alphas=[0, 0.2, 0.4, 0.6, 0.8, 1]", "map=null"),
)


def timed(config: SweepConfig, *arguments: str) -> float:
    """Run `svdjobs evaluate`; return its seconds."""
    path = Path(config.store_url).parent / "sweep.json"
    path.write_text(config.model_dump_json())
    command = [sys.executable, "-m", "svdjobs.cli.main", "evaluate", str(path), *arguments]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr}")
    return time.perf_counter() - started


def texts(config: SweepConfig, checkpoint_id: str) -> list[str]:
    """The completions of a checkpoint, in order."""
    path = Path(config.store_url) / layout.results_prefix(checkpoint_id, "demo")
    lines = (path / COMPLETIONS).read_text().splitlines()
    return [json.loads(line)["text"] for line in lines]


def measure() -> dict[str, Any]:
    """Time both ways on the same blends, and compare their completions."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {}
        for way in ("reused", "separate"):
            runs[way] = load_config(DEMO, (*GREEDY, f"store={Path(folder) / way / 'run'}"))
        store_url = Path(runs["reused"].store_url)
        store = LocalStore(store_url)
        plan.run(runs["reused"], store)
        decompose.run(runs["reused"], store)
        blend.run(runs["reused"], store)
        shutil.copytree(store_url, runs["separate"].store_url)
        ids = results.evaluation_order(layout.evaluated_ids(runs["reused"]))
        click.echo(f"{len(ids)} checkpoints through one engine …", err=True)
        reused = timed(runs["reused"])
        separate = 0.0
        for checkpoint_id in ids:
            click.echo(f"{checkpoint_id} with an engine of its own …", err=True)
            separate += timed(
                runs["separate"],
                "--checkpoint",
                checkpoint_id,
                "--set",
                "evaluate.reuse_engine=false",
            )
        equal = sum(texts(runs["reused"], i) == texts(runs["separate"], i) for i in ids)
    return {
        "checkpoints": len(ids),
        "reused_seconds": reused,
        "separate_seconds": separate,
        "ratio": separate / reused,
        "equal_checkpoints": equal,
    }


def show(found: dict[str, Any]) -> str:
    """The comparison in words."""
    return (
        f"evaluating the demo sweep with vLLM, {found['checkpoints']} checkpoints, greedy: one "
        f"engine {found['reused_seconds']:.0f} s, an engine each {found['separate_seconds']:.0f} s:"
        f" {found['ratio']:.1f}× faster; all completions equal for {found['equal_checkpoints']} of "
        f"{found['checkpoints']}"
    )


def noted(name: str, found: dict[str, Any]) -> None:
    """Write a measurement to runs/bench.json, beside those that it has."""
    path = Path("runs/bench.json")
    path.parent.mkdir(exist_ok=True)
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**document, name: found}, indent=2) + "\n")


@click.command()
def main() -> None:
    """Print the comparison and add it to runs/bench.json."""
    found = measure()
    click.echo(show(found))
    noted("evaluation", found)


if __name__ == "__main__":
    main()
