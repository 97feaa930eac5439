"""Opens and hashes each checkpoint of a sweep's config once."""

from __future__ import annotations

from svdjobs.checkpoint.identity import companions_digest, identity, must_be_downloaded
from svdjobs.checkpoint.matrices import Matrices, matrices
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.sources import hub_parts, is_hub_id, open_checkpoint, open_headers
from svdjobs.config import SweepConfig
from svdjobs.runs import layout
from svdjobs.runs.outputs import MANIFEST
from svdjobs.storage.open import open_store
from svdjobs.storage.store import Store


def checkpoint_sources(config: SweepConfig) -> list[str]:
    """The checkpoints of a config, each once."""
    sources = [target.source for target in layout.targets(config)]
    return list(dict.fromkeys([*sources, *config.checkpoints.values()]))


def hub_sources(config: SweepConfig) -> list[str]:
    """The checkpoints of a config that are on the hub; of `BASE + ADAPTER`, each of the two."""
    parts = (part for source in checkpoint_sources(config) for part in hub_parts(source))
    return list(dict.fromkeys(parts))


def fetched_store(config: SweepConfig, source: str) -> Store:
    """The folder of the run's store for the copy of a hub checkpoint."""
    return open_store(f"{config.store_url}/{layout.fetched_prefix(source)}")


class RunCheckpoints:
    """Opens checkpoints by the source in the config, and keeps them open.

    Each stage makes its own when it begins, so it sees a checkpoint that has changed since the
    stage before. Every method raises the errors of `open_checkpoint`.
    """

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self._opened: dict[str, Checkpoint] = {}
        self._headers: dict[str, Checkpoint] = {}
        self._matrices: dict[str, Matrices] = {}
        self._identities: dict[str, str] = {}

    @property
    def before(self) -> Checkpoint:
        """`before`, ready to be read."""
        return self.open(self.config.before)

    @property
    def after(self) -> Checkpoint:
        """`after`, ready to be read."""
        return self.open(self.config.after)

    @property
    def bases(self) -> Checkpoint:
        """The checkpoint that gives the blends their singular vectors: `after`, unless reversed."""
        return self.open(layout.source(self.config, self.config.bases_of))

    def open(self, source: str) -> Checkpoint:
        """The checkpoint at a source, ready to be read. A hub checkpoint is the run's copy if the
        stage `fetch` has made one; else it is downloaded."""
        if source not in self._opened:
            allowed = self.config.allow_pickle
            self._opened[source] = open_checkpoint(source, allow_pickle=allowed, copies=self._copy)
        return self._opened[source]

    def _copy(self, source: str) -> Store | None:
        """The run's finished copy of a hub checkpoint; None if there is none."""
        if not is_hub_id(source):
            return None
        copy = fetched_store(self.config, source)
        return copy if copy.exists(MANIFEST) else None

    def headers(self, source: str) -> Checkpoint:
        """The checkpoint at a source, of which only the config and headers can be read."""
        if source in self._opened:
            return self._opened[source]
        if self._copy(source):
            return self.open(source)
        if source not in self._headers:
            allowed = self.config.allow_pickle
            self._headers[source] = open_headers(source, allow_pickle=allowed, copies=self._copy)
        return self._headers[source]

    def matrices(self, source: str) -> Matrices:
        """The checkpoint at a source as matrices, ready to be read."""
        if source not in self._matrices:
            self._matrices[source] = matrices(self.open(source))
        return self._matrices[source]

    def identity(self, source: str, store: Store) -> str:
        """Fingerprint of a checkpoint's config and weights; `store` caches hashes of files.

        A hub checkpoint that is not in the cache is not downloaded for it, if the hub knows the
        sha256 of the weights.
        """
        if source not in self._identities:
            found = self.headers(source) if hub_parts(source) else self.open(source)
            if must_be_downloaded(found):
                found = self.open(source)
            self._identities[source] = identity(found, store, layout.IDENTITIES)
        return self._identities[source]

    def companions(self, source: str) -> str:
        """Fingerprint of a checkpoint's companion files, such as the tokenizer."""
        return companions_digest(self.open(source))
