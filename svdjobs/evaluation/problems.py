"""Benchmarks: problems with reference answers, from a JSONL file or a hub data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from svdjobs.config import BenchmarkConfig, canonical_json
from svdjobs.errors import BenchmarkError, StorageError
from svdjobs.records import Problem


class Benchmark(NamedTuple):
    """A loaded benchmark."""

    name: str
    problems: list[Problem]
    sha256: str
    """Of the problems and golds, so that the same content is recognised wherever it came from."""


def load_benchmark(config: BenchmarkConfig) -> Benchmark:
    """Load and check a benchmark.

    Raises:
        BenchmarkError: missing, empty, malformed, a field that is not there, a problem given twice.
        StorageError: a hub data set that cannot be reached and is not in the cache.
    """
    local = Path(config.data).expanduser()
    if local.suffix in (".jsonl", ".json") or local.exists():
        rows: Iterable[Mapping[str, Any]] = _read_jsonl(local)
    else:
        rows = _read_hub(config)
    problems: list[Problem] = []
    for row in rows:
        if config.limit is not None and len(problems) >= config.limit:
            break
        problems.append(_problem(config, row, len(problems)))
    if not problems:
        raise BenchmarkError(f"benchmark {config.name}: {config.data} holds no problem.")
    _refuse_duplicates(config, problems)
    digest = hashlib.sha256(canonical_json([[p.problem, p.gold] for p in problems])).hexdigest()
    return Benchmark(config.name, problems, digest)


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise BenchmarkError(f"benchmark file {path}: {reason}.") from None
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise BenchmarkError(f"{path} line {number}: not JSON ({error}).") from None
        if not isinstance(row, dict):
            raise BenchmarkError(f"{path} line {number}: expected an object, found {line:.60}")
        rows.append(row)
    return rows


def _read_hub(config: BenchmarkConfig) -> Iterable[Mapping[str, Any]]:
    import httpx
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        rows: Iterable[Mapping[str, Any]] = load_dataset(
            config.data, split=config.split, revision=config.revision
        )
        return rows
    except ValueError as error:
        raise BenchmarkError(f"benchmark {config.name}: {config.data}: {error}") from None
    except (ConnectionError, DatasetNotFoundError, HfHubHTTPError, httpx.HTTPError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StorageError(
            f"benchmark {config.name}: no file {config.data}, and the hub data set could not be "
            f"loaded ({reason}). Give a local JSONL file, or try again with a network."
        ) from None


def _problem(config: BenchmarkConfig, row: Mapping[str, Any], idx: int) -> Problem:
    for field in (config.problem_field, config.answer_field):
        if field not in row:
            raise BenchmarkError(
                f"benchmark {config.name}, row {idx + 1}: no field {field!r}; it has "
                f"{', '.join(sorted(row))}. Set problem_field and answer_field."
            )
    text, gold = row[config.problem_field], row[config.answer_field]
    if not isinstance(text, str) or not text.strip():
        raise BenchmarkError(
            f"benchmark {config.name}, row {idx + 1}: field {config.problem_field!r} is not text."
        )
    if isinstance(gold, float) and gold.is_integer():
        gold = int(gold)  # some sets store 27 as 27.0
    if gold is None or not str(gold).strip():
        raise BenchmarkError(
            f"benchmark {config.name}, row {idx + 1}: field {config.answer_field!r} is empty."
        )
    return Problem(idx=idx, problem=text.strip(), gold=str(gold).strip())


def _refuse_duplicates(config: BenchmarkConfig, problems: list[Problem]) -> None:
    seen: dict[str, int] = {}
    for problem in problems:
        if problem.problem in seen:
            raise BenchmarkError(
                f"benchmark {config.name}: rows {seen[problem.problem] + 1} and {problem.idx + 1} "
                f"are the same problem; it would be counted twice."
            )
        seen[problem.problem] = problem.idx
