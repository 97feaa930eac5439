from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from svdjobs.checkpoint.heads import missing_head, other_head
from svdjobs.checkpoint.selection import (
    core_coverage,
    coverage,
    coverage_line,
    layer_and_family,
    select,
)
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import SelectionConfig, SweepConfig
from svdjobs.errors import ConfigError
from svdjobs.records import SkipReason, TensorPlan
from tests.checkpoints import make_checkpoint


def reasons(before: Path, after: Path, **rules: object) -> dict[str, str | None]:
    plans = select(
        open_checkpoint(str(before)),
        open_checkpoint(str(after)),
        SelectionConfig.model_validate(rules),
    )
    return {plan.name: plan.skip for plan in plans}


def test_attention_and_mlp_weights_by_default(chain: dict[str, Path]) -> None:
    found = reasons(chain["base"], chain["rl2"])
    kept = {name for name, skip in found.items() if skip is None}
    assert len(kept) == 2 * 7
    assert all(".self_attn." in name or ".mlp." in name for name in kept)
    assert found["model.embed_tokens.weight"] == "embedding"
    assert found["model.norm.weight"] == "ndim!=2"
    assert found["model.layers.0.self_attn.q_proj.bias"] == "ndim!=2"


def test_embeddings_on_request(tmp_path: Path) -> None:
    untied = make_checkpoint(tmp_path / "untied", tied=False)
    assert reasons(untied, untied)["lm_head.weight"] == "embedding"
    found = reasons(untied, untied, embeddings=True)
    assert found["lm_head.weight"] is None
    assert found["model.embed_tokens.weight"] is None


def test_patterns(chain: dict[str, Path]) -> None:
    found = reasons(chain["base"], chain["rl2"], include=["q_proj"], exclude=[r"layers\.1\."])
    assert [name for name, skip in found.items() if skip is None] == [
        "model.layers.0.self_attn.q_proj.weight"
    ]
    assert found["model.layers.1.self_attn.q_proj.weight"] == "excluded"
    assert found["model.layers.0.mlp.up_proj.weight"] == "not_included"


def test_every_reason_is_the_tensor_s_own(tmp_path: Path) -> None:
    """A mask of integers, a matrix without rows, a table that is no layer's, a bias of two axes."""
    folder = make_checkpoint(tmp_path / "odd")
    path = folder / "model.safetensors"
    odd = {
        "model.layers.0.self_attn.mask": torch.ones(4, 4, dtype=torch.int64),
        "model.layers.0.self_attn.nothing.weight": torch.ones(0, 8),
        "model.score.weight": torch.ones(2, 8),
        "model.layers.0.self_attn.relative_bias": torch.ones(4, 4),
        "model.layers.0.self_attn.stack.weight": torch.ones(2, 4, 4),
    }
    save_file({**load_file(path), **odd}, path)
    found = reasons(folder, folder)
    assert [found[name] for name in odd] == [
        "not_floating_point",
        "empty",
        "not_attention_or_mlp",
        "not_a_weight",
        "ndim!=2",
    ]
    opened = open_checkpoint(str(folder))
    share, left = core_coverage(select(opened, opened, SelectionConfig()))
    assert left == {"not_floating_point": 16, "empty": 0, "ndim!=2": 32}
    assert 0.99 < share < 1


def test_missing_and_misshapen(chain: dict[str, Path], tmp_path: Path) -> None:
    wider = make_checkpoint(tmp_path / "wider", intermediate_size=96, num_hidden_layers=3)
    found = reasons(chain["base"], wider)
    assert found["model.layers.0.mlp.up_proj.weight"] == "shape_mismatch"
    assert found["model.layers.2.self_attn.q_proj.weight"] == "missing_in_before"


def test_lm_head_stored_beside_a_tied_embedding(chain: dict[str, Path], tmp_path: Path) -> None:
    untied = make_checkpoint(tmp_path / "untied", tied=False)
    config = json.loads((untied / "config.json").read_text())
    (untied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": True}))
    assert reasons(chain["base"], untied, embeddings=True)["lm_head.weight"] == "tied"


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"include": ["("]}, "not a regular expression"),
        ({"exclude": ["kproj"]}, "'kproj' matches no tensor"),
    ],
)
def test_patterns_that_cannot_work(
    chain: dict[str, Path], rules: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        reasons(chain["base"], chain["rl2"], **rules)


def test_coverage_counts_every_parameter(chain: dict[str, Path]) -> None:
    opened = open_checkpoint(str(chain["rl2"]))
    plans = select(opened, opened, SelectionConfig())
    counts = coverage(plans)
    assert sum(counts.values()) == sum(entry.elements for entry in opened.entries.values())
    line = coverage_line(plans)
    assert line.startswith(f"blended 14 of {len(plans)} tensors")
    assert "embedding" in line
    assert "ndim!=2" in line


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.12.self_attn.q_proj.weight", (12, "self_attn.q_proj")),
        ("transformer.h.3.attn.c_attn.weight", (3, "attn.c_attn")),
        ("model.layers.0.mlp.experts.7.up_proj.weight", (0, "mlp.experts.up_proj")),
        ("lm_head.weight", (None, "lm_head")),
    ],
)
def test_layer_and_family(name: str, expected: tuple[int | None, str]) -> None:
    assert layer_and_family(name) == expected


