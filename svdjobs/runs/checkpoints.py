"""The checkpoints that a sweep's config names, each opened once and hashed once."""

from __future__ import annotations

from svdjobs.checkpoint.identity import companions_digest, identity
from svdjobs.checkpoint.matrices import Matrices, matrices
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.sources import open_checkpoint, open_headers
from svdjobs.config import SweepConfig
from svdjobs.runs import layout
from svdjobs.storage.store import Store


class RunCheckpoints:
    """Opens checkpoints by the source that the config gives, and keeps them open.

    A stage makes one when it begins and hands it down. The next stage makes its own, so it sees a
    checkpoint that has changed in between. Every method raises what `open_checkpoint` does.
    """

    def __init__(self, config: SweepConfig) -> None:
        self.config = config
        self._opened: dict[str, Checkpoint] = {}
        self._headers: dict[str, Checkpoint] = {}
        self._matrices: dict[str, Matrices] = {}
        self._identities: dict[str, str] = {}

    @property
    def before(self) -> Checkpoint:
        """The checkpoint `before`, ready to be read."""
        return self.open(self.config.before)

    @property
    def after(self) -> Checkpoint:
        """The checkpoint `after`, ready to be read."""
        return self.open(self.config.after)

    @property
    def bases(self) -> Checkpoint:
        """The checkpoint whose singular vectors the blends have: after, unless reversed."""
        return self.open(layout.source(self.config, self.config.bases_of))

    def open(self, source: str) -> Checkpoint:
        """The checkpoint at a source, ready to be read; a hub checkpoint is downloaded."""
        if source not in self._opened:
            self._opened[source] = open_checkpoint(source, allow_pickle=self.config.allow_pickle)
        return self._opened[source]

    def headers(self, source: str) -> Checkpoint:
        """The checkpoint at a source, to look at its config and headers only."""
        if source in self._opened:
            return self._opened[source]
        if source not in self._headers:
            self._headers[source] = open_headers(source, allow_pickle=self.config.allow_pickle)
        return self._headers[source]

    def matrices(self, source: str) -> Matrices:
        """The checkpoint at a source as the matrices it is made of, ready to be read."""
        if source not in self._matrices:
            self._matrices[source] = matrices(self.open(source))
        return self._matrices[source]

    def identity(self, source: str, store: Store) -> str:
        """Fingerprint of a checkpoint's config and weights; `store` keeps the hashes of files."""
        if source not in self._identities:
            self._identities[source] = identity(self.open(source), store, layout.IDENTITIES)
        return self._identities[source]

    def companions(self, source: str) -> str:
        """Fingerprint of a checkpoint's tokenizer and other companion files."""
        return companions_digest(self.open(source))
