"""`svdjobs init` writes a sweep that can be planned, and never replaces one."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from svdjobs.config_file import load_config
from tests.cli.test_cli import failed
from tests.forked import run as svdjobs

PAIR = ("--before", "demo:base", "--after", "demo:rl2")


def test_it_writes_a_sweep_that_can_be_planned(tmp_path: Path) -> None:
    done = svdjobs("init", "mine.yaml", *PAIR, "--benchmark", "demo", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("Next: svdjobs plan mine.yaml")
    text = (tmp_path / "mine.yaml").read_text()
    assert "# temperature: 1.0" in text
    config = load_config(tmp_path / "mine.yaml")
    assert (config.name, config.before, len(config.alphas)) == ("mine", "demo:base", 11)
    schema = json.loads((tmp_path / "sweep.schema.json").read_text())
    assert Draft202012Validator(schema).is_valid(yaml.safe_load(text))
    planned = svdjobs("plan", "mine.yaml", "--set", "evaluate.max_tokens=64", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr


def test_what_is_commented_out_are_the_defaults(tmp_path: Path) -> None:
    svdjobs("init", *PAIR, "--benchmark", "my.jsonl", "--rl1", "demo:rl1", cwd=tmp_path)
    text = (tmp_path / "sweep.yaml").read_text()
    opened = "\n".join(
        line.replace("# ", "", 1) if ": " in line and line.startswith(("  # ", "#   ")) else line
        for line in text.splitlines()
    )
    opened = opened.replace("# blend:", "blend:").replace("# selection:", "selection:")
    (tmp_path / "opened.yaml").write_text(opened)
    plain, given = load_config(tmp_path / "sweep.yaml"), load_config(tmp_path / "opened.yaml")
    assert given == plain
    assert plain.rotations and plain.rotations.rl1 == "demo:rl1"
    assert plain.benchmarks[0].data == "my.jsonl"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --before and --after: there is no terminal to ask in."),
        (["--before", "a"], "give --after"),
        ([*PAIR, "--benchmark", "math-50"], "math-500"),
        ([*PAIR, "--name", "a b"], "name: "),
    ],
)
def test_wrong_answers_write_nothing(arguments: list[str], words: str, tmp_path: Path) -> None:
    assert words in failed(svdjobs("init", *arguments, cwd=tmp_path), 2)
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text("mine")
    assert "--force" in failed(svdjobs("init", *PAIR, cwd=tmp_path), 2)
    assert (tmp_path / "sweep.yaml").read_text() == "mine"
    assert svdjobs("init", *PAIR, "--force", cwd=tmp_path).returncode == 0


def test_it_asks_in_a_terminal(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "svdjobs.cli.main", "init"]
    process = subprocess.Popen(command, stdin=theirs, cwd=tmp_path, stderr=subprocess.PIPE)
    os.write(ours, b"demo:base\ndemo:rl2\ndemo, other.jsonl\n")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"Checkpoint before RL" in said
    config = load_config(tmp_path / "sweep.yaml")
    assert [one.name for one in config.benchmarks] == ["demo", "other"]
