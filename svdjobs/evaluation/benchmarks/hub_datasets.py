"""Rows of a data set on the hub, from the hub or from its offline caches.

Two caches count: the files the hub client keeps (`HF_HUB_CACHE`, one snapshot per commit) and the
tables `datasets` makes of them (`HF_DATASETS_CACHE`). Without a network `datasets` takes the newest
table it has, whatever revision was asked for, so what it found is compared with what was asked.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from svdjobs.benchmarks import near
from svdjobs.errors import BenchmarkError, StorageError, UnavailableError, first_line

if TYPE_CHECKING:
    from svdjobs.config import BenchmarkConfig

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubRows(NamedTuple):
    """Rows, and the commit they are from."""

    rows: list[dict[str, Any]]
    revision: str | None


class _NotCached(Exception):  # noqa: N818 - a reason to look elsewhere, not an error
    """A cache does not hold what was asked for."""


def read_hub(config: BenchmarkConfig) -> HubRows:
    """Rows of `config.data`, at most `config.limit` of them.

    Raises:
        BenchmarkError: the hub has no such set, revision, subset or split, or its files are no
            table.
        StorageError: the hub is not to be reached and the caches do not hold it.
        UnavailableError: it does not answer for now.
    """
    import datasets

    datasets.utils.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    # What a commit holds cannot have changed, so its snapshot is taken without asking the hub.
    ways: list[Callable[[BenchmarkConfig], HubRows]] = [_from_library, _from_snapshot]
    reasons: list[Exception] = []
    for way in reversed(ways) if _COMMIT.fullmatch(config.revision or "") else ways:
        try:
            return way(config)
        except _NotCached as error:
            reasons.append(error)
        except Exception as error:  # the HTTP clients' own exceptions changed between releases
            reasons.append(error)
            if way is _from_library and _is_about_the_set(error):
                break  # the hub's own word; an older copy in the cache does not change it
    for reason in reasons:
        if _is_about_the_set(reason):
            raise BenchmarkError(_no_such_set(config, reason))
    from huggingface_hub import constants

    # Asked to stay offline, it will not be reached later either.
    offline = constants.HF_HUB_OFFLINE or datasets.config.HF_HUB_OFFLINE
    kind = StorageError if offline else UnavailableError
    raise kind(_unreachable(config, reasons))


def _from_library(config: BenchmarkConfig) -> HubRows:
    """Load by hub id; `datasets` uses its own cache where it can."""
    from datasets import load_dataset_builder

    builder: Any = load_dataset_builder(config.data, config.subset, revision=config.revision)
    from_cache = type(builder).__name__ == "Cache"
    if from_cache and config.revision not in (None, builder.hash):
        raise _NotCached(f"the cached table is of revision {builder.hash}")
    builder.download_and_prepare()
    return HubRows(_rows(builder, config), builder.hash)


def _from_snapshot(config: BenchmarkConfig) -> HubRows:
    """Load from the files of a snapshot in the hub client's cache."""
    from datasets import load_dataset_builder

    folder = _snapshot(config.data, config.revision or "main")
    # Its table goes to a folder of its own: the cache may be read-only, and `datasets` would take
    # an older table of the same folder for this one.
    with tempfile.TemporaryDirectory() as scratch:
        builder: Any = load_dataset_builder(str(folder), config.subset, cache_dir=scratch)
        builder.download_and_prepare()
        return HubRows(_rows(builder, config), folder.name)


def _snapshot(repository: str, revision: str) -> Path:
    """Folder of a cached snapshot; the hub does not tell upper from lower case, so neither do we.

    The layout (refs/<name> holds a commit, snapshots/<commit> the files) is documented by
    huggingface_hub ("Understand caching").
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    wanted = repo_folder_name(repo_id=repository, repo_type="dataset").casefold()
    cache = Path(constants.HF_HUB_CACHE)
    for folder in sorted(cache.iterdir()) if cache.is_dir() else []:
        if folder.name.casefold() != wanted:
            continue
        ref = folder / "refs" / revision
        commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else revision
        snapshot = folder / "snapshots" / commit
        # A README alone is left behind by an interrupted download.
        if any(p.is_file() and p.name not in (".gitattributes", "README.md")
               for p in snapshot.rglob("*")):  # fmt: skip
            return snapshot
    raise _NotCached("the cache holds no such snapshot")


def _rows(builder: Any, config: BenchmarkConfig) -> list[dict[str, Any]]:
    """Rows of the split that was asked for."""
    splits = sorted(builder.info.splits or {})
    if config.split.isidentifier() and config.split not in splits:
        raise ValueError(f"no split {config.split!r}; it has {', '.join(splits)}. Set `split`.")
    table = builder.as_dataset(split=config.split)
    if config.limit is not None:
        table = table.select(range(min(config.limit, len(table))))
    rows: list[dict[str, Any]] = table.to_list()
    return rows


def _is_about_the_set(error: Exception) -> bool:
    """Whether the data set is at fault, rather than the way to it."""
    from datasets.exceptions import DatasetGenerationError, DatasetsError

    if isinstance(error, DatasetGenerationError) and isinstance(error.__cause__, OSError):
        return False  # a full disk
    return isinstance(error, (DatasetsError, ValueError, RuntimeError))


def _no_such_set(config: BenchmarkConfig, error: Exception) -> str:
    reason = " ".join(str(error).split())
    if "Config name is missing" in reason:
        reason += " Set `subset`."
    return f"benchmark {config.name}: {config.data}: {reason} {near(config.data)}".rstrip()


def _unreachable(config: BenchmarkConfig, reasons: list[Exception]) -> str:
    at = f" at revision {config.revision}" if config.revision else ""
    said = "; ".join(dict.fromkeys(first_line(reason) for reason in reasons))
    return (
        f"benchmark {config.name}: no file {config.data}, and the hub data set {config.data}{at} "
        f"could not be loaded ({said}). Give a local JSONL or Parquet file as `data`, or load it "
        f"once with a network (HF_HUB_OFFLINE and HF_DATASETS_OFFLINE unset); afterwards the "
        f"cache (HF_HOME) is enough. {near(config.data)}"
    ).rstrip()
