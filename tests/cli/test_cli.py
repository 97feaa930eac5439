from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from svdjobs.config import SweepConfig
from tests.forked import run as svdjobs

MakeConfig = Callable[..., SweepConfig]


@pytest.fixture
def config_file(make_config: MakeConfig, tmp_path: Path) -> Path:
    path = tmp_path / "sweep.yaml"
    path.write_text(yaml.safe_dump(make_config().model_dump(mode="json")))
    return path


def failed(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Assert that a command failed with a code and without a traceback; return its message."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    return done.stderr


def test_stage_by_stage_equals_a_sweep(config_file: Path, tmp_path: Path) -> None:
    for stage in ("plan", "decompose", "blend", "evaluate", "rotations"):
        done = svdjobs(stage, config_file)
        assert done.returncode == 0, done.stderr
    done = svdjobs("report", config_file)
    assert done.returncode == 0
    assert "minus after" in done.stdout
    assert f"Report: {tmp_path}/run/report/report.html" in done.stdout
    once = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    bare = tmp_path / "without-assertions"
    command = [sys.executable, "-O", "-m", "svdjobs.cli.main", "sweep", str(config_file)]
    subprocess.run([*command, "--store", str(bare)], check=True, capture_output=True)
    assert [
        path
        for path in once
        if not path.name.endswith(("manifest.json", "config.json", ".log"))
        and (bare / path.relative_to(tmp_path / "run")).read_bytes() != once[path]
    ] == []
    again = svdjobs("sweep", config_file)
    assert again.returncode == 0
    assert {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()} == once
    assert "decompose" not in again.stderr.replace("to decompose", "")
    assert "evaluate" not in again.stderr


def test_output_fits_a_hundred_columns(config_file: Path) -> None:
    done = svdjobs("sweep", config_file, "--set", "rotations=null")
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("\n\n")[0].splitlines()
    assert max(map(len, table)) <= 100
    assert len(table) == 2 + 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep", "absent.yaml"], "no config file at absent.yaml"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["sweep"], "give a config file, e.g. jobs/sweeps/demo.yaml"),
        (["decompose"], "give either CONFIG, or --model_id"),
        (["decompose", "--model_id", "x"], "--model_id needs --output_dir"),
        (["decompose", "--model_id", "./x", "--output_dir", "out"], "no such folder"),
    ],
)
def test_wrong_use(arguments: list[str], words: str, tmp_path: Path) -> None:
    assert words in failed(svdjobs(*arguments, cwd=tmp_path), 2)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("alphas=[0,zero]", "alpha 'zero' is not a number"),
        ("alphas=[0,0]", "alpha given twice: 0.0"),
        ("alphass=[0]", "did you mean 'alphas'?"),
        ("before=./nowhere", "no such folder"),
        ("evaluate.benchmarks=[{name: b, data: none.jsonl}]", "none.jsonl: no such file"),
    ],
)
def test_bad_config_values(override: str, words: str, config_file: Path, tmp_path: Path) -> None:
    assert words in failed(svdjobs("sweep", config_file, "--set", override), 2)


def test_stage_without_its_input(config_file: Path) -> None:
    assert "needs outputs that are not there yet" in failed(svdjobs("blend", config_file), 2)


def test_unreachable_hub_is_an_infrastructure_failure(config_file: Path) -> None:
    message = failed(svdjobs("plan", config_file, "--set", "before=someone/nothing"), 4)
    assert "someone/nothing" in message


def test_standalone_decompose(chain: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["decompose", "--output_dir", tmp_path / "out", "--export", "pt"]
    for name in ("base", "rl2"):
        arguments += ["--model_id", chain[name]]
    done = svdjobs(*arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("blended 14 of 26 tensors") == 2
    file = tmp_path / "out" / "rl2" / "model__layers__0__self_attn__q_proj__weight.pt"
    assert set(torch.load(file, weights_only=True)) == {"U", "S", "Vh", "orig_shape"}


def test_only_the_alphas_and_checkpoints_named(config_file: Path, tmp_path: Path) -> None:
    for stage in ("plan", "decompose"):
        assert svdjobs(stage, config_file).returncode == 0
    assert svdjobs("blend", config_file, "--alpha", "0.5").returncode == 0
    made = [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert made == ["alpha-0.5000"]
    done = svdjobs("evaluate", config_file, "--checkpoint", "alpha-0.5000")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "run" / "results").iterdir()] == ["alpha-0.5000"]
    report = svdjobs("report", config_file)
    assert "Not finished: " in report.stdout
    assert "results/after/sums" in report.stdout
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "Not finished, so not in this report" in page
    message = failed(svdjobs("evaluate", config_file, "--checkpoint", "alpha-9"), 2)
    assert "no checkpoint 'alpha-9' in this run; it has before, after, alpha-0.0000" in message


def test_ctrl_c_says_how_to_go_on(config_file: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "svdjobs.cli.main", "sweep", str(config_file)],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "factors").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    # If the signal comes during an `exec`, Python ends by the signal; a shell shows 130 then, too.
    assert process.returncode in (130, -signal.SIGINT)
    assert "run the same command again" in stderr
    assert "Traceback" not in stderr


