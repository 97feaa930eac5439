"""The stage `metrics` and `svdjobs diff`: planted changes are found, noise is called noise."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import svdjobs
from svdjobs.errors import CheckpointError, ConfigError, TensorError
from svdjobs.records import MetricsRow
from svdjobs.reporting.sections.metrics import PANELS, _heat_map, verdict
from svdjobs.runs import layout
from svdjobs.stages import decompose, metrics, plan, report
from svdjobs.standalone import diff
from svdjobs.storage.local import LocalStore
from tests.checkpoint.test_matrices import MOE, experts, moved, save
from tests.forked import run as run_svdjobs

DEMO = Path(svdjobs.__file__).parent / "demo" / "checkpoints"
BASE = load_file(DEMO / "base" / "model.safetensors")
DOWN = "model.layers.2.mlp.down_proj.weight"


def changed(folder: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> str:
    """A copy of the base in which every matrix is changed."""
    shutil.copytree(DEMO / "base", folder)
    content = {n: change(n, t).contiguous() if t.ndim == 2 else t for n, t in BASE.items()}
    save_file(content, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def noise(relative: float) -> Callable[[str, torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def change(_: str, w: torch.Tensor) -> torch.Tensor:
        e = torch.randn(w.shape, generator=generator)
        noisy: torch.Tensor = w + relative * w.norm() / e.norm() * e
        return noisy

    return change


def compared(folder: Path, *sources: str, **keys: object) -> diff.Difference:
    overrides = [f"{key}={json.dumps(value)}" for key, value in keys.items()]
    config = diff.config_of(sources, store_url=str(folder / "run"), overrides=overrides)
    return diff.run(config)


def test_noise_is_called_noise_and_training_is_not(tmp_path: Path) -> None:
    base = str(DEMO / "base")
    random = compared(tmp_path / "noise", base, changed(tmp_path / "n", noise(0.017)))
    trained = compared(tmp_path / "rl", base, str(DEMO / "rl2"))
    said = {"noise": "\n".join(random.verdict), "rl": "\n".join(trained.verdict)}
    for topic, count in (("Singular values", 1), ("Directions", 2)):
        own = [line for line in random.verdict if line.startswith(topic)]
        assert len(own) == count
        assert all("about as noise does" in line for line in own)
        own = [line for line in trained.verdict if line.startswith(topic)]
        assert len(own) == count
        assert not any("about as noise" in line for line in own)
    assert "Where: densest in layer 2 (" in said["rl"]
    assert "The update: 0 of its directions stand out of noise" in said["noise"]
    assert "21 of 21 matrices have some" in said["rl"]
    assert "Changed: 21 of 21 matrices, together by 1.7 %" in said["noise"]


def test_a_planted_change_is_found_where_it_is(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(n, 4, generator=generator) for n in BASE[DOWN].shape)

    def change(name: str, w: torch.Tensor) -> torch.Tensor:
        if name == DOWN:
            planted: torch.Tensor = w + 0.05 * w.norm() / (a @ b.T).norm() * (a @ b.T)
            return planted
        return 1.001 * w if "q_proj" in name else w

    found = compared(tmp_path, str(DEMO / "base"), changed(tmp_path / "after", change))
    text = "\n".join(found.verdict)
    assert "Changed: 4 of 21 matrices" in text
    assert f"{DOWN} most, by 5 %" in text
    assert "Where: densest in mlp.down_proj" in text or "Where: densest in layer 2" in text
    rows = {row.name: row for row in found.rows if row.head is None}
    assert rows[DOWN].values["spikes"] == 4
    assert rows[DOWN].null["spikes"] == 0
    q = rows["model.layers.0.self_attn.q_proj.weight"]
    assert q.values["uniform_scale"] == pytest.approx(0.001, rel=1e-3)
    assert q.values["sine.u.16.max"] < 1e-5
    untouched = rows["model.layers.0.mlp.up_proj.weight"]
    assert untouched.values["update_norm"] == 0
    assert untouched.null == {}


def test_an_update_without_a_place_is_everywhere() -> None:
    rows = [
        MetricsRow(
            name=f"layers.{i}.{family}", layer=i, family=family, shape=(40, 30), weight_norm=1.0,
            values={"update_norm": 0.01 + 0.0003 * i}, null={},
        )
        for i in range(2)
        for family in ("q_proj", "up_proj")
    ]  # fmt: skip
    (where,) = (line for line in verdict(rows) if line.startswith("Where"))
    assert where.startswith("Where: everywhere; no layer or module has more than 1")


def test_heads_have_rows_of_their_own(tmp_path: Path) -> None:
    """A change of one head's rows of q is in that head's row only."""

    def change(name: str, w: torch.Tensor) -> torch.Tensor:
        w = w.clone()
        if name == "model.layers.1.self_attn.q_proj.weight":
            w[64:96] *= 1.01
        return w

    found = compared(tmp_path, str(DEMO / "base"), changed(tmp_path / "after", change))
    of_q = [r for r in found.rows if r.name == "model.layers.1.self_attn.q_proj.weight"]
    assert [row.head for row in of_q] == [None, 0, 1, 2, 3]
    assert [row.values["update_norm"] > 0 for row in of_q] == [True, False, False, True, False]
    assert of_q[3].shape == (32, 128)
    without = compared(
        tmp_path / "x", str(DEMO / "base"), str(DEMO / "rl1"), **{"metrics.heads": False}
    )
    assert all(row.head is None for row in without.rows)


def test_experts_are_one_family_and_their_router_another(tmp_path: Path) -> None:
    """The router, which is not blended, is measured beside the experts, in any sweep and diff."""
    router = "model.layers.0.mlp.gate.weight"
    weights = experts()
    after = {**moved(weights), router: 1.5 * weights[router]}
    config = {**MOE, "architectures": ["A"], "model_type": "qwen3_moe"}
    found = compared(
        tmp_path,
        str(save(tmp_path / "a", config, weights)),
        str(save(tmp_path / "b", config, after)),
    )
    families = {cells[0]: (int(cells[1]), float(cells[3])) for cells in found.table.rows}
    assert families["mlp.experts.down_proj"][0] == 3
    assert families["mlp.gate"] == (1, 0.5)
    columns = {cell["column"] for cell in _heat_map(found.rows, PANELS[0])["data"]["values"]}
    assert {"router", "gate"} <= columns
    assert "Changed: 11 of 11 matrices" in found.verdict[0]
    assert f"{router} most, by 50 %" in found.verdict[0]


def test_equal_checkpoints_are_said_to_be_equal(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(DEMO / "base", copy)
    found = compared(tmp_path, str(DEMO / "base"), str(copy))
    assert found.verdict == ["Changed: none of 21 matrices; they are equal to the bit."]


def test_a_chain_has_its_way(tmp_path: Path) -> None:
    found = compared(tmp_path, *(str(DEMO / name) for name in ("base", "rl1", "rl2")))
    way = "The way: in 2 steps the median matrix went 0."
    assert any(line.startswith(way) for line in found.verdict)
    row = next(row for row in found.rows if row.head is None)
    assert row.trajectory
    assert row.trajectory.from_first[-1] == pytest.approx(row.values["update_norm"])
    assert "The way through the checkpoints" in (tmp_path / "run/report/report.md").read_text()
    two = compared(tmp_path / "two", str(DEMO / "base"), str(DEMO / "rl2"))
    assert not any("The way" in line for line in two.verdict)


def test_a_step_without_a_matrix_is_refused_by_plan(tmp_path: Path) -> None:
    step = tmp_path / "step"
    shutil.copytree(DEMO / "rl1", step)
    content = load_file(step / "model.safetensors")
    content[DOWN] = content[DOWN][:, :-1].contiguous()
    save_file(content, step / "model.safetensors", metadata={"format": "pt"})
    words = f"1 of the 21 matrices are missing in step, or have another shape there, e.g. {DOWN}"
    with pytest.raises(CheckpointError, match=re.escape(words)):
        compared(tmp_path, str(DEMO / "base"), str(step), str(DEMO / "rl2"))


def test_a_weight_that_is_not_finite_is_named(tmp_path: Path) -> None:
    def change(name: str, w: torch.Tensor) -> torch.Tensor:
        w = w.clone()
        w[0, 0] = float("nan") if name == DOWN else w[0, 0]
        return w

    with pytest.raises(TensorError, match=DOWN.replace(".", r"\.")):
        compared(tmp_path, str(DEMO / "base"), changed(tmp_path / "after", change))


def test_factors_of_a_sweep_are_used_and_change_nothing(tmp_path: Path) -> None:
    alone = compared(tmp_path / "alone", str(DEMO / "base"), str(DEMO / "rl2"))
    config = diff.config_of(
        [str(DEMO / "base"), str(DEMO / "rl2")], store_url=str(tmp_path / "run"),
        overrides=["alphas=[0,1]"],
    )  # fmt: skip
    store = LocalStore(config.store_url)
    plan.run(config, store)
    decompose.run(config, store)
    assert (tmp_path / "run" / layout.factors_prefix("after") / "manifest.json").exists()
    metrics.run(config, store)
    lines = [
        line
        for path in sorted((tmp_path / "run" / "metrics").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    assert [MetricsRow.model_validate_json(line) for line in lines] == alone.rows


def test_the_command_and_its_json(tmp_path: Path) -> None:
    done = run_svdjobs("diff", "demo:base", "demo:rl2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table, *_ = done.stdout.split("\n\n")
    assert max(map(len, table.splitlines())) <= 100
    assert "Report: runs/diff/demo-base-demo-rl2/report/report.html" in done.stdout
    page = (tmp_path / "runs/diff/demo-base-demo-rl2/report/report.html").read_text()
    assert "How the matrices changed" in page
    assert "one number a row" not in page.lower()  # the table for scripts is a file only
    figures = tmp_path / "runs/diff/demo-base-demo-rl2/report/figures"
    assert {path.stem for path in figures.glob("*.svg")} == {"heads", "metrics", "update_spectra"}
    numbers = (tmp_path / "runs/diff/demo-base-demo-rl2/report/tables/metrics-all.csv").read_text()
    assert f"{DOWN},2,mlp.down_proj,,spikes," in numbers
    as_json = run_svdjobs("diff", "demo:base", "demo:rl2", "--json", cwd=tmp_path)
    document = json.loads(as_json.stdout)
    assert document["checkpoints"] == ["demo:base", "demo:rl2"]
    assert document["verdict"][0].startswith("Changed: 21 of 21 matrices")
    assert "metrics:" not in as_json.stderr  # measured once


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["demo:base"], "give two checkpoints or more"),
        (["demo:base", "nowhere"], "nowhere"),
        (["demo:base", "demo:rl2", "--set", "metrics=null"], "metrics is null"),
        (["demo:base", "demo:rl2", "--set", "metrics.draws=1"], "null_draws"),
    ],
)
def test_wrong_use(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = run_svdjobs("diff", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_names_between_are_free_ids() -> None:
    config = diff.config_of(["demo:base", "a/after", "b/x", "c/x", "demo:rl2"])
    assert config.checkpoints == {"1-after": "a/after", "x": "b/x", "3-x": "c/x"}
    with pytest.raises(ConfigError, match="two checkpoints"):
        diff.config_of(["demo:base"])


def test_killed_it_goes_on_where_it_was(tmp_path: Path) -> None:
    whole = compared(tmp_path / "whole", str(DEMO / "base"), str(DEMO / "rl2"))
    arguments = ["diff", "demo:base", "demo:rl2", "--store", str(tmp_path / "run")]
    arguments += ["--set", "decompose.parts=21"]
    run = subprocess.Popen(
        [sys.executable, "-m", "svdjobs.cli.main", *arguments], stderr=subprocess.DEVNULL
    )
    rows = tmp_path / "run" / "metrics"
    deadline = time.monotonic() + 60
    while len(list(rows.glob("rows-*.jsonl"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.001)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = {p: p.stat().st_mtime_ns for p in rows.glob("rows-*.jsonl")}
    assert kept
    again = run_svdjobs(*arguments)
    assert again.returncode == 0, again.stderr
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    lines = [line for p in sorted(rows.glob("*.jsonl")) for line in p.read_text().splitlines()]
    found = {(r.name, r.head): r for r in map(MetricsRow.model_validate_json, lines)}
    assert found == {(row.name, row.head): row for row in whole.rows}


def test_its_report_is_current_until_the_metrics_change(tmp_path: Path) -> None:
    found = compared(tmp_path, str(DEMO / "base"), str(DEMO / "rl2"))
    config = diff.config_of(
        [str(DEMO / "base"), str(DEMO / "rl2")], store_url=str(tmp_path / "run")
    )
    assert report.unfinished(config, LocalStore(config.store_url)) == []
    assert found.report_url.endswith("report/report.html")
