"""Time svdjobs against the usual procedure, side by side in one run. `make bench` runs this.

The usual procedure loads both models, and for every alpha and every matrix takes two full float32
SVDs and composes U·diag(S)·Vh. Shapes are those of Qwen2.5-1.5B. One matrix of every shape is
really run at every alpha through both, each in a process of its own, files to files; a layer's time
weighs them by how often they occur in it. Memory is measured on several whole layers, where the
usual procedure is stopped after its first matrix, when it has loaded all it needs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

Q, K, UP, DOWN = (1536, 1536), (256, 1536), (8960, 1536), (1536, 8960)
PER_LAYER = {Q: 2, K: 2, UP: 2, DOWN: 1}
NAMES = {Q: "q, o", K: "k, v", UP: "gate, up", DOWN: "down"}
LAYER = {
    "self_attn.q_proj": Q, "self_attn.k_proj": K, "self_attn.v_proj": K, "self_attn.o_proj": Q,
    "mlp.gate_proj": UP, "mlp.up_proj": UP, "mlp.down_proj": DOWN,
}  # fmt: skip
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# ‖ΔW‖/‖W‖ of the planted update; its blend signal ‖D‖/‖W‖ is then about 1e-5 … 1e-4, as for RL.
RELATIVE_UPDATE = 3e-3


def make_pair(folder: Path, matrices: dict[str, tuple[int, int]]) -> None:
    """Write before and after: power-law spectra, and after = before plus a Gaussian update."""
    import torch
    from safetensors.torch import save_file

    tensors: dict[str, dict[str, torch.Tensor]] = {"before": {}, "after": {}}
    for seed, (name, (m, n)) in enumerate(matrices.items()):
        generator = torch.Generator().manual_seed(seed)
        scale_N = torch.arange(1, n + 1, dtype=torch.float32) ** -0.3
        w_MN = torch.randn(m, n, generator=generator) * scale_N * 0.05
        e_MN = torch.randn(m, n, generator=generator)
        tensors["before"][name] = w_MN
        tensors["after"][name] = w_MN + e_MN * (RELATIVE_UPDATE * w_MN.norm() / e_MN.norm())
    for role, content in tensors.items():
        (folder / role).mkdir(parents=True)
        save_file(content, folder / role / "model.safetensors", metadata={"format": "pt"})
        config = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": 1}
        (folder / role / "config.json").write_text(json.dumps(config))


def run_svdjobs(folder: Path, alphas: list[float], first_only: bool) -> None:
    """The project's own stages: plan, decompose, blend, with all their checks and manifests."""
    from svdjobs.config import parse_config
    from svdjobs.stages import blend, decompose, plan
    from svdjobs.storage.local import LocalStore

    document = {
        "name": "bench",
        "before": str(folder / "before"),
        "after": str(folder / "after"),
        "alphas": alphas,
        "blend": {"svd_logs": False},
    }
    config = parse_config(document, where="bench")
    store = LocalStore(folder / "run")
    plan.run(config, store)
    decompose.run(config, store)
    blend.run(config, store)


def run_usual(folder: Path, alphas: list[float], first_only: bool) -> None:
    """Two float32 SVDs per tensor per alpha over fully loaded models."""
    import torch
    from safetensors.torch import load_file, save_file

    before = load_file(folder / "before" / "model.safetensors")
    after = load_file(folder / "after" / "model.safetensors")
    # load_file maps the files; a loaded model is its own memory, as with from_pretrained.
    before = {name: tensor.clone() for name, tensor in before.items()}
    after = {name: tensor.clone() for name, tensor in after.items()}
    for alpha in alphas:
        blended = {name: tensor.clone() for name, tensor in after.items()}
        for name in blended:
            s_before = torch.linalg.svd(before[name].float(), full_matrices=False)[1]
            u, s_after, vh = torch.linalg.svd(after[name].float(), full_matrices=False)
            s = alpha * s_after + (1 - alpha) * s_before
            blended[name] = u @ torch.diag(s) @ vh
            if first_only:
                return
        save_file(blended, folder / f"usual-{alpha}.safetensors")