def test_changed_alphas_keep_what_is_done(config_file: Path, tmp_path: Path) -> None:
    assert svdjobs("sweep", config_file, "--set", "evaluate=null").returncode == 0
    kept = tmp_path / "run" / "checkpoints" / "alpha-0.5000" / "model.safetensors"
    before = kept.stat().st_mtime_ns
    done = svdjobs("sweep", config_file, "--set", "evaluate=null", "--set", "alphas=[0.5,0.75]")
    assert done.returncode == 0, done.stderr
    assert kept.stat().st_mtime_ns == before
    meta = tmp_path / "run" / "checkpoints" / "alpha-0.7500" / "svd_blend_meta.json"
    assert json.loads(meta.read_text())["alpha"] == 0.75


def test_a_gate_ends_a_sweep_with_its_verdict(config_file: Path, tmp_path: Path) -> None:
    """Untrained checkpoints solve nothing, so the gate is inconclusive: that may pass or fail."""
    own = ["--set", "rotations=null", "--set", "alphas=[0]", "--set", "gate={}"]
    done = svdjobs("sweep", config_file, *own)
    assert done.returncode == 0, done.stderr
    report, gate = (
        done.stdout.index("Report: "),
        done.stdout.index("Gate: inconclusive, which passes"),
    )
    assert report < gate
    table = done.stdout[report:].split("\n\n")[1].splitlines()
    assert (len(table), table[0].split()[0]) == (3, "benchmark")
    assert max(map(len, table)) <= 100
    assert (tmp_path / "run/gate/junit.xml").exists()
    strict = [*own, "--set", "gate.inconclusive=fail"]
    for command in ("sweep", "gate", "gate"):  # the second gate finds its verdict there
        done = svdjobs(command, config_file, *strict)
        assert done.returncode == 3, done.stderr
        assert "Gate: inconclusive, which fails" in done.stdout
    copied = tmp_path / "copied"
    assert svdjobs("gate", config_file, *own, "--copy-to", copied).returncode == 0
    assert {path.name for path in copied.iterdir()} == {"gate.json", "gate.md", "junit.xml"}


def test_an_earlier_run_of_the_same_weights_passes(config_file: Path, tmp_path: Path) -> None:
    own = ["--set", "rotations=null", "--set", "alphas=[]"]
    assert svdjobs("sweep", config_file, *own, "--store", tmp_path / "good").returncode == 0
    judged = [*own, "--set", f"gate={{baseline: {tmp_path}/good}}"]
    done = svdjobs("sweep", config_file, *judged)
    assert done.returncode == 0, done.stderr
    assert "Gate: passed. after lost no more than 1 point against after of" in done.stdout
    assert "the same weights with the same scores" in done.stdout
    other = svdjobs("sweep", config_file, *judged, "--set", "evaluate.max_tokens=9")
    assert "max_tokens is 9 here and 12 in the baseline" in failed(other, 2)
    assert "Report: " in other.stdout


def test_a_gate_without_answers_or_section(config_file: Path) -> None:
    assert "no `gate` section" in failed(svdjobs("gate", config_file), 2)
    message = failed(svdjobs("gate", config_file, "--set", "gate={}"), 2)
    assert "results/after/sums" in message
    assert "results/before/sums" in message


def test_how_to_cite_it() -> None:
    """CITATION.cff and the command say the same; both have the version of the package."""
    said = svdjobs("cite").stdout
    citation = yaml.safe_load((Path(__file__).parents[2] / "CITATION.cff").read_text())
    assert said.startswith("@software{svdjobs,")
    for key in ("title", "version"):
        assert f"{key:<7} = {{{citation[key]}}}" in said
    assert f"{{{{{citation['authors'][0]['name']}}}}}" in said
    assert re.search(r"note    = \{commit [0-9a-f]{40}(\+dirty)?\}\n\}$", said.strip())


def test_quiet_prints_results_and_errors_only(config_file: Path) -> None:
    done = svdjobs("-q", "sweep", config_file, "--set", "evaluate=null", "--set", "rotations=null")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Report: " in done.stdout
    assert "no such folder" in failed(
        svdjobs("-q", "decompose", "--model_id", "./x", "--output_dir", "o"), 2
    )


def test_a_plan_as_json(config_file: Path) -> None:
    done = svdjobs("plan", config_file, "--json")
    document = json.loads(done.stdout)
    assert document["architecture"] == "Qwen2ForCausalLM"
    assert len(document["blended"]) == 14
    assert document["estimate"]["decompose_flops"] > 0
    assert any("blended 14 of" in line for line in document["lines"])


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("svdjobs sta", "status"),
        ("svdjobs sweep --set evaluate.temp", "evaluate.temperature="),
        ("svdjobs keys gat", "gate.margin"),
        ("svdjobs sweep jobs/", "file,"),
    ],
)
def test_a_shell_completes(words: str, found: str) -> None:
    environment = {
        **os.environ, "_SVDJOBS_COMPLETE": "bash_complete", "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }  # fmt: skip
    program = str(Path(sys.executable).with_name("svdjobs"))
    done = subprocess.run([program], env=environment, capture_output=True, text=True)
    assert found in done.stdout
