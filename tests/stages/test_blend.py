from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import SweepConfig, alpha_id
from svdjobs.errors import TensorError
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.stages import blend, decompose, plan
from svdjobs.storage.local import LocalStore
from svdjobs.weights.blended import open_sources, tensors_at
from tests.checkpoints import make_checkpoint, tensors
from tests.kernels.pairs import truth

MakeConfig = Callable[..., SweepConfig]


def blended(config: SweepConfig) -> dict[float, Path]:
    """Run the stages up to blend. Returns the folders by alpha."""
    store = LocalStore(config.store_url)
    plan.run(config, store)
    decompose.run(config, store)
    blend.run(config, store)
    return {a: Path(config.store_url) / "checkpoints" / alpha_id(a) for a in config.alphas}


def loads_cleanly(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    return model


def test_alpha_one_is_after_bit_for_bit(make_config: MakeConfig, chain: dict[str, Path]) -> None:
    written = tensors(blended(make_config())[1.0])
    expected = tensors(chain["rl2"])
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name].view(torch.uint8), tensor.view(torch.uint8))


def test_alpha_zero_has_befores_singular_values(
    make_config: MakeConfig, chain: dict[str, Path]
) -> None:
    folder = blended(make_config())[0.0]
    before, written = tensors(chain["base"]), tensors(folder)
    names = json.loads((folder / "svd_blend_meta.json").read_text())["blended_keys"]
    assert len(names) == 14
    for name in names:
        expected = torch.linalg.svdvals(before[name].double())
        spectrum = torch.linalg.svdvals(written[name].double())
        assert (spectrum - expected).abs().max() <= 1e-6 * expected[0]


def test_every_alpha_is_the_textbook_blend(make_config: MakeConfig, chain: dict[str, Path]) -> None:
    alphas = [-0.5, 0, 0.3, 1.5]
    folders = blended(make_config(alphas=alphas))
    before, after = tensors(chain["base"]), tensors(chain["rl2"])
    for alpha, folder in folders.items():
        written = tensors(folder)
        meta = json.loads((folder / "svd_blend_meta.json").read_text())
        assert meta["extrapolation"] == (not 0 <= alpha <= 1)
        for name in after:
            if name in meta["blended_keys"]:
                expected = after[name].double() + (1 - alpha) * truth(before[name], after[name])
                assert (written[name] - expected).norm() <= 1e-7 * expected.norm()
            else:
                assert torch.equal(written[name], after[name])


