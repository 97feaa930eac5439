from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from svdjobs.config import SweepConfig
from svdjobs.errors import ConfigError, IncompleteError, NumericalError, TensorError
from svdjobs.stages import decompose, plan
from svdjobs.standalone import decompose as decompose_alone
from svdjobs.storage.local import LocalStore
from svdjobs.weights.factors import Factors
from tests.checkpoints import tensors

MakeConfig = Callable[..., SweepConfig]


def factor_files(config: SweepConfig) -> dict[str, bytes]:
    root = Path(config.store_url) / "factors"
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def run(config: SweepConfig) -> LocalStore:
    store = LocalStore(config.store_url)
    plan.run(config, store)
    decompose.run(config, store)
    return store


def test_factors_rebuild_the_matrix(make_config: MakeConfig, chain: dict[str, Path]) -> None:
    store = run(make_config())
    factors = Factors(store, "after", stage="test")
    for name, w in tensors(chain["rl2"]).items():
        if "proj.weight" in name:
            basis, s = factors.basis(name), factors.s(name)
            w64 = w.double()
            gram = w64.T @ w64 if w.shape[0] >= w.shape[1] else w64 @ w64.T
            assert torch.allclose((basis * s.square()) @ basis.T, gram, atol=1e-12)


def test_before_has_values_only(make_config: MakeConfig) -> None:
    store = run(make_config(rotations=None))
    part = Path(store.url) / "factors" / "before" / "part-00000.safetensors"
    assert all(name.endswith(".s") for name in load_file(part))


def test_rotations_change_no_factors_that_are_blended(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """Singular values that are computed with vectors differ in the last bits."""
    alone = make_config(rotations=None, store=str(tmp_path / "alone"))
    rotated = make_config(store=str(tmp_path / "rotated"))
    run(alone), run(rotated)
    blended, all_factors = factor_files(alone), factor_files(rotated)
    assert {name: all_factors[name] for name in blended} == blended
    assert {name.split("/")[0] for name in all_factors} == {"before", "after", "base", "rl1"}


def test_several_threads_give_the_same_bytes(make_config: MakeConfig, tmp_path: Path) -> None:
    alone = make_config(store=str(tmp_path / "alone"), decompose={"parts": 3, "workers": 1})
    together = make_config(store=str(tmp_path / "together"), decompose={"parts": 3, "workers": 2})
    run(alone)
    run(together)
    assert factor_files(alone) == factor_files(together)


def test_bad_tensor_is_named_and_leaves_no_output(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "nan"
    shutil.copytree(chain["rl2"], folder)
    content = tensors(folder)
    content["model.layers.0.self_attn.v_proj.weight"][0, 0] = float("nan")
    save_file(content, folder / "model.safetensors")
    for workers in (1, 2):
        config = make_config(
            after=str(folder),
            store=str(tmp_path / f"run{workers}"),
            decompose={"parts": 2, "workers": workers},
        )
        with pytest.raises(TensorError, match=r"layers\.0\.self_attn\.v_proj.*1 NaN"):
            run(config)
        assert "after/manifest.json" not in factor_files(config)
        assert not any(name.endswith(".partial") for name in factor_files(config))


def test_numerical_failure_names_the_tensor(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("svdjobs.kernels.spectrum.ENERGY_TOLERANCE", -1.0)
    with pytest.raises(NumericalError, match=r"tensor 'model\.layers.*selection\.exclude"):
        run(make_config())


def test_without_a_plan(make_config: MakeConfig) -> None:
    config = make_config()
    with pytest.raises(IncompleteError, match=r"decompose needs outputs .* plan"):
        decompose.run(config, LocalStore(config.store_url))


def test_standalone_export_in_the_classic_layout(chain: dict[str, Path], tmp_path: Path) -> None:
    sources = [str(chain["base"]), str(chain["rl2"])]
    decompose_alone.run(sources, tmp_path / "svd", export=True)
    for source in sources:
        folder = tmp_path / "svd" / Path(source).name
        matrices = {n: w for n, w in tensors(Path(source)).items() if "proj.weight" in n}
        assert len(list(folder.glob("*.pt"))) == len(matrices) == 14
        for name, w in matrices.items():
            saved = torch.load(folder / f"{name.replace('.', '__')}.pt", weights_only=True)
            k = min(w.shape)
            assert saved["orig_shape"] == tuple(w.shape)
            assert saved["U"].shape == (w.shape[0], k)
            assert saved["Vh"].shape == (k, w.shape[1])
            rebuilt = (saved["U"] * saved["S"]) @ saved["Vh"]
            assert (rebuilt - w).norm() <= 1e-6 * w.norm()
            expected = torch.linalg.svdvals(w.double())
            assert torch.allclose(saved["S"].double(), expected, rtol=1e-6)


def test_standalone_refuses_two_checkpoints_of_one_name(
    chain: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="two checkpoints are called base"):
        decompose_alone.run([str(chain["base"])] * 2, tmp_path / "svd")


def test_export_of_a_rank_deficient_matrix_is_orthonormal() -> None:
    from svdjobs.kernels.spectrum import decompose as kernel
    from svdjobs.kernels.spectrum import thin_side
    from tests.kernels.pairs import with_spectrum

    for m, n in ((30, 12), (12, 30)):
        w = with_spectrum(m, n, torch.tensor([2.0, 1.0, 1e-9]).double())
        factors = kernel(w)
        assert factors.basis_KK is not None
        u, vh = thin_side(w, factors.basis_KK)
        assert torch.allclose(u.T @ u, torch.eye(12).double(), atol=1e-12)
        assert torch.allclose(vh @ vh.T, torch.eye(12).double(), atol=1e-12)
        assert torch.allclose((u * factors.s_K) @ vh, w, atol=1e-8)


def test_standalone_names(chain: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """`.` and `..` are resolved, so factors never leave the output folder."""
    monkeypatch.chdir(chain["base"])
    assert decompose_alone.checkpoint_name(".") == "base"
    assert decompose_alone.checkpoint_name("..") == chain["base"].parent.name
    assert decompose_alone.checkpoint_name("owner/name@v1") == "name"
    with pytest.raises(ConfigError, match="has no name"):
        decompose_alone.checkpoint_name("/")


def test_export_follows_the_checkpoint(tmp_path: Path) -> None:
    from tests.checkpoints import make_checkpoint

    for updates in (0, 1):
        source = make_checkpoint(tmp_path / "model", updates=updates)
        decompose_alone.run([str(source)], tmp_path / "svd", export=True)
    name = "model.layers.0.mlp.up_proj.weight"
    saved = torch.load(tmp_path / "svd" / "model" / f"{name.replace('.', '__')}.pt")
    expected = torch.linalg.svdvals(tensors(tmp_path / "model")[name].double())
    assert torch.allclose(saved["S"].double(), expected, rtol=1e-6)
