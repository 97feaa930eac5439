"""Variants and the map: the weights that are evaluated, and what the map finds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import svdjobs
from svdjobs import local
from svdjobs.config import SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.errors import CheckpointError, ConfigError, IncompleteError
from svdjobs.evaluation import likelihoods, mapping, wanted
from svdjobs.evaluation.engine_choice import resolve_auto_settings
from svdjobs.evaluation.engine_weights import RunWeights
from svdjobs.records import TensorPlan
from svdjobs.reporting.data import Question
from svdjobs.reporting.sections import answers
from svdjobs.reporting.sections.variants import SECTION
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.stages import blend, decompose, evaluate, plan, report
from svdjobs.storage.local import LocalStore
from svdjobs.variant_config import VariantConfig
from svdjobs.weights.variants import Area, areas

MakeConfig = Callable[..., SweepConfig]
DEMO = Path(svdjobs.__file__).parent / "demo" / "checkpoints"
HEAD = 32


def sweep(folder: Path, **keys: Any) -> SweepConfig:
    """A sweep of the demo's checkpoints with few problems, unless `keys` say otherwise."""
    document: dict[str, Any] = {
        "name": "variants",
        "before": str(DEMO / "base"),
        "after": str(DEMO / "rl2"),
        "store": str(folder / "run"),
        "alphas": [],
        "evaluate": {
            "benchmarks": [{"name": "demo", "limit": 100}],
            "engine": "transformers",
            "max_tokens": 32,
            "n_samples": 2,
            "second_grader": "off",
        },
    }
    return parse_config({**document, **keys}, where="test")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunWeights]:
    """The weights of a run that is decomposed."""
    config = sweep(tmp_path_factory.mktemp("variants"))
    config = config.model_copy(update={"variants": {"any": VariantConfig(alpha=0.0)}})
    store = LocalStore(config.store_url)
    plan.run(config, store)
    decompose.run(config, store)
    with closing(RunWeights(RunCheckpoints(config), store)) as found:
        yield found


BEFORE = load_file(DEMO / "base" / "model.safetensors")
AFTER = load_file(DEMO / "rl2" / "model.safetensors")
Q, K, OUT, DOWN = (
    f"model.layers.1.{name}.weight"
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.down_proj")
)


def made(weights: RunWeights, **spec: Any) -> dict[str, torch.Tensor]:
    """The tensors of a variant that differ from after's; the others are equal to the bit."""
    found, _ = weights.of_variant("test", VariantConfig.model_validate(spec))
    everything = dict(found.tensors())
    assert everything.keys() == AFTER.keys() - {"lm_head.weight"} | everything.keys()
    changed = {n: t for n, t in everything.items() if not torch.equal(t, AFTER[n])}
    differing = {
        n
        for n, origin in found.origins.items()
        if origin != ("checkpoint", str(DEMO / "rl2"), None)
    }
    assert changed.keys() <= differing
    assert found.some is not None
    assert dict(found.some(list(changed))).keys() == changed.keys()
    return changed


