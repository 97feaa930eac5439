from __future__ import annotations

from pathlib import Path

import pytest

from svdjobs.ci.summary import STEP_SUMMARY, Finding, page, publish


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0, "no gate is configured"), (2, "incomplete"), (3, "regression"),
        (4, "infrastructure failed"), (5, "out of time"), (7, "exit code 7"),
    ],
)  # fmt: skip
def test_the_verdict_comes_first(code: int, words: str) -> None:
    first, *rest = page(Finding("x", code, words="Why.", look=["do this"])).splitlines()
    assert first.startswith("## x: ")
    assert words in first
    assert rest == ["", "Why.", "", "- Look further: `do this`"]


def test_what_is_missing_is_named() -> None:
    text = page(Finding("x", 2, missing=["results/after/b"], places=["Here: out/report"]))
    assert "**Not finished:** results/after/b\n\n- Here: out/report\n" in text


def test_a_step_s_summary_is_appended_to(tmp_path: Path) -> None:
    step = tmp_path / "step.md"
    step.write_text("earlier\n")
    publish("one\n", tmp_path / "into", {STEP_SUMMARY: str(step)})
    publish("two\n", tmp_path / "into", {})
    assert step.read_text() == "earlier\none\n\n"
    assert (tmp_path / "into/summary.md").read_text() == "two\n"
