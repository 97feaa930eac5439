"""Kernels on a GPU: they stay on it, and come to what they come to on a CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from svdjobs.kernels import blend, rotation, spectrum
from svdjobs.kernels.metrics.catalogue import measure
from svdjobs.kernels.metrics.pair import Pair, random_pair
from svdjobs.kernels.metrics.trajectories import trajectory
from svdjobs.kernels.metrics.updates import update_spectrum
from tests.kernels.pairs import gaussian, updated
from tests.kernels.pretended import OnGpu, numbers, pretended_gpu

SHAPES = [(96, 64), (64, 96), (64, 64)]


@pytest.fixture
def gpu() -> Iterator[torch.device]:
    with pretended_gpu() as device:
        yield device


def test_the_pretended_gpu_refuses_what_a_gpu_refuses(gpu: torch.device) -> None:
    here, there = torch.ones(2), torch.ones(2).to(gpu)
    assert isinstance(there, OnGpu) and there.is_cuda
    with pytest.raises(RuntimeError, match="on the GPU and on the CPU"):
        here + there
    with pytest.raises(RuntimeError, match=r"numpy\(\) is not supported"):
        there.numpy()
    assert not isinstance(there.cpu(), OnGpu)
    assert isinstance(torch.zeros(2, device=gpu), OnGpu)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("vectors", [True, False])
def test_decompositions(gpu: torch.device, shape: tuple[int, int], vectors: bool) -> None:
    w = gaussian(*shape, seed=1)
    here = spectrum.decompose(w, vectors=vectors)
    there = spectrum.decompose(w.to(gpu), vectors=vectors)
    assert isinstance(there.s_K, OnGpu)
    assert there.method == "gram"
    assert torch.allclose(there.s_K.cpu(), here.s_K, rtol=1e-12)
    if vectors:
        assert here.basis_KK is not None and there.basis_KK is not None
        assert torch.allclose(there.basis_KK.cpu(), here.basis_KK, atol=1e-9)


def test_a_direct_svd_where_the_check_fails(gpu: torch.device) -> None:
    """The check finds the same on the GPU, and the direct route runs on it, too."""
    w = torch.diag(torch.tensor([1.0, 1e-3])).to(gpu)
    found = spectrum._svd_route(w, True)
    assert isinstance(found.s_K, OnGpu)
    assert found.s_K.cpu().tolist() == pytest.approx([1.0, 1e-3])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("small", [True, False])
def test_blends(
    gpu: torch.device, shape: tuple[int, int], small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blend, "float32_suffices", lambda *_: small)
    before, after = updated(gaussian(*shape, seed=2), 1e-3)
    s_before_K = spectrum.decompose(before).s_K
    found = {}
    for device in (torch.device("cpu"), gpu):
        w = after.to(device)
        own = spectrum.decompose(w)
        assert own.basis_KK is not None
        values_K = s_before_K.to(device)
        d = blend.signal(w, own.s_K, own.basis_KK, blend.blend_ratio(values_K, own.s_K).r_K)
        target_K = blend.target_spectrum(values_K, own.s_K, 0.0)
        assert blend.spectrum_error(blend.blend(w, d, 0.0), target_K) < 1e-6
        found[device.type] = d.cpu()
    assert torch.allclose(found["cuda"], found["cpu"], atol=1e-5 * float(found["cpu"].abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_metrics_and_their_null(gpu: torch.device, shape: tuple[int, int]) -> None:
    matrices = [gaussian(*shape, seed=3)]
    for _ in range(2):
        matrices.append(updated(matrices[-1], 1e-2)[1])
    found = []
    for device in (torch.device("cpu"), gpu):
        chain = [rotation.bases_of(w.to(device)) for w in matrices]
        pair = Pair(chain[0], chain[-1])
        values = {f"pair {name}": value for name, value in measure(pair).items()}
        null = measure(random_pair(pair, seed=7))
        values |= {f"null {name}": value for name, value in null.items()}
        way = trajectory(chain)
        assert way is not None
        values |= {f"way {i}": value for i, value in enumerate(numbers(way))}
        values |= {f"update {i}": v for i, v in enumerate(numbers(update_spectrum(pair)))}
        found.append(values)
    assert found[1] == pytest.approx(found[0], rel=1e-6, abs=1e-9)