def svd(w: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    u, s, vh = torch.linalg.svd(w.double(), full_matrices=False)
    return u, s, vh


def close(found: torch.Tensor, expected: torch.Tensor) -> bool:
    return float((found.double() - expected.double()).norm() / expected.double().norm()) < 2e-6


def test_before_s_matrix_in_a_part(weights: RunWeights) -> None:
    found = made(weights, before="matrix", layers=[1], families=["down_proj", "self_attn.q_proj"])
    assert found.keys() == {Q, DOWN}
    assert all(torch.equal(found[name], BEFORE[name]) for name in found)


def test_a_part_is_what_all_its_keys_leave(weights: RunWeights) -> None:
    found = made(weights, before="matrix", include=["mlp"], exclude=["up_proj"], layers=[0, 2])
    assert found.keys() == {
        f"model.layers.{n}.mlp.{p}_proj.weight" for n in (0, 2) for p in ("gate", "down")
    }
    assert len(made(weights, before="matrix")) == 21


@pytest.mark.parametrize("spec", [{"alpha": 0.0}, {"before": "values"}])
def test_before_s_singular_values(weights: RunWeights, spec: dict[str, Any]) -> None:
    found = made(weights, **spec)
    u, _, vh = svd(AFTER[DOWN])
    assert close(found[DOWN], (u * svd(BEFORE[DOWN])[1]) @ vh)


def test_some_singular_values(weights: RunWeights) -> None:
    found = made(weights, alpha=0.25, directions=[0, 10], include=["down_proj"])
    u, s, vh = svd(AFTER[DOWN])
    blended = s.clone()
    blended[:10] = 0.25 * s[:10] + 0.75 * svd(BEFORE[DOWN])[1][:10]
    assert close(found[DOWN], (u * blended) @ vh)


def test_before_s_vectors(weights: RunWeights) -> None:
    u, _, vh = svd(BEFORE[DOWN])
    found = made(weights, before="vectors")
    assert close(found[DOWN], (u * svd(AFTER[DOWN])[1]) @ vh)


def test_parts_of_the_update(weights: RunWeights) -> None:
    update = AFTER[DOWN].double() - BEFORE[DOWN].double()
    u, s, vh = svd(update)
    leading = (u[:, :3] * s[:3]) @ vh[:3]
    assert close(made(weights, keep_update=3)[DOWN], BEFORE[DOWN] + leading)
    assert close(made(weights, drop_update=3)[DOWN], AFTER[DOWN] - leading)
    assert close(made(weights, extrapolate=0.5)[DOWN], AFTER[DOWN] + 0.5 * update)
    assert close(made(weights, extrapolate=-1)[DOWN], BEFORE[DOWN])


def test_heads_are_rows_of_q_and_columns_of_o(weights: RunWeights) -> None:
    found = made(weights, before="matrix", layers=[1], heads=[3])
    assert found.keys() == {Q, K, K.replace("k_proj", "v_proj"), OUT}
    rows = slice(3 * HEAD, 4 * HEAD)
    for name in (Q, OUT):
        own = found[name] if name == Q else found[name].T
        before = BEFORE[name] if name == Q else BEFORE[name].T
        after = AFTER[name] if name == Q else AFTER[name].T
        assert torch.equal(own[rows], before[rows])
        assert torch.equal(own[: 3 * HEAD], after[: 3 * HEAD])
    # Four heads share one key-value head.
    assert torch.equal(found[K], BEFORE[K])


@pytest.mark.parametrize("what", ["values", "vectors", "matrix"])
def test_random_changes_are_as_large_as_those_of_before(weights: RunWeights, what: str) -> None:
    changes = []
    for rule in ({"before": what}, {"random": what}, {"random": what, "seed": 1}):
        spec = VariantConfig.model_validate({**rule, "include": ["down_proj"]})
        found, variant = weights.of_variant("test", spec)
        list(found.tensors())
        changes.append(variant.relative_change)
    assert changes[1:] == pytest.approx([changes[0]] * 2, rel=0.01)


@pytest.mark.parametrize("what", ["values", "vectors", "matrix"])
def test_random_changes_of_a_head_are_as_large_as_those_of_before(
    weights: RunWeights, what: str
) -> None:
    changes = {}
    for rule in ("before", "random"):
        spec = VariantConfig.model_validate({rule: what, "layers": [1], "heads": [2]})
        found, variant = weights.of_variant("test", spec)
        list(found.tensors())
        changes[rule] = variant.changes
    assert changes["random"] == pytest.approx(changes["before"], rel=1e-3)


def test_how_far_a_variant_is_from_after(weights: RunWeights) -> None:
    spec = VariantConfig.model_validate({"before": "matrix", "include": [DOWN]})
    _, variant = weights.of_variant("test", spec)
    found = variant.change()  # nothing has been computed yet
    apart = float((BEFORE[DOWN].double() - AFTER[DOWN].double()).norm())
    assert found.matrices == 1
    assert found.change == pytest.approx(apart / float(AFTER[DOWN].double().norm()))
    assert found.defect is None
    mixed = VariantConfig.model_validate({"before": "u", "include": [DOWN], "directions": [0, 8]})
    change = weights.of_variant("test", mixed)[1].change()
    assert change.defect
    assert change.defect > 1e-3


def test_a_list_of_seeds_is_a_variant_of_each(tmp_path: Path) -> None:
    config = sweep(tmp_path, variants={"noise": {"random": "matrix", "seed": [3, 5]}})
    assert {name: spec.seed for name, spec in config.variants.items()} == {
        "noise-0": 3,
        "noise-1": 5,
    }
    again = parse_config(config.model_dump(mode="json"), where="test")
    assert again.variants == config.variants


def test_mixed_bases_are_projected_and_said(
    weights: RunWeights, capfd: pytest.CaptureFixture[str]
) -> None:
    spec = VariantConfig.model_validate({"before": "u", "directions": [0, 16]})
    found, variant = weights.of_variant("test", spec)
    computed = dict(found.tensors())
    assert variant.defects[DOWN] > 1e-6
    assert "the mixed bases of 21 matrices are projected" in capfd.readouterr().err
    assert svd(computed[DOWN])[1] == pytest.approx(svd(AFTER[DOWN])[1], rel=1e-5)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"layers": [3]}, "variants.x.layers: 3 matches none of the 21 .* layers are 0 to 2"),
        ({"families": ["mlp"]}, "variants.x.families: 'mlp' matches none .*mlp.down_proj"),
        ({"include": ["moe"]}, "variants.x.include: 'moe' matches none"),
        ({"include": ["("]}, r"variants.x: '\(' is not a regular expression"),
        ({"heads": [4]}, "variants.x.heads: 4, but the checkpoint has 4 heads"),
        ({"heads": [0], "families": ["down_proj"]}, "variants.x leaves no matrix"),
    ],
)
def test_a_part_without_a_matrix_is_refused_by_plan(
    keys: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = sweep(tmp_path, variants={"x": {"alpha": 0, **keys}})
    with pytest.raises(CheckpointError, match=words):
        plan.run(config, LocalStore(config.store_url))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"variants": {"x": {}}}, "give exactly one of alpha, before, .*; found none"),
        ({"variants": {"x": {"alpha": 0, "before": "u"}}}, "found alpha, before"),
        ({"variants": {"x": {"before": "matrix", "directions": [0, 4]}}}, "directions need the"),
        ({"variants": {"x": {"alpha": 0, "directions": [4]}}}, r"directions are \[from, to\)"),
        ({"variants": {"after": {"alpha": 0}}}, "the name 'after' is taken"),
        ({"checkpoints": {"alpha-x": "demo:rl1"}}, "'alpha-x' is no name"),
        ({"checkpoints": {"a b": "demo:rl1"}}, "'a b' is no name"),
        ({"map": {}, "evaluate": None}, "variants and map need an `evaluate` section"),
        ({"map": {}, "direction": "reverse"}, "need direction forward"),
        ({"variants": {"auto": {"alpha": 0}}}, "the name 'auto' is taken"),
        (
            {
                "map": {},
                "evaluate": {"benchmarks": ["demo"], "dtype": "bfloat16"},
            },
            "evaluate.dtype bfloat16 rounds variants and the map",
        ),
        ({"map": {"by": "rewind", "rewind": "values"}}, "with `by` rewind, give no `rewind`"),
        ({"map": {"by": "head", "families": ["q_proj"]}}, "with `by` head, give no `families`"),
    ],
)
def test_wrong_sections_are_refused(keys: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        sweep(tmp_path, **keys)


OTHER_HEADS = "has not the heads that the config"
QWEN = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "hidden_size": 32}


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("model.layers.0.self_attn.q_proj.weight", (32, 32), None),
        ("model.layers.0.self_attn.k_proj.weight", (16, 32), None),
        ("model.layers.0.self_attn.o_proj.weight", (32, 32), None),
        # a gate beside each head, as in Qwen3-Next
        ("model.layers.0.self_attn.q_proj.weight", (64, 32), OTHER_HEADS),
        ("gpt_neox.layers.0.attention.dense.weight", (32, 32), OTHER_HEADS),
        (
            "model.layers.0.self_attn.kv_b_proj.weight",
            (32, 32),
            OTHER_HEADS,
        ),
        ("visual.blocks.0.attn.proj.weight", (32, 32), OTHER_HEADS),
        ("model.layers.0.self_attn.o_proj.weight", (32, 48), OTHER_HEADS),
    ],
)
def test_heads_must_be_rows_or_columns_of_a_matrix(
    name: str, shape: tuple[int, int], words: str | None
) -> None:
    part = VariantConfig.model_validate({"before": "matrix", "heads": [1]})
    mlp = TensorPlan(name="model.layers.0.mlp.up_proj.weight", shape=(64, 32), dtype="F32")
    selected = [TensorPlan(name=name, shape=shape, dtype="F32"), mlp]
    if words is None:
        (area,) = areas(part, selected, QWEN, "variants.x").values()
        first = 0 if "k_proj" in name else 8  # heads 0 and 1 share a key-value head
        assert area in (Area(rows=(slice(first, first + 8),)), Area(columns=(slice(8, 16),)))
    else:
        with pytest.raises(ConfigError, match=rf"variants\.x\.heads: {name}.*{words}"):
            areas(part, selected, QWEN, "variants.x")


