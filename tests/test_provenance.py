"""What a result says of its making."""

from __future__ import annotations

import pytest

from svdjobs import provenance


def test_versions_are_those_of_all_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report is made by a process without torch, of outputs that were made with it."""
    here = {"svdjobs": "1", "torch": "absent", "vllm": "absent", "numpy": "2.0"}
    monkeypatch.setattr(provenance, "versions", lambda: here)
    outputs = [
        {"svdjobs": "1", "torch": "2.13", "numpy": "2.0"},
        {"svdjobs": "1", "torch": "2.12", "numpy": "2.0", "vllm": "absent", "other": "7"},
    ]
    assert provenance.versions_of(outputs) == {
        "svdjobs": "1", "torch": "2.12, 2.13", "vllm": "absent", "numpy": "2.0",
    }  # fmt: skip
    assert provenance.versions_of([]) == here
