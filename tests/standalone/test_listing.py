"""What `svdjobs list` finds below a folder and in a bucket."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from svdjobs.config import SweepConfig
from svdjobs.standalone import listing
from svdjobs.storage.dev_server import BUCKET
from svdjobs.storage.local import LocalStore
from svdjobs.storage.objects import write_bytes
from svdjobs.storage.s3.store import S3Store
from tests.forked import run as svdjobs


@pytest.fixture
def runs(swept: SweepConfig, tmp_path: Path) -> Path:
    """Runs and other things in one folder, some of them below others."""
    root, run = tmp_path / "runs", Path(swept.store_url)
    shutil.copytree(run, root / "plan")
    shutil.copytree(run, root / "team/a-sweep-with-a-long-name/of-commit-0123456789")
    half = root / "half"
    shutil.copytree(run, half)
    for gone in ("report", "rotations", "checkpoints/alpha-0.0000", "results/after"):
        shutil.rmtree(half / gone)
    shutil.copytree(half, root / "begun")
    (root / "begun/plan/manifest.json").unlink()
    for name, content in {
        "damaged": "{", "later": json.dumps({**document(run), "later": 1}), "none": None,
    }.items():  # fmt: skip
        (root / name / "plan").mkdir(parents=True)
        (root / name / "plan/manifest.json").write_text("{}")
        if content is not None:
            (root / name / "config.json").write_text(content)
    (root / "checkpoint/plan").mkdir(parents=True)
    (root / "checkpoint/config.json").write_text("{}")
    (root / "weights/deep").mkdir(parents=True)
    (root / "weights/model.safetensors").write_text("")
    (root / "s3/data/volume/1").mkdir(parents=True)
    (root / "empty").mkdir()
    (root / "hostile\x1b[2J").mkdir()
    (root / "notes.txt").write_text("")
    shutil.copytree(half, root / "one/two/three/four")
    return root


def document(run: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((run / "config.json").read_text())
    return found


def test_runs_and_other_folders(runs: Path) -> None:
    done = svdjobs("list", runs)
    assert (done.returncode, done.stderr) == (0, "")
    table, others = done.stdout.split("\n\n")
    lines = table.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[2:]] == [
        "begun",
        "half",
        "plan",
        "team/a-swee…0123456789",
    ]
    assert [line.split()[-1] for line in lines[2:]] == ["plan", "no", "yes", "yes"]
    assert [line.split("mini")[1].split()[3] for line in lines[2:]] == ["10/15", "11/15"] + 2 * [
        "15/15"
    ]
    assert "base → rl2" in lines[2]
    assert others.splitlines() == [
        "checkpoint: no run: config.json has no name, before and after: it is not a run's config, "
        "but a checkpoint's or another file.",
        "damaged: damaged: config.json is not valid JSON (Expecting property name enclosed in "
        "double quotes: line 1 column 2 (char 1)). Delete it and run again.",
        "empty: empty",
        others.splitlines()[3],
        "later: damaged: config.json: later: unknown key; did you mean 'after'?",
        "none: damaged: has no config.json, so it holds no run.",
        "one: no run: holds two/",
        "s3: no run: holds data/",
        "weights: weights, no run",
    ]
    assert others.splitlines()[3].startswith("hostile\\x1b[2J: not listed: ")


def test_for_scripts(runs: Path) -> None:
    found = json.loads(svdjobs("list", runs / "half", "--json").stdout)
    assert found["store"] == str(runs / "half")
    (place,) = found["places"]
    assert place.pop("written").startswith("20")
    assert place == {
        "path": ".", "url": str(runs / "half"), "run": True, "words": "", "name": "mini",
        "before": document(runs / "half")["before"], "after": document(runs / "half")["after"],
        "finished": 11, "wanted": 15, "report": False,
    }  # fmt: skip


def test_in_a_bucket(runs: Path, s3_prefix: str) -> None:
    local, store = LocalStore(runs), S3Store(BUCKET, f"{s3_prefix}/runs")
    for key in local.keys(""):
        if not key.startswith(("begun", "one", "plan")) and not key.endswith(".safetensors"):
            write_bytes(store, key, bytes(local.read(key)))
    runs_there = [p for p in listing.find(store.url) if p.outputs]
    assert [(p.path, p.url) for p in runs_there] == [
        (path, f"{store.url}/{path}")
        for path in ("half", "team/a-sweep-with-a-long-name/of-commit-0123456789")
    ]
    assert [p.outputs.finished for p in runs_there if p.outputs] == [11, 15]


def test_nothing(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nowhere"):
        done = svdjobs("list", place)
        assert (done.returncode, done.stdout) == (2, "")
        assert f"there is nothing in {place}." in done.stderr
    (tmp_path / "a").mkdir()
    (tmp_path / "weights/original").mkdir(parents=True)
    (tmp_path / "weights/model.safetensors").write_text("")
    assert list(listing.words(listing.find(str(tmp_path / "weights")))) == ["There is no run."]
    done = svdjobs("list", tmp_path)
    assert (done.returncode, done.stdout) == (
        0,
        "There is no run.\na: empty\nweights: weights, no run\n",
    )
