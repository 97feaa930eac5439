"""Train the demo checkpoints: `python -m svdjobs.demo.train [--output DIR] [--seed N]`.

Three phases follow each other: imitation (base), reinforcement learning (rl1), and more of it
(rl2). Then the accuracy on the held-out problems is measured. The same seed on the same machine
gives the same bytes. The number of threads is fixed, because it affects the order of float32 sums.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from svdjobs.demo import HELDOUT
from svdjobs.demo.problems import SLIP_SHARE, held_out_problems

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

N_HELD_OUT: Final = 200
N_COMPLETIONS: Final = 8
"""Completions per held-out problem for the accuracies in `measured.json`."""

N_THREADS: Final = 2

N_RL1_UPDATES: Final = 30
N_RL2_UPDATES: Final = 90

_MADE_BY: Final = {
    "base": f"imitating worked answers of which {SLIP_SHARE:.0%} contain a deliberate slip",
    "rl1": f"{N_RL1_UPDATES} updates of policy-gradient RL (GRPO, on-policy, no KL) from base",
    "rl2": f"{N_RL2_UPDATES} more updates of the same RL from rl1",
}

Weights = Mapping[str, "torch.Tensor"]


@click.command(
    help="Train base, rl1 and rl2 from random weights and measure them (about 8 minutes)."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=HELDOUT.parent,
    help="Folder for checkpoints/, heldout.jsonl and measured.json.  [default: the package]",
)
@click.option("--seed", type=int, default=0, show_default=True)
def main(output: Path, seed: int) -> None:
    """Run all phases; if one is interrupted, the checkpoints of the finished ones stay."""
    from svdjobs.demo.learning import ReinforceSettings, SupervisedSettings

    try:
        train(
            output,
            SupervisedSettings(seed=seed),
            {
                "rl1": ReinforceSettings(seed=seed + 1, n_updates=N_RL1_UPDATES),
                "rl2": ReinforceSettings(seed=seed + 2, n_updates=N_RL2_UPDATES),
            },
        )
    except KeyboardInterrupt:
        raise click.ClickException(
            f"interrupted; {output} holds the checkpoints of the finished phases, the others are "
            f"unchanged"
        ) from None


def train(
    output: Path,
    supervised: Any,
    reinforced: Mapping[str, Any],
    *,
    n_held_out: int = N_HELD_OUT,
    n_completions: int = N_COMPLETIONS,
) -> dict[str, Any]:
    """Run all phases and the measurement; return the content of `measured.json`.

    `supervised` is a `learning.SupervisedSettings`. `reinforced` maps the names of the later
    checkpoints, in order, to their `learning.ReinforceSettings`.
    """
    import torch

    from svdjobs.demo.learning import train_reinforced, train_supervised
    from svdjobs.demo.model import build_model
    from svdjobs.demo.tokenizer import build_tokenizer

    torch.set_num_threads(N_THREADS)
    write_held_out(output / "heldout.jsonl", n_held_out)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, supervised.seed)
    seconds: dict[str, float] = {}
    weights: dict[str, Weights] = {}
    for name in ("base", *reinforced):
        started = time.monotonic()
        if name == "base":
            report = _reporter(name, "loss", supervised.n_updates)
            train_supervised(model, tokenizer, supervised, report)
        else:
            report = _reporter(name, "reward", reinforced[name].n_updates)
            train_reinforced(model, tokenizer, reinforced[name], report)
        seconds[name] = round(time.monotonic() - started, 1)
        weights[name] = {key: value.clone() for key, value in model.state_dict().items()}
        write_checkpoint(model, tokenizer, output / "checkpoints" / name)
    return _measure(output, model, tokenizer, weights, seconds, n_completions)


def write_held_out(path: Path, n_problems: int) -> None:
    """Write the demo benchmark: one JSON object with `problem` and `answer` per line."""
    rows = [
        json.dumps({"problem": problem.text, "answer": problem.gold})
        for problem in held_out_problems(n_problems)
    ]
    _write_text(path, "\n".join(rows) + "\n")


def read_held_out(path: Path) -> list[tuple[str, str]]:
    """Read (problem, gold) from every line of the demo benchmark."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["problem"], row["answer"]) for row in rows]


def write_checkpoint(model: "Qwen2ForCausalLM", tokenizer: "Qwen2Tokenizer", folder: Path) -> None:
    """Write a checkpoint beside `folder` and rename it: `folder` never holds an incomplete one."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    written = folder.with_name(f".{folder.name}.written")
    shutil.rmtree(written, ignore_errors=True)
    model.save_pretrained(written)
    tokenizer.save_pretrained(written)
    (written / "README.md").write_text(_card(folder.name), encoding="utf-8")
    for path in written.iterdir():
        path.chmod(0o644)  # safetensors writes 0600, which other users cannot read
    shutil.rmtree(folder, ignore_errors=True)
    written.rename(folder)


def _measure(
    output: Path,
    model: "Qwen2ForCausalLM",
    tokenizer: "Qwen2Tokenizer",
    weights: Mapping[str, Weights],
    seconds: Mapping[str, float],
    n_completions: int,
) -> dict[str, Any]:
    import torch
    import transformers

    from svdjobs.demo.measure import measure_accuracy, relative_change

    started = time.monotonic()
    problems = read_held_out(output / "heldout.jsonl")
    accuracy = {}
    for name, state in weights.items():
        model.load_state_dict(state)
        # Every checkpoint gets the same seed, so differences between checkpoints are paired.
        accuracy[name] = measure_accuracy(model, tokenizer, problems, n_completions, seed=0)
        click.echo(f"{name}: held-out accuracy {accuracy[name]['mean']:.3f}")
    names = list(weights)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    measured = {
        "temperature": 1.0,
        "accuracy": accuracy,
        "relative_weight_change": {
            f"{a} -> {b}": float(f"{relative_change(weights[a], weights[b]):.4g}") for a, b in pairs
        },
        "n_weights": sum(weight.numel() for weight in model.parameters()),
        "seconds": {**seconds, "measure": round(time.monotonic() - started, 1)},
        "n_threads": N_THREADS,
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    _write_text(output / "measured.json", json.dumps(measured, indent=2) + "\n")
    return measured


def _reporter(name: str, quantity: str, n_updates: int) -> Callable[[int, float], None]:
    """A function that prints about twenty lines per phase, with the time left at the mean rate."""
    started = time.monotonic()
    every = max(n_updates // 20, 1)

    def report(update: int, value: float) -> None:
        done = update + 1
        if done % every == 0 or done == n_updates:
            left_seconds = (time.monotonic() - started) / done * (n_updates - done)
            click.echo(
                f"{name} {done}/{n_updates} {quantity} {value:.3f}, {left_seconds:.0f} s left"
            )

    return report


def _card(name: str) -> str:
    return (
        f"# svdjobs demo checkpoint: {name}\n\n"
        "A small Qwen2 transformer that does short arithmetic, for demonstrations and tests.\n"
        f"Made by {_MADE_BY.get(name, 'training on the demo problems')}.\n"
        "`python -m svdjobs.demo.train` makes it again; numbers are in `measured.json`.\n"
    )


def _write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_name(f".{path.name}.written")
    written.write_text(text, encoding="utf-8")
    written.replace(path)


if __name__ == "__main__":
    main()
