"""Two matrices of one shape, and what several metrics need of them, each computed once."""

from __future__ import annotations

import math
from functools import cached_property, lru_cache

import torch

from svdjobs.kernels.rotation import (
    Bases,
    Overlaps,
    bases_of,
    overlaps,
    principal_sines,
    random_update,
    thin_top,
)
from svdjobs.kernels.spectrum import gram, rank, singular_values

KS = (16, 64, 256)
"""Leading directions that subspaces are compared at."""
AROUND = 0.25
"""Share of k by which the end of a subspace may move to a larger gap in the spectrum."""


class Pair:
    """A matrix before and after, of equal shape M×N."""

    def __init__(self, before: Bases, after: Bases) -> None:
        self.before = before
        self.after = after
        self.shape: tuple[int, int] = (before.w_MN.shape[0], before.w_MN.shape[1])
        self.k = min(self.shape)
        self._sines: dict[tuple[str, int], torch.Tensor] = {}

    @cached_property
    def rank(self) -> int:
        """Directions that are above the rank guard in both."""
        return min(rank(self.before.s_K), rank(self.after.s_K))

    @cached_property
    def update(self) -> torch.Tensor:
        """W_after − W_before in float64."""
        return self.after.w_MN.to(torch.float64) - self.before.w_MN.to(torch.float64)

    @cached_property
    def update_norm(self) -> float:
        """‖ΔW‖_F."""
        return float(self.update.norm())

    @cached_property
    def before_norm(self) -> float:
        """‖W_before‖_F, from its singular values."""
        return float(self.before.s_K.norm())

    @cached_property
    def update_values(self) -> torch.Tensor:
        """Singular values of ΔW, descending."""
        return singular_values(gram(self.update))

    @cached_property
    def permuted_values(self) -> torch.Tensor:
        """Singular values of ΔW with its entries in random order."""
        return singular_values(gram(permuted(self.update)))

    @cached_property
    def overlaps(self) -> Overlaps:
        """Q_beforeᵀ·Q_after on both sides, R×R."""
        return overlaps(self.before, self.after, self.rank)

    def side(self, name: str) -> torch.Tensor:
        """The overlaps of the left (u) or right (v) singular vectors, R×R."""
        square = "v" if self.before.tall else "u"
        return self.overlaps.square_RR if name == square else self.overlaps.thin_RR

    def leading(self, name: str, t: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The first t vectors of a side, before and after, L×T."""
        if name == ("v" if self.before.tall else "u"):
            return self.before.square_KK[:, :t], self.after.square_KK[:, :t]
        return self._thin[0][:, :t], self._thin[1][:, :t]

    def sines(self, name: str, t: int) -> torch.Tensor:
        """Sines of the principal angles of the first t vectors of a side, descending."""
        if (name, t) not in self._sines:
            self._sines[name, t] = principal_sines(*self.leading(name, t))
        return self._sines[name, t]

    @cached_property
    def _thin(self) -> tuple[torch.Tensor, torch.Tensor]:
        most = max(self.cuts.values(), default=0)
        return thin_top(self.before, most), thin_top(self.after, most)

    @cached_property
    def cuts(self) -> dict[int, int]:
        """For each k of `KS`, the number of directions that are compared: where before's spectrum
        has its largest gap within a quarter of k.

        A subspace that ends between two near-equal values would seem to turn if these change
        places. Values of k above half of the rank are left out.
        """
        s_R = self.before.s_K[: self.rank]
        return {k: gap_near(s_R, k) for k in KS if k <= self.rank // 2}

    @cached_property
    def clusters(self) -> list[slice]:
        """Directions that an update of this size can make change places, each group a slice.

        A singular value moves by at most ‖ΔW‖₂ (Weyl 1912, doi:10.1007/BF01456804), so two that are
        more than 2·‖ΔW‖₂ apart keep their order.
        """
        s_R = self.before.s_K[: self.rank]
        apart = 2 * float(self.update_values[0]) if self.k else 0.0
        ends = [i + 1 for i in range(self.rank - 1) if float(s_R[i] - s_R[i + 1]) > apart]
        starts = [0, *ends]
        return [slice(a, b) for a, b in zip(starts, [*ends, self.rank], strict=True) if b > a]


def gap_near(s_R: torch.Tensor, k: int) -> int:
    """The number of leading directions, within a quarter of k, after which the values have their
    largest gap; all of them if there are not many more than k."""
    low, high = math.ceil((1 - AROUND) * k), math.floor((1 + AROUND) * k)
    if high >= len(s_R):
        return min(k, len(s_R))
    gaps = s_R[low - 1 : high] - s_R[low : high + 1]
    return low + int(gaps.argmax())


def random_pair(pair: Pair, seed: int) -> Pair:
    """The null of a pair: before, and before plus Gaussian noise of the update's norm."""
    before_MN = pair.before.w_MN.to(torch.float64)
    zeros_MN = torch.zeros(pair.shape, device=before_MN.device)
    noise_MN = random_update(zeros_MN, pair.update_norm, seed).to(torch.float64)
    return Pair(pair.before._replace(w_MN=before_MN), bases_of(before_MN + noise_MN))


def permuted(w_MN: torch.Tensor) -> torch.Tensor:
    """The matrix with its entries in random order: what is left of it without structure."""
    return w_MN.reshape(-1)[_order(w_MN.numel()).to(w_MN.device)].reshape(w_MN.shape)


@lru_cache(maxsize=1)
def _order(count: int) -> torch.Tensor:
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))
