"""The factors of a run, as stages read them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.safetensors_format import read_header
from svdjobs.errors import (
    CheckpointError,
    DamagedError,
    IncompleteError,
    StorageError,
)
from svdjobs.runs import layout
from svdjobs.runs.outputs import read_finished, require
from svdjobs.storage.store import Store

if TYPE_CHECKING:
    import torch


S, BASIS = "s", "basis"


class Factors:
    """The finished factors of one checkpoint, read tensor by tensor.

    Each is compared with the sha256 in the record of its part, and that with the manifest's.
    """

    def __init__(self, store: Store, checkpoint_id: str, *, stage: str) -> None:
        prefix = layout.factors_prefix(checkpoint_id)
        (self.manifest,) = require(store, [prefix], stage=stage)
        with _our_own():
            entries = {
                entry.name: entry
                for file in self.manifest.files
                if file.key.endswith(".safetensors")
                for entry in read_header(store, f"{prefix}/{file.key}")
            }
        self._store = store
        self._tensors = Checkpoint(f"factors of {checkpoint_id}", store, {}, entries)
        self._sha256 = {
            f"{item['name']}.{kind}": sha256
            for item in self._records(prefix)
            for kind, sha256 in item["sha256"].items()
        }

    def _records(self, prefix: str) -> Iterator[dict[str, Any]]:
        store = self._store
        for file in self.manifest.files:
            if file.key.endswith(".json"):
                document = json.loads(read_finished(store, prefix, file.key, self.manifest))
                for item in document["tensors"]:
                    if "sha256" not in item:
                        raise IncompleteError(
                            f"{store.url}/{prefix} was made by an older svdjobs, without digests "
                            f"of its tensors. Run `svdjobs decompose` again first."
                        )
                    yield item

    def require_origin(self, checkpoint: Checkpoint, identity_: str) -> None:
        """Make sure these are the factors of that checkpoint.

        Raises:
            IncompleteError: the checkpoint has changed since it was decomposed.
        """
        if self.manifest.inputs["checkpoint"] != identity_:
            raise IncompleteError(
                f"{checkpoint.label} has changed since it was decomposed. Run `svdjobs decompose` "
                f"again first."
            )

    def s(self, name: str) -> torch.Tensor:
        """Singular values, float64, descending.

        Raises:
            StorageError: they are not those that were written.
        """
        return self._checked(f"{name}.{S}")

    def basis(self, name: str) -> torch.Tensor:
        """Square-side vectors as columns, float64 K×K.

        Raises:
            StorageError: they are not those that were written.
        """
        return self._checked(f"{name}.{BASIS}")

    def _checked(self, name: str) -> torch.Tensor:
        with _our_own():
            values = self._tensors.read(name)
        found, expected = tensor_sha256(values), self._sha256[name]
        if found != expected:
            raise StorageError(
                f"{self._tensors.label}: tensor {name!r} in {self._tensors.store.url}/"
                f"{self._tensors.entries[name].key} is not what was written: its sha256 is "
                f"{found}, recorded is {expected}. Run `svdjobs decompose --force`."
            )
        return values


def tensor_sha256(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes, in order of its elements."""
    return hashlib.sha256(tensor.detach().contiguous().numpy().data).hexdigest()


@contextmanager
def _our_own() -> Iterator[None]:
    """What is wrong with files that we wrote is damage to the store, and no wrong checkpoint."""
    try:
        yield
    except CheckpointError as error:
        raise DamagedError(f"{error} Run `svdjobs decompose --force`.") from None