@pytest.mark.parametrize("directions", [[64, 0], [5, 5], [1000, 2000]])
def test_directions_that_are_none_are_refused_by_plan(
    directions: list[int], tmp_path: Path
) -> None:
    config = sweep(tmp_path, variants={"x": {"alpha": 0, "directions": directions}})
    with pytest.raises(CheckpointError, match="none of the 128 directions of its largest matrix"):
        plan.run(config, LocalStore(config.store_url))


def test_a_report_does_not_show_an_earlier_variant_or_map(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "variants": {"v": {"before": "matrix", "layers": [0]}},
        "map": {"layers": [1], "families": ["q_proj"], "nulls": 0},
        "checkpoints": {"step": str(DEMO / "rl1")},
    }
    config = sweep(tmp_path, **keys)
    local.sweep(config)
    store = LocalStore(config.store_url)
    assert report.unfinished(config, store) == []
    other = sweep(
        tmp_path,
        variants={"v": {"before": "matrix", "layers": [2]}},
        map={**keys["map"], "rewind": "values"},
        checkpoints={"step": str(DEMO / "base")},
    )
    stale = ["likelihoods/step/demo", "likelihoods/v/demo", "map/demo"]
    assert report.unfinished(other, store) == stale
    content = report.gather(other, store, plan.run(other, store), wanted.manifests(other, store))
    assert content.readings["demo"].keys() == {"before"}
    assert content.maps == {}
    assert content.changes == {}
    local.sweep(other)
    assert report.unfinished(other, store) == []


