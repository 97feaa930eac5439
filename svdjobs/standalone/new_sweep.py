"""Writes a commented sweep, for a user to go on from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from svdjobs.config import SweepConfig
from svdjobs.config_file import read_config
from svdjobs.config_schema import COMMENT, sweep_schema
from svdjobs.errors import ConfigError
from svdjobs.settings import keys

SCHEMA = "sweep.schema.json"
COMMENTED = {
    "evaluate": ("temperature", "max_tokens", "seed", "engine", "dtype", "sampled", "read"),
    "blend": ("storage_dtype", "write_checkpoints"),
    "selection": ("include", "exclude", "embeddings"),
}
"""Keys that the file shows with their defaults, by section."""


class Answers(NamedTuple):
    """What a user says of a sweep."""

    name: str
    before: str
    after: str
    benchmarks: Sequence[str]
    """Names that svdjobs knows, or files; none: no evaluation."""
    between: str = ""
    """A checkpoint between the two, for the rotation of the chain."""


def write(path: Path, answers: Answers, *, force: bool = False) -> SweepConfig:
    """Write the sweep, and its schema beside it; return what it says.

    Raises:
        ConfigError: the file exists, or an answer is wrong.
    """
    if path.exists() and not force:
        raise ConfigError(f"{path} exists. Give another name, or --force to replace it.")
    text = "\n".join(_lines(answers)) + "\n"
    config = read_config(text, where=str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / SCHEMA).write_text(json.dumps(sweep_schema(), indent=1) + "\n", "utf-8")
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error}") from None
    return config


def _lines(answers: Answers) -> Iterator[str]:
    yield f"{COMMENT}{SCHEMA}"
    yield "# Lines that are commented out show defaults. `svdjobs keys SECTION` explains every key."
    yield f"name: {json.dumps(answers.name)}"
    yield f"before: {json.dumps(answers.before)}"
    yield f"after: {json.dumps(answers.after)}"
    yield f"# store: runs/{answers.name}  # or s3://bucket/prefix"
    yield ""
    yield "# The share of after's singular values; at 0 a blend has before's. Those between cost"
    yield "# little: every alpha reads after's answers, and only alpha = 0 draws its own."
    yield "alphas: {from: 0, to: 1, step: 0.1}"
    yield ""
    if answers.benchmarks:
        yield "evaluate:"
        yield "  benchmarks:"
        yield from (f"    - {_benchmark(one)}" for one in answers.benchmarks)
        yield "  n_samples: 4  # completions of each problem"
        yield from _commented("evaluate")
        yield ""
        yield "map: {}  # what each layer and module carries; null for none"
    else:
        yield "# evaluate: {benchmarks: [math-500], n_samples: 4}"
    yield "metrics: {}  # how every matrix changed, beside random updates; null for none"
    if answers.between:
        yield f"rotations: {{rl1: {json.dumps(answers.between)}}}"
    else:
        yield "# rotations: {rl1: CHECKPOINT}  # a checkpoint between before and after"
    for section in ("blend", "selection"):
        yield ""
        yield f"# {section}:"
        yield from (line.replace("  # ", "#   ", 1) for line in _commented(section))


def _benchmark(given: str) -> str:
    """The entry of a benchmark: its name, or its name and file."""
    file = Path(given)
    if file.suffix in (".jsonl", ".json", ".parquet"):
        return f"{{name: {json.dumps(file.stem)}, data: {json.dumps(given)}}}"
    return json.dumps(given)


def _commented(section: str) -> Iterator[str]:
    """Keys of a section with their defaults, and the first sentence about each."""
    found = {key.name: key for key in keys(SweepConfig)}
    for name in COMMENTED[section]:
        key = found[f"{section}.{name}"]
        about = key.meaning.split(". ")[0].rstrip(".")
        yield f"  # {name}: {key.default.removeprefix(' = ')}  # {about}"
