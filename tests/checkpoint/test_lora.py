"""LoRA adapters as checkpoints: their tensors equal those that PEFT merges."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import svdjobs
from svdjobs.checkpoint.reader import Checkpoint
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import SweepConfig
from svdjobs.errors import CheckpointError
from svdjobs.stages import plan
from svdjobs.standalone import diff
from svdjobs.storage.local import LocalStore
from tests.checkpoints import tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
MakeConfig = Callable[..., SweepConfig]


def trained(base: Path, folder: Path, **settings: Any) -> dict[str, torch.Tensor]:
    """Let PEFT save an adapter with random factors over a base. Return the merged weights."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    chosen = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"], **settings}
    adapted = get_peft_model(model, LoraConfig(**chosen))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    adapted.save_pretrained(str(folder))
    return dict(adapted.merge_and_unload().state_dict())


def assert_read_as(opened: Checkpoint, expected: dict[str, torch.Tensor], base: Path) -> set[str]:
    """Check that every tensor is as expected. Return the names of those that differ from base."""
    changed = set()
    for name, old in tensors(base).items():
        found = opened.read(name)
        torch.testing.assert_close(found, expected[name], rtol=1e-6, atol=1e-7)
        if not torch.equal(found, old):
            changed.add(name)
    return changed


@pytest.mark.filterwarnings("ignore:(Model (has|with) `tie|Setting `save_emb):UserWarning")
@pytest.mark.parametrize(
    ("settings", "suffixes"),
    [
        ({}, {"q_proj", "down_proj"}),
        ({"use_rslora": True}, {"q_proj", "down_proj"}),
        ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {r"layers\.1\.mlp\.down_proj": 20}},
         {"q_proj", "down_proj"}),
        ({"target_modules": ["v_proj"], "layers_to_transform": [1]}, {"v_proj"}),
        ({"target_modules": ["embed_tokens", "o_proj"]}, {"embed_tokens", "o_proj"}),
        ({"modules_to_save": ["model.norm"]}, {"q_proj", "down_proj", "norm"}),
        ({"init_lora_weights": "gaussian"}, {"q_proj", "down_proj"}),
    ],
    ids=["plain", "rank-stabilised", "patterns", "one layer", "embedding", "whole", "gaussian"],
)  # fmt: skip
def test_an_adapter_is_its_base_as_peft_merges_it(
    settings: dict[str, Any], suffixes: set[str], chain: dict[str, Path], tmp_path: Path
) -> None:
    base = chain["base"]
    expected = trained(base, tmp_path / "lora", **settings)
    opened = open_checkpoint(str(tmp_path / "lora"))
    changed = assert_read_as(opened, expected, base)
    assert {name.split(".")[-2] for name in changed} == suffixes
    if "layers_to_transform" in settings:
        assert {name for name in changed if ".layers.0." in name} == set()


