"""vLLM with several workers, each a process with a part of the weights, as with several GPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.evaluation.engines import engine_child
from tests.evaluation.engines.running import finished, not_here
from tests.evaluation.engines.test_conformance import expected_log_probabilities


@pytest.mark.slow
@pytest.mark.skipif(bool(not_here("vllm")), reason=not_here("vllm"))
def test_two_workers_compute_with_the_weights_that_were_sent(tmp_path: Path) -> None:
    """In files, and as over CUDA IPC, but with tensors in place of handles."""
    output, said = finished(tmp_path, engine_child.__name__, "vllm", "2")
    report = json.loads(output.splitlines()[-1])
    assert report["description"].endswith(" on 2 × cpu")
    assert "vLLM's workers get new weights in files, and not over CUDA IPC: " in said
    assert report["completions"] == 2
    for rows, name in (([report["rl2"]], "rl2"), (report["base"], "base")):
        expected = expected_log_probabilities(name)
        for found in rows:
            for ours, theirs in zip(found, expected, strict=True):
                assert ours == pytest.approx(theirs, abs=1e-4), name
    by_file, by_handle = report["some"]
    assert by_file == by_handle
    assert by_file not in (report["rl2"], *report["base"])
    # A worker that does not get its part is found.
    assert f"{len(engine_child.SOME)} of the engine's" in report["stale"]
