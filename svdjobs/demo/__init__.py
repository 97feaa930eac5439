"""The demonstration chain: three real checkpoints of one small transformer.

`base` learnt arithmetic from imperfect demonstrations, `rl1` is `base` after policy-gradient
reinforcement learning, `rl2` is `rl1` after more of it. `python -m svdjobs.demo.train` makes all of
them again. This module names the shipped files and imports nothing heavy.
"""

from pathlib import Path
from types import MappingProxyType
from typing import Final

_HERE: Final = Path(__file__).resolve().parent

CHECKPOINT_NAMES: Final = ("base", "rl1", "rl2")
"""The chain, in the order in which it was trained."""

CHECKPOINTS: Final = MappingProxyType(
    {name: _HERE / "checkpoints" / name for name in CHECKPOINT_NAMES}
)
"""Name -> folder of the shipped checkpoint."""

HELDOUT: Final = _HERE / "heldout.jsonl"
"""The demo benchmark: 200 held-out problems, one JSON object {problem, answer} per line."""

MEASURED: Final = _HERE / "measured.json"
"""What the shipped checkpoints were measured to do when they were trained."""

PROMPT_SUFFIX: Final = "Let's think step by step and output the final answer within \\boxed{}."
"""What follows the problem and one space in every prompt the checkpoints were trained on."""


def prompt_of(problem: str) -> str:
    """The text the checkpoints expect before a completion.

    >>> prompt_of("What is 4 + 3?")[:32]
    "What is 4 + 3? Let's think step "
    """
    return f"{problem} {PROMPT_SUFFIX}"