def test_reading_without_after_s_answers_is_an_error(tmp_path: Path) -> None:
    config = sweep(tmp_path, variants={"v": {"before": "values"}}, map={"nulls": 0})
    store = LocalStore(config.store_url)
    for stage in (plan, decompose):
        stage.run(config, store)
    for named, words in (("v", "v reads after's"), ("variants", "v reads after's")):
        with pytest.raises(IncompleteError, match=rf"{words} completions on demo.*`after` first"):
            evaluate.run(config, store, checkpoint_ids=[named])


def test_names_of_checkpoints_and_variants_are_never_confused(tmp_path: Path) -> None:
    """An engine that has just held the checkpoint `variants.v` holds after's other tensors next."""
    spec = {"extrapolate": 1, "layers": [0]}
    alone = sweep(tmp_path / "alone", variants={"v": spec})
    both = sweep(
        tmp_path / "both", variants={"v": spec}, checkpoints={"variants.v": str(DEMO / "base")}
    )
    found = []
    for config in (alone, both):
        local.sweep(config)
        found.append(likelihoods.load(LocalStore(config.store_url), "v", "demo"))
    assert found[0] == found[1]


def test_dtype_auto_is_float32_with_variants(tmp_path: Path) -> None:
    """The rounding of random changes and of mixed matrices would be larger than what they do."""
    paths = []
    for name in ("base", "rl2"):
        paths.append(tmp_path / name)
        shutil.copytree(DEMO / name, paths[-1])
        tensors = {n: t.bfloat16() for n, t in load_file(DEMO / name / "model.safetensors").items()}
        save_file(tensors, paths[-1] / "model.safetensors", metadata={"format": "pt"})
        document = json.loads((paths[-1] / "config.json").read_text())
        (paths[-1] / "config.json").write_text(json.dumps({**document, "dtype": "bfloat16"}))
    before, after = map(str, paths)
    dtypes = {}
    for name, variants in (("none", {}), ("some", {"v": {"before": "values"}})):
        config = sweep(tmp_path, before=before, after=after, variants=variants)
        store = LocalStore(config.store_url)
        dtypes[name] = resolve_auto_settings(RunCheckpoints(config), store).dtype
    assert dtypes == {"none": "bfloat16", "some": "float32"}


