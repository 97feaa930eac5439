"""`svdjobs evaluate --model` with the flags of the field's scripts, and `svdjobs grade`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.test_cli import failed
from tests.forked import run as svdjobs

FEW = ("--n_samples", 2, "--max_tokens", 8, "--engine", "transformers")


def test_one_checkpoint_with_the_flags_of_the_fields_scripts(
    chain: dict[str, Path], benchmark_file: Path, tmp_path: Path
) -> None:
    asked = ("evaluate", "--model", chain["rl1"], "--data_path", benchmark_file, *FEW)
    done = svdjobs(*asked, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("rl1 on problems: avg@2 ")
    assert "Results: gen_results/rl1_results.json" in done.stdout
    results = json.loads((tmp_path / "gen_results" / "rl1_results.json").read_text())
    (summary,) = results["summary"]
    assert summary.keys() == {
        "model", "avg_accuracy", "n_samples_per_problem", "num_items",
    }  # fmt: skip
    assert summary["model"] == results["results"][0]["model"] == str(chain["rl1"])
    assert (summary["n_samples_per_problem"], summary["num_items"]) == (2, 5)
    details = results["results"][0]["details"]
    assert details[0].keys() == {
        "idx", "problem", "gold", "generations", "sample_scores", "per_problem_score",
    }  # fmt: skip
    assert [len(row["generations"]) for row in details] == [2] * 5
    log = tmp_path / "gen_results" / "rl1_results.run" / "logs" / "evaluate.log"
    assert "evaluate after on problems: done" in log.read_text()
    assert not (tmp_path / "logs").exists()
    again = svdjobs(*asked, cwd=tmp_path)
    assert again.stdout == done.stdout
    assert "evaluate after" not in again.stderr


def test_results_go_where_they_are_asked_to(
    chain: dict[str, Path], benchmark_file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "here" / "r.json"
    done = svdjobs("evaluate", "--model", chain["rl2"], "--tokenizer", chain["base"],
                   "--data_path", benchmark_file, "--out_json", path, "--temperature", 0, *FEW,
                   cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    generations = [
        row["generations"] for row in json.loads(path.read_text())["results"][0]["details"]
    ]
    assert all(first == second for first, second in generations)  # greedy


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "give either CONFIG, or --model"),
        (("--model", "m"), "--model needs --data_path, e.g. --data_path math-500"),
        (("c.yaml", "--n_samples", 3), "with CONFIG, use --set"),
        (("--model", "no/such/folder", "--data_path", "demo"), "no such folder"),
        (("--model", "{model}", "--data_path", "math-50"), "math-500"),
        (("--model", "{model}", "--data_path", "demo", "--engine", "vlm"), "engine"),
        (("--model", "{model}", "--data_path", "demo", "--gpu_mem_util", 2), "gpu_memory_util"),
        (("--model", "{model}", "--data_path", "demo", "--n_samples", 0), "n_samples"),
    ],
)
def test_wrong_use_is_explained(
    arguments: tuple[object, ...], words: str, chain: dict[str, Path], tmp_path: Path
) -> None:
    filled = [str(word).replace("{model}", str(chain["rl1"])) for word in arguments]
    assert words in failed(svdjobs("evaluate", *filled, cwd=tmp_path), 2)


def test_grading_again(chain: dict[str, Path], benchmark_file: Path, tmp_path: Path) -> None:
    config = tmp_path / "sweep.json"
    document = {
        "name": "mini", "before": str(chain["base"]), "after": str(chain["rl2"]), "alphas": [0],
        "store": str(tmp_path / "run"),
        "evaluate": {"benchmarks": [str(benchmark_file)], "n_samples": 1, "max_tokens": 4},
    }  # fmt: skip
    config.write_text(json.dumps(document))
    assert svdjobs("sweep", config).returncode == 0
    grades = tmp_path / "run/grades/after/problems/grades.jsonl"
    good = grades.read_text()
    grades.write_text("")
    done = svdjobs("grade", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert "minus after" in done.stdout
    assert grades.read_text() == good


def test_grading_what_is_no_run(tmp_path: Path) -> None:
    assert "has no config.json, so it holds no run" in failed(svdjobs("grade", tmp_path), 2)
