"""Runs as versions wrote them that kept grades beside completions, under one manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from svdjobs.config import SweepConfig
from svdjobs.runs.outputs import MANIFEST


def made_older(config: SweepConfig) -> None:
    """Put the grades of a run back where earlier versions had them."""
    root = Path(config.store_url)
    for folder in root.glob("grades/*/*"):
        place = root / "results" / folder.relative_to(root / "grades")
        drawn, graded = (json.loads((at / MANIFEST).read_text()) for at in (place, folder))
        files = [file for file in drawn["files"] if file["key"] != "prompts.json"]
        drawn["files"] = sorted([*files, *graded["files"]], key=lambda file: file["key"])
        (place / "prompts.json").unlink(missing_ok=True)
        for file in graded["files"]:
            shutil.move(folder / file["key"], place / file["key"])
        (place / MANIFEST).write_text(json.dumps(drawn))
    shutil.rmtree(root / "grades")
