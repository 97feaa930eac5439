"""Time svdjobs against the usual procedure, side by side in one run. `make bench` runs this.

The usual procedure loads both models. For every alpha and every matrix it computes two full float32
SVDs and multiplies U·diag(S)·Vh. The shapes are those of Qwen2.5-1.5B. Both procedures blend the
matrices of two of its 28 layers at every alpha, from files to files, one shape at a time, each in
its own process. Memory is measured on more layers with all matrices. There the usual procedure
stops after its first matrix, because it has then loaded everything.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

Q, K, UP, DOWN = (1536, 1536), (256, 1536), (8960, 1536), (1536, 8960)
TIMED_LAYERS = 2
NAMES = {Q: "q, o", K: "k, v", UP: "gate, up", DOWN: "down"}
LAYER = {
    "self_attn.q_proj": Q, "self_attn.k_proj": K, "self_attn.v_proj": K, "self_attn.o_proj": Q,
    "mlp.gate_proj": UP, "mlp.up_proj": UP, "mlp.down_proj": DOWN,
}  # fmt: skip
ALPHAS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
# ‖ΔW‖/‖W‖ of the random update. The blend signal ‖D‖/‖W‖ is then 1e-5 to 1e-4, as for RL.
RELATIVE_UPDATE = 3e-3


def make_pair(
    folder: Path,
    layers: int,
    shapes: tuple[tuple[int, int], ...] | None = None,
    layer: Mapping[str, tuple[int, int]] = MappingProxyType(LAYER),
) -> None:
    """Write before, with power-law spectra, and after, which is before plus a Gaussian update.

    A layer has the matrices of `layer`, or those of them that have one of `shapes`.

    Each layer has its own file, so that this process holds one layer in memory at a time.
    """
    import torch
    from safetensors.torch import save_file

    index: dict[str, str] = {}
    for role in ("before", "after"):
        (folder / role).mkdir(parents=True)
    for place in range(layers):
        file = f"model-{place + 1:05d}-of-{layers:05d}.safetensors"
        tensors: dict[str, dict[str, torch.Tensor]] = {"before": {}, "after": {}}
        for number, (module, (m, n)) in enumerate(layer.items()):
            if shapes is not None and (m, n) not in shapes:
                continue
            name = f"model.layers.{place}.{module}.weight"
            generator = torch.Generator().manual_seed(100 * place + number)
            scale_N = torch.arange(1, n + 1, dtype=torch.float32) ** -0.3
            w_MN = torch.randn(m, n, generator=generator) * scale_N * 0.05
            e_MN = torch.randn(m, n, generator=generator)
            tensors["before"][name] = w_MN
            tensors["after"][name] = w_MN + e_MN * (RELATIVE_UPDATE * w_MN.norm() / e_MN.norm())
            index[name] = file
        for role, content in tensors.items():
            save_file(content, folder / role / file, metadata={"format": "pt"})
    for role in ("before", "after"):
        config = {"architectures": ["Qwen2ForCausalLM"], "vocab_size": 1}
        (folder / role / "config.json").write_text(json.dumps(config))
        document = {"metadata": {}, "weight_map": index}
        (folder / role / "model.safetensors.index.json").write_text(json.dumps(document))


def run_svdjobs(folder: Path, alphas: list[float], first_only: bool) -> None:
    """Run plan, decompose and blend of svdjobs, with all checks and manifests."""
    from svdjobs.config_file import parse_config
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
    """Run the usual procedure: load both models, then two float32 SVDs per tensor and alpha."""
    import torch
    from safetensors.torch import load_file, save_file

    def load(role: str) -> dict[str, torch.Tensor]:
        """Load a model into memory like from_pretrained; load_file alone would map the files."""
        files = sorted((folder / role).glob("*.safetensors"))
        return {n: w.clone() for file in files for n, w in load_file(file).items()}

    before, after = load("before"), load("after")
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
    # Import everything before the clock starts: start-up is not measured.
    import numpy as np
    import safetensors.torch  # noqa: F401
    import scipy.linalg  # noqa: F401
    import torch

    if which == "svdjobs":
        import threadpoolctl  # noqa: F401

        import svdjobs.stages.blend
        import svdjobs.stages.plan  # noqa: F401

    torch.linalg.svdvals(torch.eye(64) @ torch.eye(64)), np.linalg.eigvalsh(np.eye(64))
    started = time.perf_counter()
    {"svdjobs": run_svdjobs, "usual": run_usual}[which](folder, alphas, first_only)
    print(json.dumps({"seconds": time.perf_counter() - started}))


def measure(
    which: str, folder: Path, alphas: tuple[float, ...], *, first_only: bool = False
) -> Any:
    """Run a procedure in its own process; return its seconds and its peak memory.

    The memory is that of the process and its children, sampled ten times per second.
    """
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.sweep",
        "--child",
        which,
        str(folder),
        json.dumps(alphas),
        *(["--first-only"] if first_only else []),
    ]
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
    """The ids of a process and its descendants."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child_pid in path.read_text().split():
                found += family(int(child_pid))
    return found