def test_vectors_in_float32_cost_a_millionth_of_the_change(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    before, after = tensors(chain["base"]), tensors(chain["rl2"])
    sizes, found = {}, {}
    for dtype in ("float64", "float32"):
        store, vectors = str(tmp_path / dtype), {"vectors": dtype}
        config = make_config(alphas=[0], rotations=None, decompose=vectors, store=store)
        found[dtype] = tensors(blended(config)[0.0])
        made = plan.run(config, LocalStore(store))
        sizes[dtype] = made.estimate.vector_bytes
        factors = Path(store, "factors", "after", "part-00000.safetensors")
        stored = {str(t.dtype) for n, t in load_file(factors).items() if n.endswith(".basis")}
        assert stored == {f"torch.{dtype}"}
    assert sizes["float64"] == 2 * sizes["float32"] > 0
    for name in (n for n in after if n.endswith("_proj.weight")):
        d = truth(before[name], after[name])
        apart = found["float32"][name].double() - found["float64"][name].double()
        rounding = 1.2e-7 * float(after[name].double().norm())
        assert float(apart.norm()) < 1e-6 * float(d.norm()) + rounding


def test_transformers_loads_a_blend(make_config: MakeConfig, chain: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    folder = blended(make_config())[0.5]
    model = loads_cleanly(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in tensors(folder)
    original = AutoTokenizer.from_pretrained(chain["rl2"])
    written = AutoTokenizer.from_pretrained(folder)
    assert written.get_vocab() == original.get_vocab()
    assert written.chat_template == original.chat_template
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"
    assert (folder / "generation_config.json").exists()
    assert "alpha = 0.5" in (folder / "README.md").read_text()


def test_shards_hold_the_same_tensors(make_config: MakeConfig, tmp_path: Path) -> None:
    whole = tensors(blended(make_config(store=str(tmp_path / "whole")))[0.5])
    folder = blended(
        make_config(store=str(tmp_path / "shards"), blend={"max_shard_bytes": 60_000})
    )[0.5]
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) >= 3
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * 4 for t in whole.values())
    for shard in shards:
        for name, tensor in load_file(shard).items():
            assert index["weight_map"].pop(name) == shard.name
            assert torch.equal(tensor, whole[name])
    assert not index["weight_map"]
    loads_cleanly(folder)


def test_bfloat16_in_float32_out(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = make_checkpoint(tmp_path / "before", dtype=torch.bfloat16)
    after = make_checkpoint(tmp_path / "after", dtype=torch.bfloat16, updates=2)
    config = make_config(before=str(before), after=str(after), rotations=None, alphas=[0, 1])
    folders = blended(config)
    assert all(t.dtype == torch.float32 for t in tensors(folders[1.0]).values())
    for name, tensor in tensors(after).items():
        assert torch.equal(tensors(folders[1.0])[name], tensor.float())
    fractions = json.loads((folders[0.0] / "svd_blend_meta.json").read_text())["realised_fraction"]
    assert fractions["float32"] == pytest.approx(1, abs=1e-3)
    assert fractions["bfloat16"] < 0.9


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_sixteen_bit_storage(
    make_config: MakeConfig,
    chain: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    dtype: str,
) -> None:
    folders = blended(make_config(blend={"storage_dtype": dtype}))
    wanted = getattr(torch, dtype)
    meta = json.loads((folders[0.0] / "svd_blend_meta.json").read_text())
    error = meta["cast_error"][dtype]
    said = f"alpha 0: rounding noise in blend.storage_dtype {dtype} is {error:.2g} times"
    assert (said in capsys.readouterr().err) is (error > 0.3)
    before, after, zero = tensors(chain["base"]), tensors(chain["rl2"]), tensors(folders[0.0])
    wrong = signal = 0.0
    for name in meta["blended_keys"]:
        d = truth(before[name], after[name])
        wrong += float((zero[name].double() - after[name].to(wanted).double() - d).square().sum())
        signal += float(d.square().sum())
    assert error == pytest.approx((wrong / signal) ** 0.5, rel=1e-3)
    assert json.loads((folders[1.0] / "svd_blend_meta.json").read_text())["cast_error"] == {
        "float32": None, "bfloat16": None, "float16": None,
    }  # fmt: skip
    for folder in folders.values():
        assert all(t.dtype == wanted for t in tensors(folder).values())
        assert json.loads((folder / "config.json").read_text())["dtype"] == dtype
        loads_cleanly(folder)


def test_value_too_large_for_float16(make_config: MakeConfig, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    after = make_checkpoint(tmp_path / "large", updates=1)
    content = tensors(after)
    content["model.norm.weight"][0] = 1e6
    save_file(content, after / "model.safetensors")
    config = make_config(after=str(after), rotations=None, blend={"storage_dtype": "float16"})
    with pytest.raises(TensorError, match=r"model\.norm\.weight.*1e\+06 does not fit float16"):
        blended(config)
    assert not list(Path(config.store_url).glob("checkpoints/*/*.safetensors"))
    assert not list(Path(config.store_url).glob("checkpoints/*/manifest.json"))


def test_untied_embeddings_on_request(make_config: MakeConfig, tmp_path: Path) -> None:
    before = make_checkpoint(tmp_path / "b", tied=False, architecture="llama")
    after = make_checkpoint(tmp_path / "a", tied=False, architecture="llama", updates=1)
    config = make_config(
        before=str(before), after=str(after), rotations=None, selection={"embeddings": True}
    )
    folder = blended(config)[0.0]
    meta = json.loads((folder / "svd_blend_meta.json").read_text())
    assert {"lm_head.weight", "model.embed_tokens.weight"} <= set(meta["blended_keys"])
    model = loads_cleanly(folder)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    expected = torch.linalg.svdvals(tensors(before)["lm_head.weight"].double())
    spectrum = torch.linalg.svdvals(tensors(folder)["lm_head.weight"].double())
    assert (spectrum - expected).abs().max() <= 1e-6 * expected[0]


def test_tied_embedding_on_request_is_blended_once_and_tied_again(
    make_config: MakeConfig, chain: dict[str, Path]
) -> None:
    folder = blended(make_config(selection={"embeddings": True}))[0.0]
    assert "lm_head.weight" not in tensors(folder)
    model = loads_cleanly(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert not torch.equal(
        tensors(folder)["model.embed_tokens.weight"],
        tensors(chain["rl2"])["model.embed_tokens.weight"],
    )


def test_meta_and_logs_use_the_usual_names(make_config: MakeConfig) -> None:
    config = make_config()
    folder = blended(config)[0.5]
    meta = json.loads((folder / "svd_blend_meta.json").read_text())
    assert meta["model_before"] == config.before
    assert meta["model_after"] == config.after
    assert meta["alpha"] == 0.5
    assert meta["dtype"] == "float32"
    assert meta["blended_keys_count"] == len(meta["blended_keys"]) == 14
    assert meta["skipped_keys_count"] == len(meta["skipped_keys"])
    assert ["model.embed_tokens.weight", "embedding"] in meta["skipped_keys"]
    name = "model.layers.0.mlp.up_proj.weight"
    layer = meta["per_layer_meta"][name]
    assert layer["shape"] == [80, 48]
    assert layer["sigma_len"] == 48
    assert layer["log_file"] == "svd_logs/alpha_0.5/model__layers__0__mlp__up_proj__weight.pt"
    log = torch.load(folder / layer["log_file"], weights_only=True)
    assert log["alpha"] == 0.5
    assert log["shape"].tolist() == [80, 48]
    assert log["alpha"].item() == 0.5
    assert meta["log_dir"] == f"{meta['output_dir']}/svd_logs/alpha_0.5"
    assert (meta["cpu_only"], meta["svd_device"]) == (True, "cpu")
    middle = 0.5 * (log["sigma_before"] + log["sigma_after"])
    assert torch.allclose(log["sigma_blend"], middle.sort(descending=True).values, rtol=1e-12)


def test_one_spectrum_of_every_shape_is_checked(make_config: MakeConfig) -> None:
    folder = blended(make_config())[0.0]
    layers = json.loads((folder / "svd_blend_meta.json").read_text())["per_layer_meta"].values()
    checked = {tuple(x["shape"]) for x in layers if x["spectrum_error"] is not None}
    assert checked == {tuple(x["shape"]) for x in layers}
    assert all(x["spectrum_error"] <= 1e-6 for x in layers if x["spectrum_error"] is not None)


def test_failed_spectrum_check_uses_a_direct_svd(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from svdjobs.kernels import blend as kernel

    correct = kernel.signal

    def wrong(*arguments: torch.Tensor) -> torch.Tensor:
        return correct(*arguments) * 1.5

    monkeypatch.setattr(kernel, "signal", wrong)
    config = make_config(selection={"include": [r"layers\.0\.mlp\.up_proj"]}, rotations=None)
    folder = blended(config)[0.0]
    assert "using a direct SVD" in capsys.readouterr().err
    layer = json.loads((folder / "svd_blend_meta.json").read_text())["per_layer_meta"]
    assert layer["model.layers.0.mlp.up_proj.weight"]["spectrum_error"] <= 1e-6


def test_more_alphas_than_one_pass_takes(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alphas = [0, 0.25, 0.5, 0.75, 1]
    together = blended(make_config(alphas=alphas, store=str(tmp_path / "a")))
    monkeypatch.setattr(blend, "ALPHAS_PER_PASS", 2)
    apart = blended(make_config(alphas=alphas, store=str(tmp_path / "b")))
    for alpha in alphas:
        first, second = (folders[alpha] / "model.safetensors" for folders in (together, apart))
        assert first.read_bytes() == second.read_bytes()


def test_float8_is_blended_by_its_values_with_a_complex_buffer_in_the_file(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    name, buffer = "model.layers.0.mlp.up_proj.weight", torch.polar(torch.ones(3), torch.ones(3))
    folders = {}
    for role in ("base", "rl2"):
        folders[role] = Path(shutil.copytree(chain[role], tmp_path / role))
        content = tensors(chain[role])
        content |= {
            name: (content[name] * 64).to(torch.float8_e4m3fn),
            f"{name}_scale_inv": torch.full((1, 1), 1 / 64),
            "frequencies": buffer,
        }
        save_file(content, folders[role] / "model.safetensors")
        config = json.loads((folders[role] / "config.json").read_text())
        config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [128, 128]}
        (folders[role] / "config.json").write_text(json.dumps(config))
    config = make_config(before=str(folders["base"]), after=str(folders["rl2"]))
    folder_of = blended(config)
    sources = open_sources(RunCheckpoints(config), LocalStore(config.store_url), stage="test")
    computed = dict(tensors_at(config, sources, 0.0))
    before, after = (open_checkpoint(str(folders[role])).read(name) for role in ("base", "rl2"))
    zero, one = tensors(folder_of[0.0]), tensors(folder_of[1.0])
    assert torch.equal(one[name], after)
    expected = after.double() + truth(before, after)
    assert (zero[name] - expected).norm() <= 1e-7 * expected.norm()
    assert f"{name}_scale_inv" not in zero
    assert torch.equal(zero["frequencies"], buffer)
    assert computed.keys() == zero.keys()
    assert all(torch.equal(computed[key], tensor) for key, tensor in zero.items())
    assert "quantization_config" not in json.loads((folder_of[0.0] / "config.json").read_text())
