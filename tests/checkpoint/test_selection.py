from __future__ import annotations

from pathlib import Path

import pytest

from svdjobs.checkpoint.selection import coverage, coverage_line, layer_and_family, select
from svdjobs.checkpoint.sources import open_checkpoint
from svdjobs.config import SelectionConfig
from svdjobs.errors import ConfigError
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
    assert found["model.layers.0.mlp.up_proj.weight"] == "excluded"


def test_missing_and_misshapen(chain: dict[str, Path], tmp_path: Path) -> None:
    wider = make_checkpoint(tmp_path / "wider", intermediate_size=96, num_hidden_layers=3)
    found = reasons(chain["base"], wider)
    assert found["model.layers.0.mlp.up_proj.weight"] == "shape_mismatch"
    assert found["model.layers.2.self_attn.q_proj.weight"] == "missing_in_before"


def test_lm_head_stored_beside_a_tied_embedding(chain: dict[str, Path], tmp_path: Path) -> None:
    import json

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
        ("model.layers.0.mlp.experts.7.up_proj.weight", (0, "mlp.experts.7.up_proj")),
        ("lm_head.weight", (None, "lm_head")),
    ],
)
def test_layer_and_family(name: str, expected: tuple[int | None, str]) -> None:
    assert layer_and_family(name) == expected
