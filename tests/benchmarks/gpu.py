"""Time decompositions and blends on a GPU beside the CPUs of the same machine. `make bench-gpu`.

First the two operations that take the time: Gram matrix and eigendecomposition, in float64 and in
float32. Then the stages `decompose` and `blend` from files to files, on some layers with the shapes
of a model of 1.5 and of 7 billion parameters, at six alphas. It takes about three minutes, most of
them on the CPUs. Without a GPU it says so and ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from tests.benchmarks.sweep import ALPHAS, LAYER, make_pair

SIDES = (1536, 3584, 4096, 5120, 8192)
# Larger ones would take the CPUs most of the three minutes.
LARGEST_ON_CPUS = 4096
SIZES_OF_7B = {1536: 3584, 256: 512, 8960: 18944}
MODELS = {
    "1.5B": (LAYER, 28, 4),
    "7B": ({name: (SIZES_OF_7B[m], SIZES_OF_7B[n]) for name, (m, n) in LAYER.items()}, 28, 1),
}
"""Shapes of a layer, layers, and how many of them are timed."""


def seconds(run: Callable[[], object], rounds: int) -> float:
    """The time of a call, the best of some, after one that is not counted."""
    import torch

    best = float("inf")
    for number in range(rounds + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if number:
            best = min(best, time.perf_counter() - started)
    return best


def time_operations() -> list[dict[str, Any]]:
    """Seconds of Gram matrices and eigendecompositions by side, dtype and device."""
    import torch

    from svdjobs.kernels import dense

    rows = []
    for n in SIDES:
        for dtype in (torch.float64, torch.float32):
            here = torch.randn(n, n, dtype=dtype, generator=torch.Generator().manual_seed(0))
            row: dict[str, Any] = {"n": n, "dtype": str(dtype).removeprefix("torch.")}
            for device in ("cuda", "cpu") if n <= LARGEST_ON_CPUS else ("cuda",):
                w = here.to(device)
                gram = dense.self_product(w)
                rounds = 3 if device == "cuda" else 1
                row[f"gram_{device}"] = seconds(lambda w=w: dense.self_product(w), rounds)  # type: ignore[misc]
                row[f"eigh_{device}"] = seconds(lambda g=gram: dense.eigh(g), rounds)  # type: ignore[misc]
            rows.append(row)
            click.echo(show_operation(row))
    return rows


def show_operation(row: dict[str, Any]) -> str:
    """A line of the first table: milliseconds on the GPU, on the CPUs, and the ratio."""
    cells = []
    for what in ("gram", "eigh"):
        gpu, cpu = row[f"{what}_cuda"], row.get(f"{what}_cpu")
        beside = f"{1e3 * cpu:>9.0f} {cpu / gpu:>6.1f}×" if cpu else f"{'–':>9} {'–':>7}"
        cells.append(f"{1e3 * gpu:>9.1f} {beside}")
    return f"{row['n']:>6} {row['dtype']:<8}{cells[0]}   {cells[1]}"


def child(device: str, folder: Path) -> None:
    """Run plan, decompose and blend on a device, and print the seconds of the last two."""
    from svdjobs.config_file import parse_config
    from svdjobs.stages import blend, decompose, plan
    from svdjobs.storage.local import LocalStore

    document = {
        "name": "bench", "before": str(folder / "before"), "after": str(folder / "after"),
        "alphas": list(ALPHAS), "blend": {"svd_logs": False}, "compute": {"device": device},
    }  # fmt: skip
    config = parse_config(document, where="bench")
    store = LocalStore(folder / f"run-{device}")
    plan.run(config, store)
    found = {}
    for stage in (decompose, blend):
        started = time.perf_counter()
        stage.run(config, store)
        found[stage.STAGE] = time.perf_counter() - started
    print(json.dumps(found))


def measure(device: str, folder: Path) -> dict[str, float]:
    """Seconds of the stages on a device, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--child", device, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{device} failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def apart(folder: Path) -> float:
    """‖W_gpu(0) − W_cpu(0)‖/‖W_cpu(0) − W(1)‖ of one matrix: by how much the blends differ."""
    from svdjobs.checkpoint.sources import open_checkpoint

    name = "model.layers.0.self_attn.q_proj.weight"
    gpu, cpu, after = (
        open_checkpoint(str(folder / path)).read(name).double()
        for path in (
            "run-cuda/checkpoints/alpha-0.0000", "run-cpu/checkpoints/alpha-0.0000", "after",
        )
    )  # fmt: skip
    return float((gpu - cpu).norm() / (cpu - after).norm())


def time_models(root: Path) -> list[dict[str, Any]]:
    """Seconds of the stages by model and device."""
    rows = []
    for model, (layer, layers, timed) in MODELS.items():
        make_pair(root / model, timed, layer=layer)
        gpu, cpu = (measure(device, root / model) for device in ("cuda", "cpu"))
        row = {"model": model, "timed": timed, "layers": layers, "cuda": gpu, "cpu": cpu}
        row["apart"] = apart(root / model)
        rows.append(row)
        for stage in gpu:
            whole = layers / timed * gpu[stage]
            click.echo(
                f"{model:>6} {stage:<10}{timed:>3} of {layers} layers: GPU {gpu[stage]:>6.2f} s, "
                f"CPUs {cpu[stage]:>7.2f} s: {cpu[stage] / gpu[stage]:.1f}×; all layers in "
                f"proportion {whole:.0f} s"
            )
        click.echo(f"{model:>6} blends of both differ by {row['apart']:.1e} of the change")
    return rows


@click.command()
@click.option("--child", "child_of", type=click.Choice(["cuda", "cpu"]), hidden=True)
@click.argument("arguments", nargs=-1)
def main(child_of: str | None, arguments: tuple[str, ...]) -> None:
    """Print both tables and write them to runs/bench-gpu.json."""
    import torch

    if child_of:
        child(child_of, Path(arguments[0]))
        return
    if not torch.cuda.is_available():
        click.echo("NO GPU: nothing was timed; torch can use no GPU on this machine.")
        return
    from svdjobs.provenance import hardware, versions

    name = torch.cuda.get_device_name()
    click.echo(f"{name}; {hardware()}\n")
    click.echo(
        f"{'':>15}{'Gram: GPU ms':>12}{'CPUs ms':>9}{'':>8}{'eigh: GPU ms':>15}{'CPUs ms':>9}"
    )
    operations = time_operations()
    click.echo("")
    with tempfile.TemporaryDirectory() as folder:
        models = time_models(Path(folder))
    document = {
        "gpu": name, "machine": hardware(), "versions": versions(), "operations": operations,
        "models": models,
    }  # fmt: skip
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-gpu.json").write_text(json.dumps(document, indent=2) + os.linesep)


if __name__ == "__main__":
    main()
