from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from svdjobs import local
from svdjobs.config import SweepConfig
from svdjobs.errors import CheckpointError, IncompleteError, OutputError
from svdjobs.records import Plan, TensorPlan
from svdjobs.reporting.plan_text import describe
from svdjobs.runs import cost
from svdjobs.stages import blend, decompose, plan
from svdjobs.storage.local import LocalStore
from tests.checkpoints import make_checkpoint, tensors

MakeConfig = Callable[..., SweepConfig]


def make(config: SweepConfig) -> Plan:
    return plan.run(config, LocalStore(config.store_url))


def test_plan_hardly_reads_weights(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    """Each checkpoint's weights are one constant: plan checks only that two checkpoints differ."""
    hollow = {}
    for number, (name, folder) in enumerate(chain.items()):
        hollow[name] = tmp_path / name
        shutil.copytree(folder, hollow[name])
        weights = hollow[name] / "model.safetensors"
        data = weights.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        weights.write_bytes(data[:end] + bytes([number]) * (len(data) - end))
    config = make_config(
        before=str(hollow["base"]), after=str(hollow["rl2"]), rotations={"rl1": str(hollow["rl1"])}
    )
    assert len(make(config).selected) == 14


def test_parts_are_sized_by_work_so_that_a_small_model_has_several() -> None:
    """135 million parameters in 30 layers of width 576: a kill loses a few tensors."""
    shapes = {"q": (576, 576), "k": (192, 576), "gate": (1536, 576), "down": (576, 1536)}
    tensors = [
        TensorPlan(name=f"{name}.{layer}", shape=shape, dtype="F32")
        for layer in range(30)
        for name, shape in shapes.items()
    ]
    parts = cost.balanced_parts(tensors, cost.part_count(tensors))
    assert len(parts) >= 3
    assert sum(map(len, parts)) == len(tensors)


def test_description_says_coverage_cost_and_shapes(make_config: MakeConfig) -> None:
    text = "\n".join(describe(make(make_config()), free=1 << 30))
    assert "blended 14 of 26 tensors" in text
    assert "embedding" in text
    assert "4 of 80×48" in text
    assert "to decompose" in text
    assert "disk free" in text


def test_the_effect_of_rounding_is_in_the_plan_and_the_report(
    make_config: MakeConfig, chain: dict[str, Path], tmp_path: Path
) -> None:
    """`before` is `after` in bfloat16, so rounding is the only change of the spectrum."""
    shutil.copytree(chain["rl2"], tmp_path / "rounded")
    rounded = {name: w.bfloat16() for name, w in tensors(chain["rl2"]).items()}
    save_file(rounded, tmp_path / "rounded" / "model.safetensors", {"format": "pt"})
    config = make_config(
        before=str(tmp_path / "rounded"), evaluate=None, rotations=None, alphas=[0]
    )
    local.sweep(config)
    plan_text = "\n".join(describe(make(config)))
    (expected,) = re.findall(r"by ([\d.e-]+) of their norm: what training", plan_text)
    page = Path(config.store_url, "report", "report.md").read_text()
    ((moved, alone),) = re.findall(
        r"moved by ([\d.e-]+) of .* by ([\d.e-]+)\. Most of it may be", page
    )
    assert float(alone) == pytest.approx(float(expected), rel=0.1)
    assert float(moved) == pytest.approx(float(alone), rel=0.2)


def test_a_plan_does_not_mention_rounding_without_16_bit_weights(make_config: MakeConfig) -> None:
    made = make(make_config())
    assert not made.rounding
    assert "16 bits" not in "\n".join(describe(made))


def test_estimated_bytes_are_written(make_config: MakeConfig) -> None:
    config = make_config(blend={"svd_logs": False})
    store = LocalStore(config.store_url)
    estimate = plan.run(config, store).estimate
    decompose.run(config, store)
    blend.run(config, store)
    written = sum(store.size(key) for key in store.keys("") if key.endswith(".safetensors"))
    assert written == pytest.approx(estimate.bytes_written, rel=0.05)


def test_all_reasons_at_once(make_config: MakeConfig, tmp_path: Path) -> None:
    other = make_checkpoint(tmp_path / "llama", architecture="llama", vocab_size=310)
    with pytest.raises(CheckpointError) as caught:
        make(make_config(before=str(other)))
    message = str(caught.value)
    assert "different architectures: before is LlamaForCausalLM, after is Qwen2" in message
    assert "different vocabularies: before has 310" in message


def test_all_unreadable_checkpoints_at_once(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        make(make_config(before="./no-such", after=str(tmp_path), rotations=None))
    assert "before: ./no-such" in str(caught.value)
    assert "after: " in str(caught.value)
    assert "config.json" in str(caught.value)


def test_middle_checkpoint_of_another_shape(make_config: MakeConfig, tmp_path: Path) -> None:
    wider = make_checkpoint(tmp_path / "wider", intermediate_size=96)
    with pytest.raises(CheckpointError, match=r"6 of the 14 matrices are missing in rl1"):
        make(make_config(rotations={"rl1": str(wider)}))


def test_not_enough_disk(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "free_bytes", lambda self: 1000)
    with pytest.raises(CheckpointError, match=r"not enough disk: the sweep writes .* has 1000 B"):
        make(make_config())


def header_only(folder: Path, layers: int, first: float) -> Path:
    """A checkpoint of 70 billion parameters in bfloat16, as files without blocks on the disk."""
    folder.mkdir(parents=True)
    h, kv, mlp = 8192, 1024, 28_672
    shapes = {
        "self_attn.q_proj": (h, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h),
        "self_attn.o_proj": (h, h), "mlp.gate_proj": (mlp, h), "mlp.up_proj": (mlp, h),
        "mlp.down_proj": (h, mlp),
    }  # fmt: skip
    index = {}
    for layer in range(layers):
        file, header, offset = f"model-{layer + 1:05d}-of-{layers:05d}.safetensors", {}, 0
        for module, shape in shapes.items():
            name = f"model.layers.{layer}.{module}.weight"
            end = offset + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            index[name], offset = file, end
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            out.write(torch.full((64,), first).bfloat16().view(torch.uint8).numpy().tobytes())
            out.truncate(8 + len(text) + offset)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    settings = {"architectures": ["LlamaForCausalLM"], "hidden_size": h, "vocab_size": 128_256}
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


def test_70b_on_a_volume_of_300_gb(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep that is only read fits; any other is refused with what to set."""
    monkeypatch.setattr(LocalStore, "free_bytes", lambda self: 300 * 10**9)
    pair = {
        role: str(header_only(tmp_path / role, 80, first))
        for role, first in (("before", 1.0), ("after", 1.5))
    }
    wanted = {**pair, "rotations": None, "alphas": {"from": 0, "to": 1, "step": 0.2}}
    with pytest.raises(CheckpointError) as caught:
        make(make_config(**wanted))
    said = str(caught.value)
    assert re.search(r"Set blend\.write_checkpoints false \(saves 1\.5 TiB\)", said)
    assert re.search(r"decompose\.vectors float32 \(saves 10\d\.\d GiB\)", said)
    less = {"decompose": {"vectors": "float32"}, "blend": {"write_checkpoints": False}}
    made = make(make_config(**wanted, **less))
    assert len(made.selected) == 560
    assert made.estimate.bytes_written < 120 * 2**30


def test_nothing_left_to_blend(make_config: MakeConfig) -> None:
    with pytest.raises(CheckpointError, match="no tensor is left to blend"):
        make(make_config(selection={"exclude": ["."]}, rotations=None))


def test_refusal_leaves_no_plan(make_config: MakeConfig) -> None:
    config = make_config(selection={"exclude": ["."]}, rotations=None)
    with pytest.raises(CheckpointError):
        make(config)
    with pytest.raises(IncompleteError, match="plan"):
        decompose.run(config, LocalStore(config.store_url))


def test_output_of_another_run_is_refused(make_config: MakeConfig, chain: dict[str, Path]) -> None:
    make(make_config())
    with pytest.raises(OutputError, match="holds another run: its after is"):
        make(make_config(after=str(chain["rl1"])))


def test_folder_that_is_no_run_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match=r"holds no svdjobs run \(it has thesis\.tex\)"):
        make(make_config())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


def test_parts_are_balanced_and_complete() -> None:
    shapes = [(8960, 1536)] * 6 + [(1536, 1536)] * 4 + [(256, 1536)] * 4
    tensors = [TensorPlan(name=f"t{i:02d}", shape=s, dtype="F32") for i, s in enumerate(shapes)]
    parts = cost.balanced_parts(tensors, 4)
    assert sorted(name for part in parts for name in part) == [t.name for t in tensors]
    by_name = {t.name: cost.decompose_flops(t.shape, vectors=True) for t in tensors}
    loads = [sum(by_name[name] for name in part) for part in parts]
    assert max(loads) <= 4 / 3 * max(sum(loads) / 4, max(by_name.values()))


def test_more_parts_than_tensors() -> None:
    tensors = [TensorPlan(name="only", shape=(4, 4), dtype="F32")]
    assert cost.balanced_parts(tensors, 9) == [["only"]]


def test_plan_is_json_a_person_can_read(make_config: MakeConfig) -> None:
    config = make_config()
    make(config)
    document = json.loads((Path(config.store_url) / "plan" / "plan.json").read_text())
    assert document["architecture"] == "Qwen2ForCausalLM"


def test_a_refused_plan_does_not_claim_the_store(make_config: MakeConfig) -> None:
    """After a typo in `before` is corrected, the same command works."""
    with pytest.raises(CheckpointError):
        make(make_config(before="./chekpoints"))
    assert len(make(make_config()).selected) == 14


def test_stage_with_another_selection_than_the_plan(make_config: MakeConfig) -> None:
    config = make_config()
    make(config)
    other = make_config(selection={"exclude": ["q_proj"]})
    with pytest.raises(IncompleteError, match="made with other selection"):
        decompose.run(other, LocalStore(config.store_url))


def test_weights_that_changed_after_they_were_decomposed(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    after = make_checkpoint(tmp_path / "after", updates=1)
    config = make_config(after=str(after), rotations=None)
    store = LocalStore(config.store_url)
    plan.run(config, store)
    decompose.run(config, store)
    make_checkpoint(after, updates=2)
    with pytest.raises(IncompleteError, match="has changed since it was decomposed"):
        blend.run(config, store)


def test_plan_says_where_dtypes_differ(make_config: MakeConfig, tmp_path: Path) -> None:
    half = make_checkpoint(tmp_path / "half", updates=2, dtype=torch.bfloat16)
    text = "\n".join(describe(make(make_config(after=str(half)))))
    assert "the dtype of matrices changes from before to after (14 of 14 from F32 to BF16)" in text
    assert "dtype of matrices" not in "\n".join(
        describe(make(make_config(store=str(tmp_path / "same"))))
    )
