"""A reversed sweep: before's bases, with singular values from after's to before's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from svdjobs.config import SweepConfig
from svdjobs.records import Plan
from svdjobs.reporting.plan_text import describe
from svdjobs.stages import blend, decompose, plan
from svdjobs.stages import rotations as measured
from svdjobs.storage.local import LocalStore
from tests.checkpoints import tensors
from tests.kernels.pairs import truth

MakeConfig = Callable[..., SweepConfig]


def written(config: SweepConfig) -> dict[str, Path]:
    store = LocalStore(config.store_url)
    plan.run(config, store)
    decompose.run(config, store)
    blend.run(config, store)
    return {folder.name: folder for folder in Path(config.store_url, "checkpoints").iterdir()}


def test_blends_are_those_of_the_two_checkpoints_exchanged(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    """Bit for bit, and equal to the textbook formula; alpha = 1 is `before`."""
    alphas = [0, 0.3, 1]
    reverse = make_config(direction="reverse", alphas=alphas, rotations=None)
    exchanged = make_config(
        before=str(chain["rl2"]), after=str(chain["base"]),
        store=str(tmp_path / "exchanged"), alphas=alphas, rotations=None,
    )  # fmt: skip
    ours, theirs = written(reverse), written(exchanged)
    before, after = tensors(chain["base"]), tensors(chain["rl2"])
    assert set(ours) == set(theirs) and len(ours) == 3
    for alpha, name in zip(alphas, sorted(ours), strict=True):
        blend_of_ours, expected = tensors(ours[name]), tensors(theirs[name])
        meta = json.loads((ours[name] / "svd_blend_meta.json").read_text())
        assert meta["direction"] == "reverse"
        assert len(meta["blended_keys"]) == 14
        for tensor, value in blend_of_ours.items():
            assert torch.equal(value, expected[tensor])
            if tensor in meta["blended_keys"] and alpha != 1:
                textbook = before[tensor].double() + (1 - alpha) * truth(
                    after[tensor], before[tensor]
                )
                assert (value - textbook).norm() <= 1e-7 * textbook.norm()
            else:
                assert torch.equal(value, before[tensor])


def test_logs_name_singular_values_by_checkpoint(
    make_config: MakeConfig, chain: dict[str, Path]
) -> None:
    config = make_config(direction="reverse", alphas=[0], rotations=None)
    (folder,) = written(config).values()
    name = "model.layers.0.mlp.up_proj.weight"
    (log,) = (path for path in folder.rglob("*.pt") if "layers__0__mlp__up_proj" in path.name)
    content = torch.load(log, weights_only=True)
    for role, checkpoint in (("before", "base"), ("after", "rl2")):
        expected = torch.linalg.svdvals(tensors(chain[checkpoint])[name].double())
        assert torch.allclose(content[f"sigma_{role}"].double(), expected, rtol=1e-6)
    assert torch.allclose(content["sigma_blend"], content["sigma_after"], rtol=1e-12)


def test_a_plan_says_which_checkpoint_gives_the_bases(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    config = make_config(direction="reverse", rotations=None)
    made: Plan = plan.run(config, LocalStore(config.store_url))
    assert any("alpha = 1 is before" in line for line in describe(made))


def test_another_direction_is_another_run_of_blends(
    make_config: MakeConfig, chain: dict[str, Path]
) -> None:
    config = make_config(alphas=[0], rotations=None)
    (folder,) = written(config).values()
    forward = load_file(folder / "model.safetensors")
    (folder,) = written(config.model_copy(update={"direction": "reverse"})).values()
    reverse = load_file(folder / "model.safetensors")
    assert any(not torch.equal(forward[name], reverse[name]) for name in forward)


@pytest.mark.parametrize("rl2", [None, "rl2"])
def test_rotations_go_from_base_to_rl2_in_both_directions(
    make_config: MakeConfig, chain: dict[str, Path], rl2: str | None, tmp_path: Path
) -> None:
    """Rows are equal except for the last bits: the chain's ends have other checkpoint ids."""
    rows = []
    for direction in ("forward", "reverse"):
        config = make_config(
            store=str(tmp_path / direction), direction=direction, evaluate=None,
            rotations={"rl1": str(chain["rl1"]), "rl2": rl2 and str(chain[rl2])},
        )  # fmt: skip
        store = LocalStore(config.store_url)
        plan.run(config, store)
        decompose.run(config, store)
        measured.run(config, store)
        lines = Path(config.store_url, "rotations", "rows-00000.jsonl").read_text().splitlines()
        rows.append([json.loads(line) for line in lines])
    for forward, reverse in zip(*rows, strict=True):
        assert forward["name"] == reverse["name"]
        assert forward["metrics"]["nss"] == pytest.approx(reverse["metrics"]["nss"], rel=1e-9)