def resident_bytes(pid: int) -> int:
    """Proportional set size of a process, in which processes divide shared pages; 0 if it has
    ended."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def signal_errors(folder: Path, name: str) -> dict[str, float]:
    """The relative error of W(0) − W_after of one stored matrix, by procedure.

    The reference is D from two float64 SVDs.
    """
    import torch
    from safetensors import safe_open

    def read(path: Path) -> torch.Tensor:
        with safe_open(path, "pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
        return tensor.double()

    first = f"model-00001-of-{TIMED_LAYERS:05d}.safetensors"
    after = read(folder / "after" / first)
    s_before = torch.linalg.svdvals(read(folder / "before" / first))
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
    """The time of 4mn²+6k³ operations, the least for a pair of decompositions, at this machine's
    float64 matrix-product rate."""
    from svdjobs.runs.cost import measured_flops_per_second

    n = min(shape)
    return (4 * max(shape) * n**2 + 6 * n**3) / measured_flops_per_second(1536)


def time_shapes(root: Path) -> list[dict[str, Any]]:
    """Time both procedures on all matrices of two layers at every alpha, shape by shape."""
    rows = []
    for shape in NAMES:
        folder = root / f"{shape[0]}x{shape[1]}"
        modules = [module for module, found in LAYER.items() if found == shape]
        make_pair(folder, TIMED_LAYERS, (shape,))
        click.echo(f"{shape[0]}×{shape[1]} …", err=True)
        ours, usual = measure("svdjobs", folder, ALPHAS), measure("usual", folder, ALPHAS)
        count = TIMED_LAYERS * len(modules)
        rows.append(
            {
                "shape": list(shape),
                "matrices": count,
                "svdjobs_seconds": ours["seconds"],
                "usual_seconds": usual["seconds"],
                "ratio": usual["seconds"] / ours["seconds"],
                "floor_seconds": count * floor_seconds(shape),
                "errors": signal_errors(folder, f"model.layers.0.{modules[0]}.weight"),
            }
        )
        shutil.rmtree(folder)
    return rows


def measure_memory(root: Path, layers: int, usual_layers: int) -> dict[str, Any]:
    """Measure the peak memory of both on `usual_layers` layers, and of svdjobs on `layers`."""
    click.echo(f"memory on {usual_layers} layers …", err=True)
    make_pair(root / "some", usual_layers)
    usual = measure("usual", root / "some", (0.0,), first_only=True)
    ours = measure("svdjobs", root / "some", (0.0,))
    shutil.rmtree(root / "some")
    found = {
        "usual_layers": usual_layers,
        "usual_bytes": usual["peak_bytes"],
        "svdjobs_bytes": ours["peak_bytes"],
        "ratio": usual["peak_bytes"] / ours["peak_bytes"],
    }
    if layers > usual_layers:
        click.echo(f"memory on {layers} layers …", err=True)
        make_pair(root / "all", layers)
        ours = measure("svdjobs", root / "all", (0.0,))
        found |= {
            "layers": layers,
            "svdjobs_bytes_all": ours["peak_bytes"],
            "svdjobs_seconds_all": ours["seconds"],
        }
    return found


def show(document: dict[str, Any]) -> str:
    """The comparison as a text table."""
    rows, memory, overall = document["shapes"], document["memory"], document["overall"]
    lines = [
        f"{document['machine']}; {len(ALPHAS)} alphas, matrices of {TIMED_LAYERS} layers, files to "
        "files",
        "",
        f"{'matrices':<12}{'shape':>11}{'usual':>10}{'svdjobs':>10}{'faster':>9}{'× floor':>9}"
        f"{'signal':>10}{'usual err':>11}{'our err':>10}",
    ]
    for row in rows:
        shape = tuple(row["shape"])
        times = f"{row['usual_seconds']:>8.1f} s{row['svdjobs_seconds']:>8.2f} s"
        lines.append(
            f"{row['matrices']} {NAMES[shape]:<10}{f'{shape[0]}×{shape[1]}':>11}{times}"
            f"{row['ratio']:>8.1f}×{row['svdjobs_seconds'] / row['floor_seconds']:>9.1f}"
            f"{row['errors']['signal']:>10.1e}"
            f"{100 * row['errors']['usual']:>9.2f} %{100 * row['errors']['svdjobs']:>8.3f} %"
        )
    lines += [
        "",
        f"all: usual {overall['usual_seconds']:.1f} s, svdjobs {overall['svdjobs_seconds']:.2f} s: "
        f"{overall['ratio']:.1f}× faster; signal error {overall['error_ratio']:.0f}× smaller",
        f"peak memory on {memory['usual_layers']} layers: usual {gib(memory['usual_bytes'])} (grows"
        f" with the model), svdjobs {gib(memory['svdjobs_bytes'])}: {memory['ratio']:.1f}× less",
    ]
    if "layers" in memory:
        lines.append(
            f"svdjobs on {memory['layers']} layers: {gib(memory['svdjobs_bytes_all'])}, one alpha "
            f"in {memory['svdjobs_seconds_all']:.0f} s"
        )
    lines.append(
        "faster: usual/svdjobs. × floor: svdjobs over (4mn²+6k³)/float64 product rate. err: of the "
        "stored W(0)−W_after."
    )
    return "\n".join(lines)


def gib(count: float) -> str:
    """A number of bytes as text in GiB."""
    return f"{count / 2**30:.2f} GiB"


def summarise(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The total times, and the ratio of the mean errors over matrices."""
    usual = sum(row["usual_seconds"] for row in rows)
    ours = sum(row["svdjobs_seconds"] for row in rows)
    errors = {
        which: sum(row["errors"][which] * row["matrices"] for row in rows)
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
@click.option("--layers", default=28, help="Layers svdjobs' memory is measured on.")
@click.option("--usual-layers", default=12, help="Layers both are compared on; grows with them.")
@click.argument("arguments", nargs=-1)
def main(
    child_of: str | None,
    first_only: bool,
    layers: int,
    usual_layers: int,
    arguments: tuple[str, ...],
) -> None:
    """Print the comparison and write it to runs/bench.json."""
    if child_of:
        child(child_of, Path(arguments[0]), json.loads(arguments[1]), first_only)
        return
    from svdjobs.provenance import hardware, versions

    with tempfile.TemporaryDirectory() as folder:
        rows = time_shapes(Path(folder))
        memory = measure_memory(Path(folder), layers, usual_layers)
    overall = summarise(rows)
    document = {
        "machine": hardware(),
        "versions": versions(),
        "alphas": ALPHAS,
        "shapes": rows,
        "overall": overall,
        "memory": memory,
    }
    click.echo(show(document))
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench.json").write_text(json.dumps(document, indent=2) + os.linesep)


if __name__ == "__main__":
    main()
