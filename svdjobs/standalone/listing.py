"""Finds the runs below a URL, and says what each has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from svdjobs.config import SweepConfig
from svdjobs.errors import ConfigError, SvdjobsError
from svdjobs.escape import line, shortened
from svdjobs.evaluation import wanted
from svdjobs.reporting.data import Table
from svdjobs.reporting.text import plain_table
from svdjobs.runs.layout import PLAN_PREFIX
from svdjobs.runs.outputs import MANIFEST, RUN_CONFIG
from svdjobs.runs.presence import presences
from svdjobs.runs.stored_config import stored_config
from svdjobs.stages import gate, report
from svdjobs.standalone.status import iso, time_text
from svdjobs.storage.open import open_store
from svdjobs.storage.store import Listing, Store

DEPTH = 3
"""Levels of folders to look into: `team/project/run` is found, deeper runs are not."""
_REQUESTS = 16
WEIGHTS = (".safetensors", ".bin", ".pt", ".gguf")


class Outputs(NamedTuple):
    """The outputs of a run, as their manifests say."""

    config: SweepConfig
    finished: int
    wanted: int
    written: datetime | None
    """When the last file of an output was written."""
    report: bool


class Place(NamedTuple):
    """A folder below a URL: a run, or something else."""

    path: str
    """Relative to the URL; `.` for the URL itself."""
    url: str
    outputs: Outputs | None
    """None if it is no run, or a broken one."""
    words: str
    """What it is, if it is no run or not a whole one."""
    is_run: bool


def find(url: str) -> list[Place]:
    """The runs below a URL, or the one that it is, and the folders in which there is none.

    Raises:
        ConfigError: nothing is there.
    """
    store = open_store(url)
    folders = _folders(store)
    root = folders[""]
    if isinstance(root.listing, SvdjobsError):
        raise root.listing
    if not root.listing.folders and not root.listing.files:
        raise ConfigError(f"there is nothing in {store.url}. Give the folder of your runs.")
    if root.may_be_a_run:
        return [_run(store, ".")]
    return [place for name in root.leads_on for place in _below(store, name, folders)]


class _Folder(NamedTuple):
    """A folder that has been looked into."""

    listing: Listing | SvdjobsError
    may_be_a_run: bool
    """Whether it is a run, or what is left of one; only its config and manifest say."""

    @property
    def leads_on(self) -> list[str]:
        """The folders in it in which there may be runs."""
        if self.may_be_a_run or isinstance(self.listing, SvdjobsError):
            return []
        return [] if _has_weights(self.listing) else self.listing.folders


def _folders(store: Store) -> dict[str, _Folder]:
    """Every folder down to `DEPTH` by its prefix, but for folders in runs and checkpoints."""
    found: dict[str, _Folder] = {}
    level = [""]
    with ThreadPoolExecutor(_REQUESTS) as pool:
        for _ in range(DEPTH + 1):
            here = dict(zip(level, pool.map(partial(_look, store), level), strict=True))
            found |= here
            level = [
                f"{prefix}/{name}".lstrip("/")
                for prefix, folder in here.items()
                for name in folder.leads_on
            ]
    return found


def _look(store: Store, prefix: str) -> _Folder:
    try:
        listing = store.listing(prefix)
        # A run may be called `plan`: the folder of that name alone says nothing.
        manifest = f"{prefix}/{PLAN_PREFIX}/{MANIFEST}".lstrip("/")
        may_be_a_run = (RUN_CONFIG in listing.files and not _has_weights(listing)) or (
            PLAN_PREFIX in listing.folders and store.exists(manifest)
        )
    except SvdjobsError as error:
        return _Folder(error, may_be_a_run=False)
    return _Folder(listing, may_be_a_run)


def _has_weights(listing: Listing) -> bool:
    return any(name.endswith(WEIGHTS) for name in listing.files)


def _below(store: Store, prefix: str, folders: Mapping[str, _Folder]) -> list[Place]:
    """The runs in a folder; if there are none, the folder."""
    folder, url = folders[prefix], f"{store.url}/{prefix}"
    if isinstance(folder.listing, SvdjobsError):
        words = f"not listed: {_said(folder.listing, store)}"
        return [Place(prefix, url, None, words, is_run=False)]
    if folder.may_be_a_run:
        return [_run(open_store(url), prefix)]
    inside = [
        place
        for name in folder.leads_on
        if f"{prefix}/{name}" in folders
        for place in _below(store, f"{prefix}/{name}", folders)
    ]
    if any(place.is_run for place in inside):
        return inside
    listing = folder.listing
    if _has_weights(listing):
        words = "weights, no run"
    elif names := [*listing.files, *(f"{name}/" for name in listing.folders)]:
        words = f"no run: holds {names[0]}"
    else:
        words = "empty"
    return [Place(prefix, url, None, words, is_run=False)]


def _run(store: Store, path: str) -> Place:
    """A folder that may be a run, and what it has."""
    planned = False
    try:
        planned = store.exists(f"{PLAN_PREFIX}/{MANIFEST}")
        outputs = _outputs(store, stored_config(store))
    except SvdjobsError as error:
        words = f"{'damaged' if planned else 'no run'}: {_said(error, store)}"
        return Place(path, store.url, None, words, is_run=planned)
    return Place(path, store.url, outputs, "" if planned else "no plan", is_run=True)


def _said(error: SvdjobsError, store: Store) -> str:
    """An error in one line, without the URL, which stands beside it."""
    said = " ".join(str(error).split()).removeprefix(store.url)
    return shortened(said.lstrip("/: "), 160)


def _outputs(store: Store, config: SweepConfig) -> Outputs:
    """Which outputs have a manifest; one request for each. Weights and logs are not listed."""
    prefixes = [prefix for some in wanted.prefixes(config).values() for prefix in some]
    seen = presences(store, [*prefixes, report.PREFIX, *([gate.PREFIX] if config.gate else ())])
    return Outputs(
        config,
        sum(one.finished for one in seen.values()),
        len(seen),
        max((one.written for one in seen.values() if one.written), default=None),
        seen[report.PREFIX].finished,
    )


def words(places: list[Place]) -> Iterator[str]:
    """The runs in a table of at most 100 columns, with long names shortened; then what is no run,
    or a broken one."""
    rows = [
        [
            shortened(line(place.path), 22),
            shortened(config.name, 13),
            shortened(line(f"{_name(config.before)} → {_name(config.after)}"), 25),
            f"{finished}/{count}",
            time_text(written),
            place.words or ("yes" if has_report else "no"),
        ]
        for place in places
        if place.outputs
        for config, finished, count, written, has_report in [place.outputs]
    ]
    header = ["run", "sweep", "before → after", "outputs", "written (UTC)", "report"]
    if rows:
        yield from plain_table(Table("runs", "", "", header, rows)).splitlines()
    others = [place for place in places if place.outputs is None]
    if others or not rows:
        yield "" if rows else "There is no run."
        yield from (f"{place.path}: {place.words}" for place in others)


def _name(source: str) -> str:
    return source.rstrip("/").rpartition("/")[2]


def document(url: str, places: list[Place]) -> dict[str, Any]:
    """The runs for scripts."""
    return {"store": url, "places": [_json(place) for place in places]}


def _json(place: Place) -> dict[str, Any]:
    found = {"path": place.path, "url": place.url, "run": place.is_run, "words": place.words}
    if place.outputs is None:
        return found
    config, finished, count, written, has_report = place.outputs
    return {
        **found,
        "name": config.name,
        "before": config.before,
        "after": config.after,
        "finished": finished,
        "wanted": count,
        "written": iso(written),
        "report": has_report,
    }
