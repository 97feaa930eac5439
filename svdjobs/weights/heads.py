"""The attention heads in a matrix: rows of q, k and v, columns of o."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from svdjobs.checkpoint.matrices import Sizes
from svdjobs.checkpoint.selection import layer_and_family

if TYPE_CHECKING:
    import torch


class Heads(NamedTuple):
    """How a matrix is divided into heads."""

    total: int
    """Number of heads."""
    width: int
    """Rows, or columns, of each head."""
    columns: bool
    """Whether a head is some columns, as in o; else it is some rows."""

    def place(self, head: int) -> slice:
        """The rows or columns of a head."""
        return slice(head * self.width, (head + 1) * self.width)

    def of(self, w_MN: torch.Tensor, head: int) -> torch.Tensor:
        """The part of a matrix that belongs to a head."""
        return w_MN[:, self.place(head)] if self.columns else w_MN[self.place(head)]


def heads_of(name: str, shape: tuple[int, ...], sizes: Sizes) -> Heads | None:
    """The heads of a matrix by the sizes in the config.

    None if it is no projection of an attention, or if it has not these sizes: a gate may stand
    beside each head, or it may be of another tower.
    """
    leaf = layer_and_family(name)[1].rpartition(".")[2]
    if leaf not in ("q_proj", "k_proj", "v_proj", "o_proj") or not sizes.head:
        return None
    count = sizes.kv_heads if leaf in ("k_proj", "v_proj") else sizes.heads
    columns = leaf == "o_proj"
    fits = (shape[1] if columns else shape[0]) == count * sizes.head
    return Heads(count, sizes.head, columns) if fits else None