def test_a_checkpoint_of_another_kind_is_refused_by_plan(tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(DEMO / "rl1", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "architectures": ["Other"]}))
    for source, words in ((str(other), "step-1 is Other"), ("none", "step-1: ")):
        swept = sweep(tmp_path, checkpoints={"step-1": source})
        with pytest.raises(CheckpointError, match=words):
            plan.run(swept, LocalStore(swept.store_url))


def test_further_checkpoints_and_variants_are_evaluated(tmp_path: Path) -> None:
    """In one engine that gets only what differs: the likelihoods are those of engines of their
    own."""
    variants = {"mlp": {"before": "matrix", "include": ["mlp"]}, "less": {"extrapolate": -1}}
    keys = {"checkpoints": {"step-1": str(DEMO / "rl1")}, "variants": variants}
    config = sweep(tmp_path, **keys, alphas=[0])
    local.sweep(config)
    store, root = LocalStore(config.store_url), Path(config.store_url)
    assert not report.unfinished(config, store)

    def likelihoods(folder: Path, name: str) -> list[list[float]]:
        lines = (folder / f"likelihoods/{name}/demo/likelihoods.jsonl").read_text().splitlines()
        return [json.loads(line)["log_probabilities"] for line in lines]

    mixed = tmp_path / "mixed"
    shutil.copytree(DEMO / "rl2", mixed)
    save_file(
        {n: BEFORE[n] if ".mlp." in n else t for n, t in AFTER.items()},
        mixed / "model.safetensors", metadata={"format": "pt"},
    )  # fmt: skip
    own = sweep(
        tmp_path / "own", checkpoints={"mlp": str(mixed), "step-1": str(DEMO / "rl1")},
    )  # fmt: skip
    local.sweep(own)
    for name in ("mlp", "step-1", "before"):
        pairs = zip(likelihoods(root, name), likelihoods(Path(own.store_url), name), strict=True)
        assert all(ours == pytest.approx(theirs, abs=1e-5) for ours, theirs in pairs)
    assert likelihoods(root, "less") != likelihoods(root, "after")
    rewound = zip(likelihoods(root, "less"), likelihoods(root, "before"), strict=True)
    differ = [a for a in rewound if a[0] != pytest.approx(a[1], abs=1e-3)]
    assert differ  # embeddings and norms are not blended, so they stay after's


def planted(folder: Path, *, gain: bool) -> Path:
    """before: after with noise in every matrix, and with `gain` the base's MLP of layer 2."""
    before = folder / "before"
    shutil.copytree(DEMO / "rl2", before)
    generator = torch.Generator().manual_seed(0)
    changed = {}
    for name, w in AFTER.items():
        noise = torch.randn(w.shape, generator=generator) * 0.002 * w.norm() / w.numel() ** 0.5
        base = gain and name.startswith("model.layers.2.mlp.")
        changed[name] = BEFORE[name] if base else w + noise if w.ndim == 2 else w
    save_file(changed, before / "model.safetensors", metadata={"format": "pt"})
    return before


def test_a_planted_gain_is_found_where_it_is_and_nothing_in_noise(tmp_path: Path) -> None:
    for gain in (True, False):
        folder = tmp_path / str(gain)
        folder.mkdir()
        config = sweep(folder, before=str(planted(folder, gain=gain)), map={"nulls": 1})
        local.sweep(config)
        store = LocalStore(config.store_url)
        content = report.gather(
            config, store, plan.run(config, store), wanted.manifests(config, store)
        )
        parts = content.maps["demo"]
        assert len(parts) == 22
        from svdjobs.reporting.sections.maps import found_parts

        found = {(part.layer, part.family) for part in found_parts(parts)}
        if gain:
            assert found
            assert {layer for layer, _ in found} == {2}
            assert all(family.startswith("mlp.") for _, family in found)
            assert found_parts(parts)[0].family == "mlp.down_proj"
        else:
            assert not found


