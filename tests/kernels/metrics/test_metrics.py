"""The catalogue: planted changes, nulls, and what must not matter."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svdjobs.kernels.metrics.catalogue import measure
from svdjobs.kernels.metrics.pair import Pair, permuted, random_pair
from svdjobs.kernels.metrics.registry import METRICS
from svdjobs.kernels.metrics.updates import noise_edge, update_spectrum
from svdjobs.kernels.rotation import bases_of
from tests import metrics_page

M, N, K = 320, 192, 192


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    q: torch.Tensor = torch.linalg.qr(drawn)[0]
    return q


def factors(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U, s, V of a matrix with a few strong directions and a bulk."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (orthonormal(rows, K, generator) for rows in (M, N))
    s = torch.linspace(1, 0.05, K, dtype=torch.float64)
    return u, s + 8 * torch.exp(-torch.arange(K) / 5.0), v


U, S, V = factors()
W = (U * S) @ V.T


def noise(relative: float, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    e = torch.randn(M, N, generator=generator, dtype=torch.float64)
    scaled: torch.Tensor = e * relative * W.norm() / e.norm()
    return scaled


def found(after: torch.Tensor, before: torch.Tensor = W) -> dict[str, float]:
    return measure(Pair(bases_of(before), bases_of(after)))


def rotated(angle: float) -> torch.Tensor:
    """W with its leading 16 left vectors turned by an angle, each towards a direction outside."""
    outside = U[:, 100:116]
    u = U.clone()
    u[:, :16] = math.cos(angle) * U[:, :16] + math.sin(angle) * outside
    u[:, 100:116] = math.cos(angle) * outside - math.sin(angle) * U[:, :16]
    return (u * S) @ V.T


def test_scaling_moves_values_together_and_turns_nothing() -> None:
    metrics = found(1.02 * W)
    assert metrics["uniform_scale"] == pytest.approx(0.02)
    assert metrics["nss"] == pytest.approx(0.02)
    assert metrics["shift_beyond_scale"] < 1e-12
    assert metrics["diagonal_share"] == pytest.approx(1)
    assert metrics["stable_rank_of.change"] == pytest.approx(0, abs=1e-9)
    assert all(metrics[f"sine.{side}.{k}.max"] < 1e-6 for side in "uv" for k in (16, 64))
    assert metrics["agreement.u"] == pytest.approx(1)


@pytest.mark.parametrize("angle", [1e-6, 1e-3, 0.1, 0.7])
def test_a_rotation_by_a_known_angle_is_found(angle: float) -> None:
    pair = Pair(bases_of(W), bases_of(rotated(angle)))
    metrics = measure(pair)
    cut = pair.cuts[16]
    turned = min(16, cut)
    rms = math.sin(angle) * math.sqrt(turned / cut)
    # The square side is from a Gram matrix: half of the digits.
    assert metrics["sine.u.16.rms"] == pytest.approx(rms, rel=1e-6, abs=1e-12)
    assert metrics["sine.u.16.max"] == pytest.approx(math.sin(angle), rel=1e-6, abs=1e-12)
    assert metrics["chordal.u.16"] == pytest.approx(rms * math.sqrt(cut), rel=1e-6, abs=1e-12)
    assert metrics["affinity.u.16"] == pytest.approx(1 - rms**2)
    assert metrics["sine.v.16.max"] < 1e-7
    assert metrics["nss"] < 1e-9
    assert metrics["procrustes.u.16.out"] == pytest.approx(rms, rel=1e-6, abs=1e-12)
    if pair.clusters[0].stop < cut:  # else all leading directions may have changed places
        assert metrics["procrustes.u.16.within"] < 1e-6
    else:
        assert "procrustes.u.16.within" not in metrics
    assert metrics["intruders.u"] == 0


def test_directions_from_elsewhere_are_intruders() -> None:
    generator = torch.Generator().manual_seed(4)
    u, v = (
        torch.randn(M, generator=generator).double(),
        torch.randn(N, generator=generator).double(),
    )
    metrics = found(W + 12 * torch.outer(u / u.norm(), v / v.norm()))
    assert metrics["intruders.u"] == metrics["intruders.v"] == 1
    assert found(W + noise(0.01))["intruders.u"] == 0


@pytest.mark.parametrize("rank", [1, 5, 12])
def test_the_rank_of_a_low_rank_update_is_found(rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    a, b = (orthonormal(rows, rank, generator) for rows in (M, N))
    update = 0.3 * a @ b.T + noise(0.005)
    metrics = found(W + update)
    assert metrics["spikes"] == rank
    share = 0.09 * rank / float(update.square().sum())
    assert metrics["update_top_energy.16"] == pytest.approx(share, abs=0.1)
    assert metrics["update_structure"] > 0.3
    assert metrics["update_stable_rank"] < 3 * rank + 6


def test_noise_has_no_spikes_and_no_structure() -> None:
    counts, structure = [], []
    for seed in range(40):
        metrics = found(W + noise(0.01, seed))
        counts.append(metrics["spikes"])
        structure.append(metrics["update_structure"])
    assert np.mean(counts) < 0.1
    assert np.mean(structure) < 0.02


def test_the_edge_of_noise_is_where_its_largest_value_is() -> None:
    """The largest singular value exceeds it about once in a hundred times."""
    largest = [torch.linalg.svdvals(noise(1.0, seed))[0] for seed in range(30)]
    values = torch.linalg.svdvals(noise(1.0, 0))
    edge = noise_edge(values, (M, N))
    assert max(map(float, largest)) < 1.02 * edge
    assert np.median(largest) > 0.97 * edge


def test_the_spectrum_of_noise_fills_its_bulk_and_ends_at_its_edge() -> None:
    shown = update_spectrum(Pair(bases_of(W), bases_of(W + noise(0.01))))
    assert shown
    assert shown.places[0] == 1 and shown.places[-1] == K
    assert shown.values[0] == pytest.approx(1, abs=0.05)
    assert shown.values[0] < shown.noise_edge < 1.05
    assert shown.values[-1] == pytest.approx(shown.lower_edge, abs=0.05)
    assert shown.lower_edge == (math.sqrt(M) - math.sqrt(N)) / (math.sqrt(M) + math.sqrt(N))
    assert shown.values == pytest.approx(shown.permuted, abs=0.05)


def test_planted_directions_stand_above_the_edge_in_the_spectrum() -> None:
    e = noise(0.01)
    planted = e + 3 * torch.linalg.matrix_norm(e, 2) * (U[:, :4] @ V[:, 7:11].T)
    shown = update_spectrum(Pair(bases_of(W), bases_of(W + planted)))
    assert shown
    above = [place for place, s in zip(shown.places, shown.values, strict=True) if s > 1.1]
    assert above == [place for place in shown.places if place <= 4]
    assert max(shown.permuted) < 2


def test_a_small_or_an_unchanged_matrix_has_no_spectrum() -> None:
    assert update_spectrum(Pair(bases_of(W), bases_of(W))) is None
    small = W[:, :8].contiguous()
    assert update_spectrum(Pair(bases_of(small), bases_of(1.1 * small))) is None


def test_a_swap_of_near_equal_values_is_no_rotation() -> None:
    s = S.clone()
    s[15], s[16] = 1.40, 1.399  # at the end of the leading 16 directions
    before = (U * s) @ V.T
    swapped = s.clone()
    swapped[15], swapped[16] = 1.399, 1.40
    metrics = found((U * swapped) @ V.T, before)
    for side in "uv":
        assert metrics[f"sine.{side}.16.max"] < 1e-6
        assert metrics[f"agreement.{side}"] == pytest.approx(1)
        assert metrics[f"best_match.{side}"] == pytest.approx(1)
        assert metrics[f"intruders.{side}"] == 0


def test_the_blocks_of_an_update_are_where_it_was_put() -> None:
    inside = U[:, :8] @ torch.randn(8, 8, generator=torch.Generator().manual_seed(0)).double()
    for update, block in (
        (inside @ V[:, :8].T, "top"),
        (inside @ V[:, 100:108].T, "left"),
        (U[:, 100:108] @ V[:, :8].T, "right"),
        (U[:, 100:108] @ V[:, 120:128].T, "rest"),
    ):
        metrics = found(W + 1e-4 * update)
        assert metrics[f"blocks.16.{block}"] == pytest.approx(1, abs=1e-6)


def test_every_metric_of_noise_is_near_its_null() -> None:
    """Of means over 12 draws; metrics that the tightest gap or a single extreme decides are left
    out, and changes that are noise around 0 are compared with their spread."""
    real, nulls = [], []
    for seed in range(12):
        pair = Pair(bases_of(W), bases_of(W + noise(0.01, seed)))
        real.append(measure(pair))
        nulls.append(measure(random_pair(pair, 100 + seed)))
    for name in real[0]:
        own, other = (np.array([one[name] for one in draws]) for draws in (real, nulls))
        spread = math.hypot(own.std(ddof=1), other.std(ddof=1)) / math.sqrt(12)
        apart = abs(float(own.mean() - other.mean()))
        assert apart <= max(0.1 * abs(float(other.mean())), 3.5 * spread), name


def same(one: dict[str, float], other: dict[str, float], *, but: tuple[str, ...] = ()) -> None:
    assert one.keys() == other.keys()
    for name in one:
        if not name.startswith(but):
            assert other[name] == pytest.approx(one[name], rel=1e-5, abs=1e-7), name


@given(st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_signs_and_the_order_of_equal_values_do_not_matter(seed: int) -> None:
    """Two equal values at the end of the leading 16, and other ones before."""
    rng = np.random.default_rng(seed)
    s = S.clone()
    for i in (3, 15):
        s[i + 1] = s[i]
    before = (U * s) @ V.T
    after = bases_of(before + noise(0.003))
    own = bases_of(before)
    # An exact tie: any order and any signs are a decomposition of the same matrix.
    order, signs = torch.arange(K), torch.from_numpy(rng.choice([-1.0, 1.0], K))
    for i in (3, 15):
        if rng.random() < 0.5:
            order[[i, i + 1]] = order[[i + 1, i]]
    other = own._replace(square_KK=own.square_KK[:, order] * signs)
    signs = torch.from_numpy(rng.choice([-1.0, 1.0], K))
    turned = after._replace(square_KK=after.square_KK * signs)
    same(measure(Pair(own, after)), measure(Pair(other, turned)))


def test_a_transposed_pair_has_the_same_metrics() -> None:
    after = W + noise(0.01)
    one, other = found(after), found(after.T.contiguous(), W.T.contiguous())

    def sides(name: str) -> str:
        swapped = {"u": "v", "v": "u", "left": "right", "right": "left"}
        return ".".join(swapped.get(part, part) for part in name.split("."))

    # Entries in random order give another random matrix if they come in another order.
    same(
        one, {sides(n): v for n, v in other.items()}, but=("power_law.permuted", "update_structure")
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(20, 10),
        lambda: torch.ones(1, 30),
        lambda: torch.eye(6),
        lambda: torch.outer(torch.arange(40.0), torch.ones(30)),
    ],
)
def test_degenerate_matrices_have_what_is_defined(make: Callable[[], torch.Tensor]) -> None:
    before = make()
    for after in (before.clone(), before + 0.01, torch.zeros_like(before)):
        metrics = found(after, before)
        assert all(math.isfinite(value) for value in metrics.values())


def test_the_page_of_the_docs_is_that_of_the_catalogue() -> None:
    assert metrics_page.PAGE.read_text() == metrics_page.page(), "run `make render`"
    assert metrics_page.SAID.read_text() == metrics_page.said(), "run `make render`"


def test_every_metric_says_what_it_is() -> None:
    measure(Pair(bases_of(W), bases_of(W + noise(0.01))))
    assert len(METRICS) > 20
    for one in METRICS.values():
        assert all(
            [one.what, one.formula, one.unit, one.null, one.clusters, one.pitfalls, one.source]
        )
        assert one.group in ("spectra", "updates", "subspaces")
    counted = permuted(torch.arange(12.0).reshape(3, 4)).reshape(-1)
    assert sorted(counted.tolist()) == list(range(12))