def child(which: str, folder: Path, alphas: list[float], first_only: bool) -> None:
    """Run one procedure and print its seconds."""
    import numpy as np  # imported before the clock starts, for both
    import scipy.linalg  # noqa: F401
    import torch

    torch.linalg.svdvals(torch.eye(64) @ torch.eye(64)), np.linalg.eigvalsh(np.eye(64))
    started = time.perf_counter()
    {"svdjobs": run_svdjobs, "usual": run_usual}[which](folder, alphas, first_only)
    print(json.dumps({"seconds": time.perf_counter() - started}))


def measure(
    which: str, folder: Path, alphas: tuple[float, ...], *, first_only: bool = False
) -> Any:
    """Run a procedure in a process of its own: its seconds, and the peak memory of it and its
    worker processes together, looked at ten times a second."""
    command = [sys.executable, "-m", "tests.benchmarks.sweep", "--child", which, str(folder),
               json.dumps(alphas), *(["--first-only"] if first_only else [])]  # fmt: skip
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=output, stderr=errors, text=True)
        peak = 0
        while process.poll() is None:
            peak = max(peak, sum(map(resident_bytes, family(process.pid))))
            time.sleep(0.1)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise click.ClickException(f"{which} failed:\n{errors.read()}")
        return {**json.loads(output.read().splitlines()[-1]), "peak_bytes": peak}


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child_pid in path.read_text().split():
                found += family(int(child_pid))
    return found


def resident_bytes(pid: int) -> int:
    """Proportional resident memory of a process (shared pages shared out), 0 when it has gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def signal_errors(folder: Path, name: str) -> dict[str, float]:
    """Relative error of the stored W(0) − W_after of both, against two float64 SVDs."""
    import torch
    from safetensors import safe_open

    def read(path: Path) -> torch.Tensor:
        with safe_open(path, "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor.double()

    after = read(folder / "after" / "model.safetensors")
    s_before = torch.linalg.svdvals(read(folder / "before" / "model.safetensors"))
    u, s, vh = torch.linalg.svd(after, full_matrices=False)
    d = (u * (s_before - s)) @ vh
    paths = {
        "svdjobs": folder / "run" / "checkpoints" / "alpha-0.0000" / "model.safetensors",
        "usual": folder / "usual-0.0.safetensors",
    }
    errors = {
        which: float((read(path) - after - d).norm() / d.norm()) for which, path in paths.items()
    }
    return {**errors, "signal": float(d.norm() / after.norm())}


def floor_seconds(shape: tuple[int, int]) -> float:
    """Least time for one decomposition pair: 4mn²+6k³ at this machine's float64 product rate."""
    from svdjobs.stages.cost import measured_flops_per_second

    n = min(shape)
    return (4 * max(shape) * n**2 + 6 * n**3) / measured_flops_per_second(1536)


def time_shapes(root: Path) -> list[dict[str, Any]]:
    """Both procedures on one matrix of every shape at every alpha."""
    rows = []
    for shape in PER_LAYER:
        folder = root / f"{shape[0]}x{shape[1]}"
        name = "model.layers.0.mlp.up_proj.weight"
        make_pair(folder, {name: shape})
        click.echo(f"{shape[0]}×{shape[1]} …", err=True)
        ours, usual = measure("svdjobs", folder, ALPHAS), measure("usual", folder, ALPHAS)
        rows.append(
            {
                "shape": list(shape),
                "per_layer": PER_LAYER[shape],
                "svdjobs_seconds": ours["seconds"],
                "usual_seconds": usual["seconds"],
                "ratio": usual["seconds"] / ours["seconds"],
                "floor_seconds": floor_seconds(shape),
                "errors": signal_errors(folder, name),
            }
        )
    return rows