def test_a_matrix_that_is_stored_in_out(tmp_path: Path) -> None:
    """GPT-2's matrices are [in, out]: fan_in_fan_out."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    base = tmp_path / "gpt2"
    GPT2LMHeadModel(
        GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=1, n_head=2)
    ).save_pretrained(base)
    settings = {"target_modules": ["c_attn"], "fan_in_fan_out": True}
    expected = trained(base, tmp_path / "lora", **settings)
    changed = assert_read_as(open_checkpoint(str(tmp_path / "lora")), expected, base)
    assert changed == {"transformer.h.0.attn.c_attn.weight"}
    document = json.loads((tmp_path / "lora" / CONFIG).read_text())
    (tmp_path / "lora" / CONFIG).write_text(json.dumps({**document, "fan_in_fan_out": False}))
    with pytest.raises(CheckpointError, match=r"do not fit.*fan_in_fan_out is wrong"):
        open_checkpoint(str(tmp_path / "lora"))


@pytest.fixture
def lora(chain: dict[str, Path], tmp_path: Path) -> Path:
    """An adapter over the base."""
    trained(chain["base"], tmp_path / "lora")
    return tmp_path / "lora"


def test_a_base_in_16_bits_is_merged_in_float32(
    lora: Path, chain: dict[str, Path], tmp_path: Path
) -> None:
    base = tmp_path / "bfloat16"
    shutil.copytree(chain["base"], base)
    rounded = {name: value.to(torch.bfloat16) for name, value in tensors(base).items()}
    save_file(rounded, base / "model.safetensors", metadata={"format": "pt"})
    opened = open_checkpoint(f"{base} + {lora}")
    name = "model.layers.0.self_attn.q_proj.weight"
    prefix = f"base_model.model.{name.removesuffix('.weight')}"
    factors = load_file(lora / WEIGHTS)
    update = 6 / 4 * factors[f"{prefix}.lora_B.weight"] @ factors[f"{prefix}.lora_A.weight"]
    torch.testing.assert_close(opened.read(name), rounded[name].float() + update)
    assert opened.entries[name].dtype == "F32"


def test_the_base_may_be_given(lora: Path, chain: dict[str, Path], tmp_path: Path) -> None:
    document = json.loads((lora / CONFIG).read_text())
    shutil.copytree(lora, tmp_path / "nameless")
    nameless = {**document, "base_model_name_or_path": None}
    (tmp_path / "nameless" / CONFIG).write_text(json.dumps(nameless))
    with pytest.raises(CheckpointError, match=r"names no base_model_name_or_path.*`BASE \+ "):
        open_checkpoint(str(tmp_path / "nameless"))
    named, given = (
        open_checkpoint(source)
        for source in (str(lora), f"{chain['base']} + {tmp_path / 'nameless'}")
    )
    for name in named.entries:
        assert torch.equal(named.read(name), given.read(name))
    with pytest.raises(CheckpointError, match="holds no adapter"):
        open_checkpoint(f"{chain['base']} + {chain['rl1']}")


def test_a_sweep_of_an_adapter_sees_its_update(
    lora: Path, chain: dict[str, Path], make_config: MakeConfig
) -> None:
    """The adapter is `after`: all matrices are blended; those it leaves alone do not differ."""
    config = make_config(after=str(lora), tokenizer=str(chain["base"]), rotations=None)
    store = LocalStore(config.store_url)
    made = plan.run(config, store)
    assert len(made.selected) == 14
    assert made.rounding == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', not LORA"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"r": 0}, "no usable r and lora_alpha"),
        ({"lora_alpha": "x"}, "no usable r and lora_alpha"),
        ({"rank_pattern": {"(": 2}}, "no usable r and lora_alpha"),
    ],
)
def test_adapters_of_other_kinds_are_refused_by_name(
    change: dict[str, Any], words: str, lora: Path
) -> None:
    document = json.loads((lora / CONFIG).read_text())
    (lora / CONFIG).write_text(json.dumps({**document, **change}))
    with pytest.raises(CheckpointError, match=words):
        open_checkpoint(str(lora))


def test_factors_that_fit_nothing(lora: Path, chain: dict[str, Path], tmp_path: Path) -> None:
    whole = load_file(lora / WEIGHTS)
    one = next(key for key in whole if "lora_B" in key)
    save_file({key: value for key, value in whole.items() if key != one}, lora / WEIGHTS)
    with pytest.raises(CheckpointError, match="only one of the two factors"):
        open_checkpoint(str(lora))
    save_file({key.replace("q_proj", "k_proj"): v for key, v in whole.items()}, lora / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"do not fit .*k_proj.weight \[24, 48\]"):
        open_checkpoint(str(lora))
    renamed = {key.replace("layers.0", "layers.7"): value for key, value in whole.items()}
    save_file(renamed, lora / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"changes 2 tensors that .*e\.g\. .*layers\.7"):
        open_checkpoint(str(lora))
    vectors = {**whole, one.replace("lora_B", "lora_magnitude_vector"): torch.ones(3)}
    save_file(vectors, lora / WEIGHTS)
    with pytest.raises(CheckpointError, match="is not a factor of a plain LoRA"):
        open_checkpoint(str(lora))


def test_a_folder_of_an_adapter_and_of_whole_weights(lora: Path, chain: dict[str, Path]) -> None:
    """It is unclear which is meant; `BASE + ADAPTER` is clear."""
    expected = open_checkpoint(str(lora)).read("model.layers.0.self_attn.q_proj.weight")
    for file in chain["rl1"].iterdir():
        shutil.copy(file, lora / file.name)
    with pytest.raises(CheckpointError, match=r"an adapter .* and whole weights \(model\.saf"):
        open_checkpoint(str(lora))
    given = open_checkpoint(f"{chain['base']} + {lora}")
    assert torch.equal(given.read("model.layers.0.self_attn.q_proj.weight"), expected)


def test_adapters_that_were_not_merged(chain: dict[str, Path], tmp_path: Path) -> None:
    """A whole checkpoint with unmerged adapters beside the matrices that they change."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(chain["base"])
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]))
    folder = tmp_path / "unmerged"
    shutil.copytree(chain["base"], folder)
    inner: Any = adapted.base_model.model
    state = inner.state_dict()
    save_file(
        {k: v.clone() for k, v in state.items() if k != "lm_head.weight"},
        folder / "model.safetensors",
    )
    with pytest.raises(
        CheckpointError, match=r"8 tensors are parts of unmerged adapters.*merge_and_unload"
    ):
        open_checkpoint(str(folder))


def test_a_comparison_with_its_base_finds_its_rank(tmp_path: Path) -> None:
    base = Path(svdjobs.__file__).parent / "demo" / "checkpoints" / "base"
    adapter = tmp_path / "adapter"
    trained(base, adapter)
    config = diff.config_of(
        [str(base), str(adapter)],
        store_url=str(tmp_path / "run"),
        overrides=["metrics.heads=false"],
    )
    found = diff.run(config)
    assert found.verdict[0].startswith("Changed: 6 of 21 matrices")
    for row in found.rows:
        adapted = row.family in ("self_attn.q_proj", "mlp.down_proj")
        assert row.values.get("spikes", 0) == (4 if adapted else 0), row.name
