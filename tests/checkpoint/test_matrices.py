"""Checkpoints that store several matrices in one tensor: how they are divided and written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from svdjobs.checkpoint.matrices import Sizes, matrices
from svdjobs.checkpoint.selection import layer_and_family
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import SweepConfig, alpha_id
from svdjobs.errors import CheckpointError
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.stages import blend, decompose, plan
from svdjobs.storage.local import LocalStore
from svdjobs.weights.blended import open_sources, tensors_at
from tests.checkpoints import tokenizer
from tests.kernels.pairs import truth

MakeConfig = Callable[..., SweepConfig]
SIZES = {
    "vocab_size": 300, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "tie_word_embeddings": False, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def save(folder: Path, config: dict[str, Any], weights: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(
        {n: w.contiguous() for n, w in weights.items()},
        folder / "model.safetensors",
        {"format": "pt"},
    )
    tokenizer().save_pretrained(folder)
    return folder


def saved(folder: Path, model: Any) -> Path:
    """Let transformers write config and weights."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def moved(weights: dict[str, torch.Tensor], seed: int = 1) -> dict[str, torch.Tensor]:
    """Return all weights with a small random update."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: w + 1e-3 * w.std() * torch.randn(w.shape, generator=generator) if w.ndim > 1 else w
        for name, w in weights.items()
    }


def swept(config: SweepConfig) -> dict[float, dict[str, torch.Tensor]]:
    """Return the tensors of every blend, after a check that an engine gets the same bits."""
    store = LocalStore(config.store_url)
    plan.run(config, store)
    decompose.run(config, store)
    blend.run(config, store)
    found = {}
    for alpha in config.alphas:
        folder = Path(config.store_url, "checkpoints", alpha_id(alpha))
        found[alpha] = load_file(folder / "model.safetensors")
        fed = dict(
            tensors_at(config, open_sources(RunCheckpoints(config), store, stage="blend"), alpha)
        )
        assert fed.keys() == found[alpha].keys()
        assert all(torch.equal(fed[name], found[alpha][name]) for name in fed)
    return found


def phi3(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    from transformers import Phi3Config, Phi3ForCausalLM

    torch.manual_seed(0)
    model = Phi3ForCausalLM(Phi3Config(**SIZES))
    return saved(folder, model), {n: w.detach().clone() for n, w in model.state_dict().items()}


def test_rows_of_qkv_and_of_gate_and_up(tmp_path: Path) -> None:
    folder, weights = phi3(tmp_path / "phi3")
    view = matrices(open_checkpoint(str(folder))).view
    stem = "model.layers.1"
    fused = weights[f"{stem}.self_attn.qkv_proj.weight"]
    for name, rows in (
        ("q_proj", slice(0, 48)),
        ("k_proj", slice(48, 72)),
        ("v_proj", slice(72, 96)),
    ):
        assert torch.equal(view.read(f"{stem}.self_attn.{name}.weight"), fused[rows])
    gate, up = weights[f"{stem}.mlp.gate_up_proj.weight"].chunk(2)
    assert torch.equal(view.read(f"{stem}.mlp.gate_proj.weight"), gate)
    assert torch.equal(view.read(f"{stem}.mlp.up_proj.weight"), up)
    assert "2 gate_up_proj, 2 qkv_proj hold several matrices each" in view.notes[0]


def test_a_fused_checkpoint_is_blended_as_its_matrices_and_written_fused(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    folder, weights = phi3(tmp_path / "before")
    after = moved(weights)
    save(tmp_path / "after", json.loads((folder / "config.json").read_text()), after)
    config = make_config(
        before=str(folder), after=str(tmp_path / "after"), rotations=None, alphas=[0, 0.5, 1]
    )
    blends = swept(config)
    for alpha, found in blends.items():
        assert found.keys() == after.keys()
        for name, w in after.items():
            assert found[name].shape == w.shape
            if alpha == 1 or w.ndim == 1:
                assert torch.equal(found[name], w)
        for layer in range(2):
            name = f"model.layers.{layer}.self_attn.qkv_proj.weight"
            rows = (slice(0, 48), slice(48, 72), slice(72, 96))
            pairs = [(weights[name][part], after[name][part]) for part in rows]
            expected = torch.cat([a + (1 - alpha) * truth(b, a) for b, a in pairs])
            assert (found[name] - expected).norm() <= 1e-6 * expected.norm()
    whole = "model.layers.0.self_attn.qkv_proj.weight"
    as_one = after[whole] + truth(weights[whole], after[whole])
    change = (blends[0][whole] - after[whole]).norm()
    assert (blends[0][whole] - as_one).norm() > 0.1 * change  # another question


def test_heads_of_gpt_neox_and_columns_of_gpt2(tmp_path: Path) -> None:
    """Each piece times an input equals the part of the fused product that transformers takes."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

    x_H = torch.randn(48)
    neox = GPTNeoXForCausalLM(GPTNeoXConfig(**{**SIZES, "num_key_value_heads": 4}))
    view = matrices(open_checkpoint(str(saved(tmp_path / "neox", neox)))).view
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    by_head = (neox.state_dict()[name] @ x_H).view(4, 3, 12)
    for number, part in enumerate(("q_proj", "k_proj", "v_proj")):
        w_MN = view.read(f"gpt_neox.layers.0.attention.{part}.weight")
        assert torch.allclose(w_MN @ x_H, by_head[:, number].reshape(-1), atol=1e-6)
    config = GPT2Config(
        vocab_size=300,
        n_embd=48,
        n_layer=1,
        n_head=4,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    gpt2 = GPT2LMHeadModel(config)
    view = matrices(open_checkpoint(str(saved(tmp_path / "gpt2", gpt2)))).view
    (stem,) = {n.rpartition(".q_proj")[0] for n in view.entries if ".q_proj" in n}
    fused = x_H @ gpt2.state_dict()["transformer.h.0.attn.c_attn.weight"]
    for part, expected in zip(("q_proj", "k_proj", "v_proj"), fused.split(48), strict=True):
        w_MN = view.read(f"{stem}.{part}.weight")
        assert torch.allclose(w_MN @ x_H, expected, atol=1e-6)


EXPERTS, INNER = 3, 32
MOE = {
    **SIZES,
    "num_experts": EXPERTS,
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": INNER,
    "head_dim": 12,
}


def experts(seed: int = 0) -> dict[str, torch.Tensor]:
    """One layer's experts and its other weights, each matrix alone, as on the hub."""
    generator = torch.Generator().manual_seed(seed)

    def w(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    found = {
        "model.embed_tokens.weight": w(300, 48),
        "lm_head.weight": w(300, 48),
        "model.layers.0.self_attn.q_proj.weight": w(48, 48),
        "model.layers.0.mlp.gate.weight": w(EXPERTS, 48),
    }
    for number in range(EXPERTS):
        for part, shape in (
            ("gate_proj", (INNER, 48)),
            ("up_proj", (INNER, 48)),
            ("down_proj", (48, INNER)),
        ):
            found[f"model.layers.0.mlp.experts.{number}.{part}.weight"] = w(*shape)
    return found


def stacked(
    weights: dict[str, torch.Tensor], *, transposed: bool = False, alternate: bool = False
) -> dict[str, torch.Tensor]:
    """The same in stacks, as in transformers' memory and in the files of some checkpoints."""
    stem = "model.layers.0.mlp.experts"
    alone = {n: w for n, w in weights.items() if ".experts." not in n}
    parts = {
        p: torch.stack([weights[f"{stem}.{e}.{p}.weight"] for e in range(EXPERTS)])
        for p in ("gate_proj", "up_proj", "down_proj")
    }
    both = [parts["gate_proj"], parts["up_proj"]]
    gate_up = torch.stack(both, 2).flatten(1, 2) if alternate else torch.cat(both, 1)
    down = parts["down_proj"]
    if transposed:
        gate_up, down = gate_up.transpose(1, 2), down.transpose(1, 2)
    return {**alone, f"{stem}.gate_up_proj": gate_up, f"{stem}.down_proj": down}


@pytest.mark.parametrize(
    ("model_type", "form"),
    [
        ("qwen3_moe", {}),
        ("something_new", {}),
        ("llama4_text", {"transposed": True}),
        ("something_new", {"transposed": True}),
        ("gpt_oss", {"transposed": True, "alternate": True}),
    ],
)
def test_a_stack_is_the_experts_it_is_made_of(
    model_type: str, form: dict[str, bool], tmp_path: Path
) -> None:
    weights = experts()
    config = {**MOE, "architectures": ["A"], "model_type": model_type}
    view = matrices(
        open_checkpoint(str(save(tmp_path / "a", config, stacked(weights, **form))))
    ).view
    assert view.entries.keys() == weights.keys()
    for name, w in weights.items():
        assert torch.equal(view.read(name), w)


def test_a_square_stack_is_divided_for_known_models_only(tmp_path: Path) -> None:
    weights = {
        n: w[:24] if "gate_proj" in n or "up_proj" in n else w[:, :24] if "down_proj" in n else w
        for n, w in experts().items()
    }
    for model_type, divided in (("qwen3_moe", True), ("something_new", False)):
        config = {
            **MOE,
            "moe_intermediate_size": 24,
            "architectures": ["A"],
            "model_type": model_type,
        }
        opened = open_checkpoint(str(save(tmp_path / model_type, config, stacked(weights))))
        view = matrices(opened).view
        assert ("model.layers.0.mlp.experts.0.up_proj.weight" in view.entries) == divided


def test_two_generations_of_one_model_match_expert_by_expert(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """`before` holds each expert alone, with Mixtral's old names; `after` holds stacks."""
    weights, after = experts(), moved(experts())
    old = {}
    for name, w in weights.items():
        name = name.replace(".mlp.", ".block_sparse_moe.") if "experts" in name else name
        for new, short in (("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
            name = name.replace(f".{new}.", f".{short}.") if "experts" in name else name
        old[name] = w
    config = {
        **MOE,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "intermediate_size": INNER,
    }
    before = save(tmp_path / "before", config, old)
    save(tmp_path / "after", config, stacked(after))
    sweep = make_config(
        before=str(before), after=str(tmp_path / "after"), rotations=None, evaluate=None, alphas=[0]
    )
    made = plan.run(sweep, LocalStore(sweep.store_url))
    assert len(made.selected) == 1 + 3 * EXPERTS
    assert {t.skip for t in made.tensors if "gate.weight" in t.name} == {"router"}
    (found,) = swept(sweep).values()
    expected = stacked(
        {n: a + truth(weights[n], a) if "proj" in n else a for n, a in after.items()}
    )
    assert found.keys() == expected.keys()
    for name, w in expected.items():
        assert (found[name] - w).norm() <= 1e-6 * w.norm()


def test_a_stack_that_cannot_be_divided_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    config = {**MOE, "architectures": ["A"], "model_type": "new", "moe_intermediate_size": 31}
    for role, weights in (("before", experts()), ("after", moved(experts()))):
        save(tmp_path / role, config, stacked(weights))
    sweep = make_config(
        before=str(tmp_path / "before"),
        after=str(tmp_path / "after"),
        rotations=None,
        evaluate=None,
    )
    words = r"14\.3 % of the attention and MLP parameters .* at least 80 %.*fused 13,824 .*gate_up"
    with pytest.raises(CheckpointError, match=words):
        plan.run(sweep, LocalStore(sweep.store_url))
    low = sweep.model_copy(
        update={"selection": sweep.selection.model_copy(update={"minimum_coverage": 0.1})}
    )
    assert len(plan.run(low, LocalStore(low.store_url)).selected) == 1


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("model.layers.3.mlp.experts.17.up_proj.weight", (3, "mlp.experts.up_proj")),
        ("model.layers.3.mlp.up_proj.weight", (3, "mlp.up_proj")),
        ("model.layers.3.mlp.shared_expert.up_proj.weight", (3, "mlp.shared_expert.up_proj")),
        ("model.visual.blocks.2.attn.proj.weight", (2, "visual: attn.proj")),
        ("model.language_model.layers.2.self_attn.q_proj.weight", (2, "self_attn.q_proj")),
    ],
)
def test_families(name: str, family: tuple[int, str]) -> None:
    assert layer_and_family(name) == family


@pytest.mark.parametrize(
    ("config", "dimension"),
    [
        ({"hidden_size": 64, "num_attention_heads": 2}, 32),
        ({"hidden_size": 64, "num_attention_heads": 2, "head_dim": 16}, 16),
        ({"text_config": {"hidden_size": 96, "num_attention_heads": 2}}, 48),
        ({"n_embd": 96, "n_head": 2}, 48),
        ({}, 0),
    ],
)
def test_the_size_of_a_head(config: dict[str, Any], dimension: int) -> None:
    assert Sizes.of(config).head == dimension
