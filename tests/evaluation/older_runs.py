"""Turns runs into older ones, which stored grades and completions in one output."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from svdjobs.config import SweepConfig
from svdjobs.runs.outputs import MANIFEST


def made_older(config: SweepConfig) -> None:
    """Move the grades of a run into the output of its completions, as in older runs."""
    root = Path(config.store_url)
    for folder in root.glob("grades/*/*"):
        results = root / "results" / folder.relative_to(root / "grades")
        completions, grades = (json.loads((at / MANIFEST).read_text()) for at in (results, folder))
        files = [file for file in completions["files"] if file["key"] != "prompts.json"]
        completions["files"] = sorted([*files, *grades["files"]], key=lambda file: file["key"])
        (results / "prompts.json").unlink(missing_ok=True)
        for file in grades["files"]:
            shutil.move(folder / file["key"], results / file["key"])
        (results / MANIFEST).write_text(json.dumps(completions))
    shutil.rmtree(root / "grades")