def measure_memory(root: Path, layers: int) -> dict[str, Any]:
    """Peak memory of both on a checkpoint of several layers."""
    click.echo(f"memory on {layers} layers …", err=True)
    names = {f"model.layers.{i}.{n}.weight": s for i in range(layers) for n, s in LAYER.items()}
    make_pair(root / "layers", names)
    usual = measure("usual", root / "layers", (0.0,), first_only=True)
    ours = measure("svdjobs", root / "layers", (0.0,))
    return {
        "layers": layers,
        "svdjobs_bytes": ours["peak_bytes"],
        "usual_bytes": usual["peak_bytes"],
        "ratio": usual["peak_bytes"] / ours["peak_bytes"],
        "svdjobs_seconds": ours["seconds"],
    }


def show(rows: list[dict[str, Any]], memory: dict[str, Any], overall: dict[str, Any]) -> str:
    """The table as text."""
    from svdjobs.provenance import hardware

    lines = [
        f"{hardware()}; {len(ALPHAS)} alphas, one matrix of each shape, files to files",
        "",
        f"{'matrices':<10}{'shape':>11}{'usual':>10}{'svdjobs':>10}{'faster':>9}{'× floor':>9}"
        f"{'signal':>10}{'usual err':>11}{'our err':>10}",
    ]
    for row in rows:
        shape = tuple(row["shape"])
        times = f"{row['usual_seconds']:>8.1f} s{row['svdjobs_seconds']:>8.2f} s"
        lines.append(
            f"{NAMES[shape]:<10}{f'{shape[0]}×{shape[1]}':>11}{times}{row['ratio']:>8.1f}×"
            f"{row['svdjobs_seconds'] / row['floor_seconds']:>9.1f}{row['errors']['signal']:>10.1e}"
            f"{100 * row['errors']['usual']:>9.2f} %{100 * row['errors']['svdjobs']:>8.3f} %"
        )
    lines += [
        "",
        f"one layer (weighted by count): usual {overall['usual_seconds']:.1f} s, svdjobs "
        f"{overall['svdjobs_seconds']:.2f} s: {overall['ratio']:.1f}× faster; signal error "
        f"{overall['error_ratio']:.0f}× smaller",
        f"peak memory on {memory['layers']} layers: usual {memory['usual_bytes'] / 2**30:.2f} GiB "
        f"(grows with the model), svdjobs {memory['svdjobs_bytes'] / 2**30:.2f} GiB: "
        f"{memory['ratio']:.1f}× less",
        "faster: usual/svdjobs. × floor: svdjobs over (4mn²+6k³)/float64 product rate. err: of the "
        "stored W(0)−W_after.",
    ]
    return "\n".join(lines)


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A layer's times, weighted by how often each shape occurs, and the ratio of squared errors."""
    usual = sum(row["usual_seconds"] * row["per_layer"] for row in rows)
    ours = sum(row["svdjobs_seconds"] * row["per_layer"] for row in rows)
    errors = {
        which: sum(row["errors"][which] * row["per_layer"] for row in rows)
        for which in ("usual", "svdjobs")
    }
    return {
        "usual_seconds": usual,
        "svdjobs_seconds": ours,
        "ratio": usual / ours,
        "error_ratio": errors["usual"] / errors["svdjobs"],
    }


@click.command()
@click.option("--child", "child_of", type=click.Choice(["svdjobs", "usual"]), hidden=True)
@click.option("--first-only", is_flag=True, hidden=True)
@click.option("--layers", default=8, help="Layers of the memory measurement.")
@click.argument("arguments", nargs=-1)
def main(child_of: str | None, first_only: bool, layers: int, arguments: tuple[str, ...]) -> None:
    """Print the comparison and write it to runs/bench.json."""
    if child_of:
        child(child_of, Path(arguments[0]), json.loads(arguments[1]), first_only)
        return
    from svdjobs.provenance import hardware, versions

    with tempfile.TemporaryDirectory() as folder:
        rows = time_shapes(Path(folder))
        memory = measure_memory(Path(folder), layers)
    overall = summarise(rows)
    click.echo(show(rows, memory, overall))
    document = {"machine": hardware(), "versions": versions(), "alphas": ALPHAS, "shapes": rows,
                "overall": overall, "memory": memory}  # fmt: skip
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench.json").write_text(json.dumps(document, indent=2) + os.linesep)


if __name__ == "__main__":
    main()