def test_maps_by_head_and_by_what_is_rewound(tmp_path: Path) -> None:
    """Their cells are those of variants that name the same part."""
    variants = {
        "head": {"before": "matrix", "layers": [1], "heads": [2]},
        "values": {"before": "values", "layers": [1]},
        "null": {"random": "values", "layers": [1], "seed": 0},
    }
    few = {"layers": [1], "nulls": 1}
    keys: dict[str, Any] = {"map": {**few, "by": "head"}, "variants": variants}
    config = sweep(tmp_path, **keys)
    local.sweep(config)
    store = LocalStore(config.store_url)
    by_head = mapping.load(config, store, "demo")
    names = [(c.layer, c.family, c.null) for c in by_head]
    assert names == [
        *((1, f"head {head}", null) for head in range(4) for null in (None, 0)),
        (None, "all", None),
    ]
    rewinds = sweep(tmp_path, **{**keys, "map": {**few, "by": "rewind"}})
    local.sweep(rewinds)
    by_rewind = mapping.load(rewinds, store, "demo")
    assert [(c.family, c.null) for c in by_rewind] == [
        *((what, null) for what in ("values", "vectors", "matrix") for null in (None, 0)),
        ("all", None),
    ]
    # The whole is layer 1 rewound, which is a cell of its own.
    assert by_rewind[-1].log_ratios == by_rewind[4].log_ratios
    after = likelihoods.load(store, "after", "demo")
    for name, cell in (("head", by_head[4]), ("values", by_rewind[0]), ("null", by_rewind[1])):
        own = likelihoods.load(store, name, "demo")
        ratios = [
            sum(row.log_probabilities) - sum(of_after.log_probabilities)
            for row, of_after in zip(own, after, strict=True)
        ]
        assert cell.log_ratios == pytest.approx(ratios, abs=1e-4), name
    content = report.gather(
        rewinds, store, plan.run(rewinds, store), wanted.manifests(rewinds, store)
    )
    assert content.changes["values"].matrices == 7
    (said,) = (line for line in answers(content)[Question.WHERE] if "add up to" in line)
    whole = content.maps["demo"][-1].accuracy
    assert whole
    assert f"add up to {100 * whole.value:+.2f} points; all parts set back" in said
    table = next(table for table in SECTION.tables(content) if table.name == "variants")
    assert table.rows[0][:3] == ["head", "layers: 1, heads: 2, before: matrix", "4"]
    assert table.rows[1][:2] == ["values", "layers: 1, before: values"]


def test_a_map_that_was_cut_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = sweep(tmp_path, map={"nulls": 1, "layers": [1], "families": ["q_proj", "down_proj"]})
    store, root = LocalStore(config.store_url), Path(config.store_url)
    for stage in (plan, decompose, blend):
        stage.run(config, store)
    real = mapping._cell
    read: list[str] = []

    def cell(*arguments: Any) -> Any:
        if len(read) == stop:
            raise KeyboardInterrupt
        read.append(arguments[0].name)
        return real(*arguments)

    stop = 2

    monkeypatch.setattr(mapping, "_cell", cell)
    with pytest.raises(KeyboardInterrupt):
        evaluate.run(config, store)
    assert len((root / "map/demo/cells.journal").read_text().splitlines()) == 2
    stop = 9
    evaluate.run(config, store)
    assert len(read) == 5
    assert [(c.layer, c.family, c.null) for c in mapping.load(config, store, "demo")] == [
        (1, "mlp.down_proj", None),
        (1, "mlp.down_proj", 0),
        (1, "self_attn.q_proj", None),
        (1, "self_attn.q_proj", 0),
        (None, "all", None),
    ]
    assert not (root / "map/demo/cells.journal").exists()


def test_a_pod_does_all_variants(tmp_path: Path) -> None:
    config = sweep(
        tmp_path, variants={"x": {"alpha": 0}}, map={"nulls": 0, "layers": [1], "heads": [0]}
    )
    store, root = LocalStore(config.store_url), Path(config.store_url)
    for stage in (plan, decompose):
        stage.run(config, store)
    evaluate.run_shard(config, store, checkpoint_id="after", shard_id="demo-000")
    evaluate.run_shard(config, store, checkpoint_id="variants", shard_id="all")
    assert (root / "likelihoods/x/demo/manifest.json").exists()
    assert {c.family for c in mapping.load(config, store, "demo")} == {
        "self_attn.k_proj", "self_attn.o_proj", "self_attn.q_proj", "self_attn.v_proj", "all",
    }  # fmt: skip
