"""Measure how much of RL's effect on a language model is in the singular values of its weights.

The functions below are those of `svdjobs.api`, which is imported when one is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svdjobs.api import Run, blend_state_dict, load_run, plan_sweep, run_sweep

__version__ = "0.1.0"
__all__ = ["Run", "blend_state_dict", "load_run", "plan_sweep", "run_sweep"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("svdjobs.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
