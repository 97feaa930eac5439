"""A process whose library hangs ends by itself."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from svdjobs.deadline import StallWatch
from svdjobs.errors import EXIT_TRY_AGAIN

HANGS = """
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
engine = VllmEngine.__new__(VllmEngine)
engine._llm = SimpleNamespace(llm_engine=library)
engine._config, engine._log = None, Path("vllm.log")
engine._stall = StallWatch(0.5, "vLLM hangs; see vllm.log.")
list(engine._outputs({"0": ((1, 2), None)}))
"""


def test_an_engine_that_hangs_ends_its_process_so_that_it_is_started_again() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == EXIT_TRY_AGAIN, ended.stderr
    assert "vLLM hangs; see vllm.log. It has not returned for" in ended.stderr
    assert "run the same command again" in ended.stderr


def test_many_short_calls_are_no_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(code: int) -> None:
        raise AssertionError(code)

    monkeypatch.setattr("os._exit", ended)
    watch = StallWatch(0.2, "it hangs.")
    for _ in range(10):
        with watch:
            time.sleep(0.05)
    time.sleep(0.5)
    assert watch._since is None
