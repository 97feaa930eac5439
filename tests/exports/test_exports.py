"""Exports, opened again by the library of each tool.

The tools' libraries have other pins than svdjobs, so they live in an environment of their own,
which `make test-exports` creates. Without it these tests skip.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from svdjobs.config import SweepConfig
from svdjobs.evaluation import grades
from svdjobs.exports import lm_eval
from svdjobs.exports.graded import graded, numbers
from svdjobs.storage.local import LocalStore
from tests.cli.test_cli import failed
from tests.forked import run as svdjobs

ROOT = Path(__file__).parents[2]
PEERS = ROOT / ".venv-exports" / "bin" / "python"
Read = Callable[[str, str], Any]


@pytest.fixture
def read(swept: SweepConfig, tmp_path: Path) -> Read:
    """A function that exports the run, runs code with the tool's library, and returns what the code
    puts into `found`. The code sees the exported folder as `folder`."""
    if not PEERS.exists():
        pytest.skip("NO TOOLS: other tools' libraries are not installed: say `make test-exports`")
    quiet = {
        **os.environ, "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    }  # fmt: skip

    def run(kind: str, code: str) -> Any:
        folder = tmp_path / kind
        command = [
            str(PEERS),
            "-m",
            "svdjobs.cli.main",
            "export",
            kind,
            swept.store_url,
            str(folder),
        ]
        done = subprocess.run(command, env=quiet, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "Wrote " in done.stdout
        program = (
            f"import json, pathlib\nfolder = pathlib.Path({str(folder)!r})\n{code}\n"
            "print('FOUND' + json.dumps(found))"
        )
        done = subprocess.run(
            [PEERS, "-c", program], env=quiet, capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.rpartition("FOUND")[2])

    return run


def test_inspect_reads_every_completion_with_its_grade(read: Read, swept: SweepConfig) -> None:
    found = read(
        "inspect",
        """
from inspect_ai.log import read_eval_log
found = {}
for path in sorted(folder.glob("*.eval")):
    log = read_eval_log(str(path))
    found[path.stem] = [
        {m.name: m.value for m in log.results.scores[0].metrics.values()},
        [[s.id, s.epoch, s.target, s.output.completion, s.scores["svdjobs"].value,
          s.scores["svdjobs"].answer, s.metadata["seed"]] for s in log.samples],
        log.eval.model, log.eval.task,
    ]
""",
    )
    store = LocalStore(swept.store_url)
    for one in graded(store, swept):
        metrics, samples, model, task = found.pop(f"{one.benchmark}_{one.checkpoint}")
        assert (model, task) == (f"svdjobs/{one.checkpoint}", one.benchmark)
        assert metrics["accuracy"] == one.summary.avg_at_n.value
        assert sorted(samples) == sorted(
            [p.idx, c.sample_index + 1, p.gold, c.text,
             "C" if g.outcome.value == "correct" else "I", g.answer, c.seed]
            for p, answers in one.problems
            for c, g in answers
        )  # fmt: skip
    assert found == {}


def test_lm_evaluation_harness_finds_results_and_samples(read: Read, swept: SweepConfig) -> None:
    found = read(
        "lm-eval",
        """
from lm_eval.utils import (
    get_file_task_name, get_latest_filename, get_results_filenames, get_sample_results_filenames,
    make_table,
)
found = {}
for below in sorted(folder.iterdir()):
    names = [str(path) for path in below.iterdir()]
    results = json.loads(open(get_latest_filename(get_results_filenames(names))).read())
    (samples,) = get_sample_results_filenames(names)
    rows = [json.loads(line) for line in open(samples)]
    task = get_file_task_name(samples.rpartition("/")[2])
    found[below.name] = [task, results["results"], rows, make_table(results)]
""",
    )
    for one in graded(LocalStore(swept.store_url), swept):
        task, results, rows, table = found.pop(one.checkpoint)
        assert task == one.benchmark
        assert results[task]["exact_match,none"] == one.summary.avg_at_n.value
        assert f"|{one.benchmark}|" in table.replace(" ", "")
        texts = [[c.text for c, _ in answers] for _, answers in one.problems]
        assert [row["resps"][0] for row in rows] == texts
        shares = [row["exact_match"] for row in rows]
        assert sum(shares) / len(shares) == pytest.approx(one.summary.avg_at_n.value)
    assert found == {}


def test_mlflow_has_the_config_the_numbers_and_the_report(read: Read, swept: SweepConfig) -> None:
    found = read(
        "mlflow",
        """
from mlflow import MlflowClient
client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
(experiment,) = [e for e in client.search_experiments() if e.name == "svdjobs"]
(run,) = client.search_runs([experiment.experiment_id])
files = [f.path for f in client.list_artifacts(run.info.run_id, "report")]
found = [run.info.run_name, run.info.status, run.data.params, run.data.metrics, files]
""",
    )
    name, status, params, metrics, files = found
    assert (name, status) == (swept.name, "FINISHED")
    assert params["before"] == swept.before
    assert params["evaluate.n_samples"] == str(swept.evaluation.n_samples)
    assert "report/report.html" in files
    known = {n for n in numbers(LocalStore(swept.store_url)) if n.value == n.value}
    for one in known:
        place = "/".join(part for part in (one.benchmark, one.checkpoint) if part != "-")
        name = f"{place}/{one.quantity}".lstrip("/").replace("@", "_").replace(",", "_")
        assert metrics[name] == pytest.approx(one.value)


def test_an_offline_run_of_wandb_has_the_numbers(read: Read, swept: SweepConfig) -> None:
    found = read(
        "wandb",
        """
from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal.datastore import DataStore
(path,) = folder.glob("wandb/offline-run-*/*.wandb")
store = DataStore()
store.open_for_scan(str(path))
found = {"summary": {}, "config": [], "name": None}
while (data := store.scan_data()) is not None:
    record = wandb_internal_pb2.Record()
    record.ParseFromString(data)
    kind = record.WhichOneof("record_type")
    if kind == "run":
        found["name"] = record.run.display_name
        found["config"] += [item.key for item in record.run.config.update]
    for item in record.summary.update if kind == "summary" else ():
        key = item.key or "/".join(item.nested_key)
        found["summary"][key] = json.loads(item.value_json)
""",
    )
    assert found["name"] == swept.name
    assert {"before", "after", "alphas"} <= set(found["config"])
    summary = numbers(LocalStore(swept.store_url))
    average = next(n for n in summary if (n.checkpoint, n.quantity) == ("after", "avg"))
    assert found["summary"][f"{average.benchmark}/after/avg"] == average.value


def test_only_finished_evaluations_are_exported(swept: SweepConfig, tmp_path: Path) -> None:
    store = LocalStore(swept.store_url)
    for path in Path(swept.store_url).glob("grades/before/*/manifest.json"):
        path.unlink()
    written = lm_eval.export(store, swept, tmp_path / "out")
    assert "before" not in {path.parent.name for path in written}
    assert "after" in {path.parent.name for path in written}
    assert grades.find(store, "before", "sums") is None


def test_what_cannot_be_exported_is_refused(swept: SweepConfig, tmp_path: Path) -> None:
    run = swept.store_url
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    words = failed(svdjobs("export", "lm-eval", run, tmp_path / "full"), 2)
    assert "is not an empty folder" in words
    assert failed(svdjobs("export", "lm-eval", tmp_path, tmp_path / "new"), 2)
    assert "svdjobs[inspect]" in failed(svdjobs("export", "inspect", run, tmp_path / "i"), 2)
    assert not (tmp_path / "i").exists()
    assert "is not one of" in failed(svdjobs("export", "other", run, tmp_path / "o"), 2)
