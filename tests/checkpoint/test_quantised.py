"""Quantised checkpoints: float8 is dequantised, integers are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from svdjobs.checkpoint.on_disk import on_disk
from svdjobs.checkpoint.quantised import NOISE
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.errors import CheckpointError
from tests.checkpoints import tensors

NAME = "model.layers.0.mlp.up_proj.weight"
FLOAT8 = torch.float8_e4m3fn


def saved(folder: Path, content: dict[str, torch.Tensor], **config: Any) -> Path:
    folder.mkdir()
    save_file(content, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architectures": ["X"], **config}))
    return folder


def gaussian(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def multiplied(w: torch.Tensor, scale: torch.Tensor, rows: int, columns: int) -> np.ndarray:
    """Dequantise blocks element by element, independently of the package."""
    result = w.to(torch.float64).numpy().copy()
    for place in np.ndindex(result.shape):
        *front, i, j = place
        result[place] *= float(scale[(*front, i // rows, j // columns)])
    return result


@pytest.mark.parametrize("scales", [torch.float32, torch.bfloat16, torch.float8_e8m0fnu])
@pytest.mark.parametrize("shape", [(5, 9), (2, 5, 9)])
def test_blocks_are_multiplied_by_their_scales(
    shape: tuple[int, ...], scales: torch.dtype, tmp_path: Path
) -> None:
    w = gaussian(*shape).to(FLOAT8)
    scale = gaussian(*shape[:-2], 3, 3).abs().to(scales)
    content = {
        NAME: w,
        f"{NAME}_scale_inv": scale,
        NAME.replace("weight", "input_scale"): torch.ones(1),
    }
    folder = saved(tmp_path / "x", content, quantization_config={"weight_block_size": [2, 4]})
    opened = open_checkpoint(str(folder))
    assert set(opened.entries) == {NAME}
    expected = multiplied(w, scale.to(torch.float64), 2, 4)
    assert opened.read(NAME).dtype == torch.float32
    np.testing.assert_allclose(opened.read(NAME).numpy(), expected, rtol=1e-6)
    pieces = torch.cat(list(opened.chunks(NAME, elements=7)))
    assert torch.equal(pieces, opened.read(NAME).reshape(-1))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (6,), (6, 1)])
def test_one_scale_for_a_matrix_or_a_row(shape: tuple[int, ...], tmp_path: Path) -> None:
    w, scale = gaussian(6, 4).to(FLOAT8), gaussian(*shape).abs() if shape else torch.tensor(0.25)
    folder = saved(tmp_path / "x", {NAME: w, f"{NAME}_scale": scale})
    per_row = scale.reshape(-1, 1).expand(6, 1)
    assert torch.equal(open_checkpoint(str(folder)).read(NAME), w.to(torch.float32) * per_row)


def test_blocks_are_128_by_128_where_the_config_is_silent(tmp_path: Path) -> None:
    w, scale = gaussian(130, 140).to(FLOAT8), gaussian(2, 2).abs()
    folder = saved(tmp_path / "x", {NAME: w, f"{NAME}_scale_inv": scale})
    found = open_checkpoint(str(folder)).read(NAME)
    assert torch.equal(found[128:, :128], w[128:, :128].to(torch.float32) * scale[1, 0])


@pytest.mark.parametrize(("dtype", "name"), [(FLOAT8, "F8_E4M3"), (torch.float8_e5m2, "F8_E5M2")])
def test_the_noise_floor_is_what_rounding_does(dtype: torch.dtype, name: str) -> None:
    w = gaussian(256, 256)
    scale = w.abs().max() / torch.finfo(dtype).max
    error = (w / scale).to(dtype).to(torch.float32) * scale - w
    assert float(error.norm() / w.norm()) == pytest.approx(NOISE[name], rel=0.05)


def test_a_dequantised_checkpoint_says_so_and_is_written_out_for_an_engine(
    chain: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(chain["base"], tmp_path / "x"))
    content = tensors(folder)
    exact = content[NAME]
    content[NAME] = (exact * 64).to(FLOAT8)
    content[f"{NAME}_scale_inv"] = torch.full((1, 1), 1 / 64)
    save_file(content, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": settings}))
    opened = open_checkpoint(str(folder))
    (note,) = opened.notes
    assert "1 matrices are quantised (F8_E4M3" in note
    assert "Noise floor: rounding to F8_E4M3 alone moved each by about 2.7 %" in note
    with on_disk(opened) as written:
        assert "quantization_config" not in json.loads((written / "config.json").read_text())
        assert torch.equal(tensors(written)[NAME], opened.read(NAME))
        assert set(tensors(written)) == set(tensors(chain["base"]))
    assert float((opened.read(NAME) - exact).norm() / exact.norm()) < 0.04


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"l.qweight": torch.ones(2, 2, dtype=torch.int32)}, r"AWQ or GPTQ.*l\.qweight.*gptqmodel"),
        ({"l.qzeros": torch.ones(2, 2, dtype=torch.int32)}, r"AWQ or GPTQ.*l\.qzeros"),
        ({"l.weight_packed": torch.ones(2, 2, dtype=torch.int32)}, "CompressedTensorsConfig"),
        ({"mlp.experts.down_proj_blocks": torch.ones(2, 2, dtype=torch.uint8)}, "Mxfp4Config"),
        ({"l.weight": torch.ones(4, 1, dtype=torch.uint8), "l.weight.absmax": torch.ones(1)},
         r"bitsandbytes.*dequantize\(\)"),
        ({"l.weight": torch.ones(2, 2, dtype=torch.int8), "l.weight_scale": torch.ones(2, 1)},
         r"\(eetq\), e\.g\. l\.weight \[2, 2\] in I8"),
        ({"l.weight": torch.ones(2, 2, dtype=torch.uint8),
          "l.weight_scale": torch.ones(2, 1).to(FLOAT8)}, r"l\.weight \[2, 2\] in U8"),
        ({NAME: gaussian(2, 2).to(FLOAT8)}, "quantised.*has no .*weight_scale_inv"),
        ({NAME: gaussian(2, 2).to(FLOAT8), f"{NAME}_scale_inv": torch.ones(3, 3)},
         r"_scale_inv is F32 \[3, 3\], expected one of the shapes \[1, 1\]"),
        ({NAME: gaussian(2, 2).to(FLOAT8), f"{NAME}_scale": torch.ones(1, 1, dtype=torch.int32)},
         r"_scale is I32 \[1, 1\]"),
    ],
)  # fmt: skip
def test_quantised_matrices_that_are_refused_are_called_that(
    content: dict[str, torch.Tensor], words: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "x", content, quantization_config={"quant_method": "eetq"})
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("size", [[0, 128], [128], "128", [1.5, 2]])
def test_a_block_size_that_cannot_be(size: object, tmp_path: Path) -> None:
    content = {NAME: gaussian(2, 2).to(FLOAT8), f"{NAME}_scale_inv": torch.ones(1, 1)}
    folder = saved(tmp_path / "x", content, quantization_config={"weight_block_size": size})
    with pytest.raises(CheckpointError, match="expected two positive integers"):
        open_checkpoint(str(folder))


@pytest.mark.parametrize("settings", ["fp8", ["fp8"]])
def test_quantisation_settings_that_are_no_object(settings: object, tmp_path: Path) -> None:
    folder = saved(tmp_path / "x", {NAME: gaussian(2, 2)}, quantization_config=settings)
    with pytest.raises(CheckpointError, match=r"quantization_config is .*expected an object"):
        open_checkpoint(str(folder))
