"""What `svdjobs status` says of finished, interrupted and broken runs."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svdjobs.config import SweepConfig
from svdjobs.standalone import status
from svdjobs.storage.local import LocalStore
from svdjobs.storage.memory import MemoryStore
from svdjobs.storage.objects import write_bytes
from tests.forked import run as svdjobs


@pytest.fixture
def run(swept: SweepConfig) -> Path:
    return Path(swept.store_url)


def states(run: Path) -> dict[str, str]:
    """The states of all outputs that are not finished."""
    found = status.run(LocalStore(run))
    units = [unit for stage in found.stages for unit in stage.units]
    return {unit.prefix: unit.state for unit in units if unit.state != "finished"}


def changed(run: Path, **keys: Any) -> None:
    """Change keys of the run's config."""
    path = run / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **keys}))


def test_a_finished_run(run: Path) -> None:
    done = svdjobs("status", run)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert max(map(len, lines[2:])) <= max(100, len(str(run)) + 60)
    stages = [line.split()[:2] for line in lines[4:11]]
    assert stages == [
        ["plan", "1/1"], ["decompose", "4/4"], ["blend", "3/3"], ["rotations", "1/1"],
        ["evaluate", "5/5"], ["report", "1/1"], [],
    ]  # fmt: skip
    assert " to draw and " in done.stdout
    assert "Left:" not in done.stdout
    assert f"Nothing is left to do. Report: {run}/report/report.html" in done.stdout
    document = json.loads(svdjobs("status", run, "--json").stdout)
    assert (document["finished"], document["wanted"], document["next"]) == (15, 15, None)
    evaluations = document["stages"][4]["outputs"]
    assert [unit["prefix"] for unit in evaluations][:2] == [
        "results/before/sums",
        "results/after/sums",
    ]
    spent = sum(unit["seconds"] for unit in evaluations)
    assert spent == pytest.approx(sum(document["engine_seconds"].values()))


def test_what_is_unfinished_and_how_to_go_on(run: Path) -> None:
    (run / "results/alpha-0.5000/sums/manifest.json").unlink()
    shutil.rmtree(run / "grades/before/sums")
    shutil.rmtree(run / "checkpoints/alpha-1.0000")
    assert states(run) == {
        "checkpoints/alpha-1.0000": "missing",
        "results/before/sums": "not graded",
        "results/alpha-0.5000/sums": "begun",
        "report": "out of date",
    }
    said = svdjobs("status", run).stdout
    assert "checkpoints/alpha-1.0000: nothing is there" in said
    assert "results/alpha-0.5000/sums: no manifest yet; last written 20" in said
    assert "its completions are there, their grades are not" in said
    assert f"Next: svdjobs sweep {run}/config.json --store {run}" in said
    left = json.loads(svdjobs("status", run, "--json").stdout)["engine_left"]
    done = [u for s in status.run(LocalStore(run)).stages if s.name == "evaluate" for u in s.units]
    took = [u.seconds for u in done if u.state == "finished" and u.seconds is not None]
    assert len(took) == 3
    assert left == {"evaluations": 2, "unknown": 0, "seconds": pytest.approx(2 * sum(took) / 3)}
    assert "of it for 2 evaluations, by what finished ones took." in said


def test_the_next_command_works(run: Path) -> None:
    shutil.rmtree(run / "report")
    found = status.run(LocalStore(run))
    assert found.next_command is not None
    program, *arguments = shlex.split(found.next_command)
    assert (program, arguments[0]) == ("svdjobs", "report")
    assert svdjobs(*arguments).returncode == 0
    assert states(run) == {}


def test_another_config_makes_outputs_out_of_date(run: Path) -> None:
    evaluate = json.loads((run / "config.json").read_text())["evaluate"]
    changed(run, evaluate={**evaluate, "max_tokens": 9})
    assert states(run)["results/after/sums"] == "out of date"
    changed(run, evaluate={**evaluate, "read": 0, "n_samples": 2}, alphas=[0.25])
    assert {"checkpoints/alpha-0.2500", "results/alpha-0.2500/sums"} < set(states(run))


def test_a_gate_is_a_stage_of_its_own(run: Path) -> None:
    changed(run, gate={})
    assert states(run) == {"gate": "missing"}
    assert svdjobs("gate", run / "config.json", "--store", run).returncode == 0
    assert states(run) == {}
    assert svdjobs("grade", run).returncode == 0
    path = run / "gate/manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "inputs": {"judged/sums": "others"}}))
    assert states(run) == {"gate": "out of date"}
    assert "svdjobs gate" in svdjobs("status", run).stdout


def test_a_benchmark_that_is_not_here(run: Path) -> None:
    evaluate = json.loads((run / "config.json").read_text())["evaluate"]
    moved = {**evaluate["benchmarks"][0], "data": "none.jsonl"}
    changed(run, evaluate={**evaluate, "benchmarks": [moved]})
    done = svdjobs("status", run)
    assert done.returncode == 0
    assert ["evaluate", "5/5"] in [line.split()[:2] for line in done.stdout.splitlines()]
    assert "sums: whether the completions answer its present problems is not checked" in done.stdout


def test_in_an_object_store(run: Path) -> None:
    """Journals are objects there, shards of pods are elsewhere, and no command reads the config."""
    local, store = LocalStore(run), MemoryStore()
    evaluate = json.loads((run / "config.json").read_text())["evaluate"]
    changed(run, evaluate={**evaluate, "shards": 2})
    for key in local.keys(""):
        if "0.5000/sums" not in key and "before/sums" not in key:
            write_bytes(store, key, bytes(local.read(key)))
    write_bytes(store, "results/alpha-0.5000/sums/completions.journal/lines-0-1", b"")
    write_bytes(store, "shares/before/sums-001/manifest.json", b"")
    found = status.run(store)
    begun = [u.prefix for s in found.stages for u in s.units if u.state == "begun"]
    assert begun == ["results/before/sums", "results/alpha-0.5000/sums"]
    said = "\n".join(status.words(found))
    assert "Next: svdjobs sweep CONFIG --store memory://store" in said
    assert "the run keeps a copy in memory://store/config.json" in said


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, 2, "has no config.json, so it holds no run"),
        ('{"architectures": ["Qwen2ForCausalLM"]}', 2, "it is not a run's config"),
        ("{", 4, "is not valid JSON"),
        ("[]", 4, "is not a config"),
        ('{"name": "x", "before": "a/b", "after": "c/d", "later": 1}', 2, "later: unknown key"),
        ('{"name": "x", "before": "a/b", "after": "a/b"}', 2, "the evaluation of a/b alone"),
    ],
)
def test_what_is_no_run(content: str | None, code: int, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    done = svdjobs("status", tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_hostile_files_are_escaped_and_no_traceback(
    make_config: Callable[..., SweepConfig], tmp_path: Path
) -> None:
    document = make_config().model_dump(mode="json")
    (tmp_path / "config.json").write_text(json.dumps({**document, "before": "a\n::error::\x1b[2J"}))
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan/manifest.json").write_text("<html>")
    done = svdjobs("status", tmp_path)
    assert done.returncode == 0
    assert "\x1b" not in done.stdout
    assert "\n::error" not in done.stdout
    assert "plan/manifest.json is a web page" in done.stderr
    assert "plan: its manifest is damaged, or is of" in done.stdout
