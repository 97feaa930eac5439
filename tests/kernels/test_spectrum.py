from __future__ import annotations

import numpy as np
import pytest
import torch

from svdjobs.errors import NumericalError
from svdjobs.kernels import spectrum
from tests.kernels.pairs import BEFORE, gaussian, with_spectrum


@pytest.mark.parametrize("kind", BEFORE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_agrees_with_lapack_svd(kind: str, dtype: torch.dtype) -> None:
    w = BEFORE[kind]().to(dtype)
    found = spectrum.decompose(w)
    expected = torch.linalg.svdvals(w.double())
    assert found.method == "gram"
    # Gram: eps·s₁²/s_i, so the absolute error grows towards sqrt(eps)·s₁ at the bottom.
    assert torch.allclose(found.s_K, expected, rtol=1e-7, atol=3e-8 * float(expected[0]))
    assert found.s_K[0] == pytest.approx(float(expected[0]), rel=1e-13)


@pytest.mark.parametrize("kind", BEFORE)
def test_basis_is_orthonormal_and_reconstructs(kind: str) -> None:
    w = BEFORE[kind]()
    found = spectrum.decompose(w)
    assert found.basis_KK is not None
    k = min(w.shape)
    assert torch.allclose(found.basis_KK.T @ found.basis_KK, torch.eye(k).double(), atol=1e-12)
    rebuilt = w @ found.basis_KK @ found.basis_KK.T if w.shape[0] >= k == w.shape[1] else None
    if rebuilt is not None:
        assert torch.allclose(rebuilt, w, atol=1e-12)


def test_values_alone_equal_values_with_vectors() -> None:
    w = BEFORE["tall"]()
    alone = spectrum.decompose(w, vectors=False)
    assert alone.basis_KK is None
    assert torch.allclose(alone.s_K, spectrum.decompose(w).s_K, rtol=1e-12)


def test_chunks_do_not_change_the_gram_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    for w in (gaussian(1000, 12, seed=0), gaussian(12, 1000, seed=0)):
        whole = spectrum.gram(w)
        monkeypatch.setattr(spectrum, "CHUNK_ELEMENTS", 12 * 256)
        assert len(list(spectrum.long_side_chunks(w))) == 4
        assert np.allclose(spectrum.gram(w), whole, rtol=1e-13)
        monkeypatch.undo()


def test_zero_matrix() -> None:
    found = spectrum.decompose(torch.zeros(6, 4))
    assert found.s_K.tolist() == [0, 0, 0, 0]
    assert spectrum.rank(found.s_K) == 0
    assert spectrum.stable_rank(found.s_K) is None


def test_rank_and_stable_rank_of_a_planted_spectrum() -> None:
    w = with_spectrum(30, 20, torch.tensor([2.0, 2.0, 1.0]).double())
    s = spectrum.decompose(w).s_K
    assert spectrum.rank(s) == 3
    assert spectrum.stable_rank(s) == pytest.approx((4 + 4 + 1) / 4)


def test_signs_are_fixed_whatever_they_were() -> None:
    basis = BEFORE["square"]()
    flipped = basis * torch.tensor([1.0, -1.0] * 32)
    assert torch.equal(spectrum.fix_signs(basis), spectrum.fix_signs(flipped))


def test_failed_check_falls_back_to_a_direct_svd(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = np.linalg.eigh

    def perturbed(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = honest(gram)
        return values * (1 + 1e-9), vectors

    monkeypatch.setattr(np.linalg, "eigh", perturbed)
    w = BEFORE["tall"]()
    found = spectrum.decompose(w)
    assert found.method == "svd"
    assert torch.allclose(found.s_K, torch.linalg.svdvals(w), rtol=1e-13)


def test_wrong_vectors_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = np.linalg.eigh

    def swapped(gram: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values, vectors = honest(gram)
        return values, vectors[:, ::-1]

    monkeypatch.setattr(np.linalg, "eigh", swapped)
    assert spectrum.decompose(BEFORE["tall"]()).method == "svd"


def test_second_failure_is_an_error_with_both_figures() -> None:
    broken = torch.full((4, 4), float("nan"))
    with pytest.raises(NumericalError):
        spectrum.decompose(broken)


def test_second_failure_names_both_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectrum, "ENERGY_TOLERANCE", -1.0)
    with pytest.raises(NumericalError, match=r"gram: .*svd: "):
        spectrum.decompose(BEFORE["tall"]())