def named(tmp_path: Path, *names: str, shape: tuple[int, ...] = (6, 4)) -> Path:
    """Make a checkpoint of these tensors."""
    tmp_path.mkdir()
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["A"]}))
    save_file({name: torch.ones(shape) for name in names}, tmp_path / "model.safetensors")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("model.layers.0.mlp.gate.weight", "router"),
        ("model.layers.0.block_sparse_moe.gate.weight", "router"),
        ("model.layers.0.mlp.router.weight", "router"),
        ("model.layers.0.feed_forward.router.weight", "router"),
        ("model.layers.0.mlp.shared_expert_gate.weight", "router"),
        ("model.layers.0.mlp.gate_proj.weight", None),
        ("model.layers.0.linear_attn.out_proj.weight", "linear_attention"),
        ("model.layers.0.linear_attn.in_proj_qkvz.weight", "fused"),
        ("backbone.layers.0.mixer.in_proj.weight", "state_space"),
        ("model.layers.0.mamba.out_proj.weight", "state_space"),
        ("model.layers.0.conv.in_proj.weight", "convolution"),
        ("model.visual.blocks.0.mlp.fc1.weight", None),
        ("model.layers.0.self_attn.qkv_proj.weight", "fused"),
        ("model.layers.0.something.weight", "not_attention_or_mlp"),
    ],
)
def test_why_a_matrix_is_not_blended(name: str, reason: str | None, tmp_path: Path) -> None:
    folder = named(tmp_path / "a", name)
    assert reasons(folder, folder) == {name: reason}
    assert reasons(folder, folder, include=["."]) == {name: None}


def test_all_is_every_matrix_as_scripts_of_the_field_take_them(tmp_path: Path) -> None:
    untied = make_checkpoint(tmp_path / "untied", tied=False)
    rules = SweepConfig.model_validate(
        {"name": "x", "before": "a", "after": "b", "selection": "all"}
    ).selection
    found = reasons(untied, untied, **rules.model_dump())
    shapes = {n: e.shape for n, e in open_checkpoint(str(untied)).entries.items()}
    assert {n for n, skip in found.items() if skip is None} == {
        name for name, shape in shapes.items() if len(shape) == 2
    }


def test_what_counts_for_coverage() -> None:
    def planned(name: str, skip: SkipReason | None, rows: int) -> TensorPlan:
        return TensorPlan(name=name, shape=(rows, 10), dtype="F32", skip=skip)

    share, others = core_coverage([
        planned("model.layers.0.self_attn.q_proj.weight", None, 60),
        planned("model.layers.0.mlp.up_proj.weight", "shape_mismatch", 10),
        planned("model.layers.0.mixer.in_proj.weight", "state_space", 30),
        planned("model.layers.0.mlp.down_proj.weight", "excluded", 500),
        planned("model.layers.0.mlp.gate.weight", "router", 500),
        planned("model.embed_tokens.weight", "embedding", 500),
    ])  # fmt: skip
    assert share == 0.6
    assert others == {"shape_mismatch": 100, "state_space": 300}


def test_heads_that_are_not_what_the_config_says(tmp_path: Path) -> None:
    untied = make_checkpoint(tmp_path / "untied", tied=False)
    tied = make_checkpoint(tmp_path / "tied", tied=True)
    for folder in (untied, tied):
        opened = open_checkpoint(str(folder))
        assert missing_head(opened) is None
        assert other_head(opened) is None
        config = json.loads((folder / "config.json").read_text())
        config["tie_word_embeddings"] = not config["tie_word_embeddings"]
        (folder / "config.json").write_text(json.dumps(config))
    words = other_head(open_checkpoint(str(untied)))
    assert words is not None
    assert "lm_head.weight differs from model.embed_tokens.weight" in words
    words = missing_head(open_checkpoint(str(tied)))
    assert words is not None
    assert "an engine would fill it with random numbers" in words
