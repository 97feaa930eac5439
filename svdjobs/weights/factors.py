"""Reads the factors of a run."""

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
    import numpy.typing as npt
    import torch

    from svdjobs.kernels.rotation import Bases

S, BASIS = "s", "basis"


class Factors:
    """The finished factors of one checkpoint, read tensor by tensor.

    Every tensor is checked against the sha256 in its part's record, and the record against the
    manifest.
    """

    def __init__(self, store: Store, checkpoint_id: str, *, stage: str) -> None:
        prefix = layout.factors_prefix(checkpoint_id)
        (self.manifest,) = require(store, [prefix], stage=stage)
        with _errors_as_damage():
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

    def require_origin(self, checkpoint: Checkpoint, identity: str) -> None:
        """Check that these are the factors of the checkpoint with an identity.

        Raises:
            IncompleteError: the checkpoint has changed since it was decomposed.
        """
        if self.manifest.inputs["checkpoint"] != identity:
            raise IncompleteError(
                f"{checkpoint.label} has changed since it was decomposed. Run `svdjobs decompose` "
                f"again first."
            )

    def __contains__(self, name: str) -> bool:
        return f"{name}.{S}" in self._sha256

    def s(self, name: str) -> torch.Tensor:
        """Singular values, float64, descending.

        Raises:
            StorageError: the sha256 differs from the recorded one.
        """
        return self._checked(f"{name}.{S}")

    def spectrum(self, name: str) -> list[float]:
        """Singular values, descending, as numbers: for those who have no torch.

        Raises:
            StorageError: the sha256 differs from the recorded one.
        """
        with _errors_as_damage():
            s_K = self._tensors.array(f"{name}.{S}")
        self._check(f"{name}.{S}", s_K)
        return [float(s) for s in s_K]

    def basis(self, name: str) -> torch.Tensor:
        """Square-side vectors as columns, float64 K×K.

        Raises:
            StorageError: the sha256 differs from the recorded one.
        """
        return self._checked(f"{name}.{BASIS}").double()

    def bases(self, name: str, w_MN: torch.Tensor) -> Bases:
        """The matrix `w_MN` of this name with its decomposition, on the device of the matrix.

        Raises:
            StorageError: the sha256 differs from the recorded one.
        """
        from svdjobs.kernels.rotation import Bases

        device = w_MN.device
        return Bases(w_MN, self.s(name).to(device), self.basis(name).to(device))

    def _checked(self, name: str) -> torch.Tensor:
        with _errors_as_damage():
            values = self._tensors.read(name)
        self._check(name, values.numpy())
        return values

    def _check(self, name: str, values: npt.NDArray[Any]) -> None:
        found, expected = hashlib.sha256(values.data).hexdigest(), self._sha256[name]
        if found != expected:
            raise StorageError(
                f"{self._tensors.label}: tensor {name!r} in {self._tensors.store.url}/"
                f"{self._tensors.entries[name].key} is not what was written: its sha256 is "
                f"{found}, recorded is {expected}. Run `svdjobs decompose --force`."
            )


def tensor_sha256(tensor: torch.Tensor) -> str:
    """sha256 of a tensor's elements, in order."""
    return hashlib.sha256(tensor.detach().contiguous().numpy().data).hexdigest()


@contextmanager
def _errors_as_damage() -> Iterator[None]:
    """Report a faulty factor file as damage to the store: svdjobs wrote it, not the user."""
    try:
        yield
    except CheckpointError as error:
        raise DamagedError(f"{error} Run `svdjobs decompose --force`.") from None
