"""The demo: three checkpoints of one small transformer, before, during and after RL.

`base` learnt arithmetic from imperfect demonstrations. `rl1` is `base` after policy-gradient
reinforcement learning, and `rl2` is `rl1` after more of it. `python -m svdjobs.demo.train` trains
them again. This module names the shipped files and imports nothing heavy.
"""

from pathlib import Path
from types import MappingProxyType
from typing import Final

_HERE: Final = Path(__file__).resolve().parent

CHECKPOINT_NAMES: Final = ("base", "rl1", "rl2")
"""The checkpoints in the order of training."""

CHECKPOINTS: Final = MappingProxyType(
    {name: _HERE / "checkpoints" / name for name in CHECKPOINT_NAMES}
)
"""The folder of each shipped checkpoint, by its name."""

HELDOUT: Final = _HERE / "heldout.jsonl"
"""The demo benchmark: 200 held-out problems, one JSON object {problem, answer} per line."""

MEASURED: Final = _HERE / "measured.json"
"""The accuracies and weight changes of the shipped checkpoints, measured when they were trained."""

PROMPT_SUFFIX: Final = "Let's think step by step and output the final answer within \\boxed{}."
"""The end of every prompt in training, after the problem and a space."""


def prompt_of(problem: str) -> str:
    """The prompt for a problem, in the form that the checkpoints were trained on.

    >>> prompt_of("What is 4 + 3?")[:32]
    "What is 4 + 3? Let's think step "
    """
    return f"{problem} {PROMPT_SUFFIX}"
