"""A process whose library hangs ends by itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from svdjobs.deadline import StallWatch
from svdjobs.errors import EXIT_TRY_AGAIN

HANGS = """
import multiprocessing
import time
from pathlib import Path
from types import SimpleNamespace
from svdjobs.deadline import StallWatch
from svdjobs.evaluation.engines.vllm import VllmEngine

library = SimpleNamespace(
    add_request=lambda *_: None,
    has_unfinished_requests=lambda: True,
    step=lambda: time.sleep(60),
    abort_request=lambda _: None,
)
log = Path("vllm.log")
log.write_text("NCCL waits for rank 1\\n")
worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
worker.start()
print(worker.pid, flush=True)
engine = VllmEngine.__new__(VllmEngine)
engine._llm = SimpleNamespace(llm_engine=library)
engine._config, engine._log = None, log
engine._stall = StallWatch(0.5, "vLLM", log)
if __name__ == "__main__":
    list(engine._outputs({"0": ((1, 2), None)}))
"""


def test_an_engine_that_hangs_ends_its_process_so_that_it_is_started_again(tmp_path: Path) -> None:
    """And its workers, which would keep their GPUs."""
    ended = subprocess.run(
        [sys.executable, "-c", HANGS],
        capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert ended.returncode == EXIT_TRY_AGAIN, ended.stderr
    assert "vLLM hangs: a call has not returned for" in ended.stderr
    assert "run the same command again" in ended.stderr
    assert "NCCL waits for rank 1" in ended.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(int(ended.stdout), 0)


def test_many_short_calls_are_no_hang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def ended(code: int) -> None:
        raise AssertionError(code)

    monkeypatch.setattr("os._exit", ended)
    watch = StallWatch(0.2, "it", tmp_path / "none.log")
    for _ in range(10):
        with watch:
            time.sleep(0.05)
    time.sleep(0.5)
    assert watch._since is None
