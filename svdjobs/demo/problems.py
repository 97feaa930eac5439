r"""Arithmetic problems, their golds, and demonstrations that contain mistakes.

There are five kinds of problems. The kind and the operands decide whether a problem is held out or
may occur in training (`is_held_out`).

A demonstration is a short worked answer. A fixed fraction of them contains a plausible slip (a
forgotten carry, a neighbour in the times table, the wrong operation) and continues from there to a
wrong `\boxed{}`. A model that imitates them gives probability to both the right and the wrong
continuation. Its accuracy at temperature 1 is therefore far below 1, although it can solve the
problems, and reinforcement learning can raise it by concentrating the probability. RLVR is said to
act on large models in the same way (Yue et al. 2025, arXiv:2504.13837).
"""

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

Kind = Literal["addition", "subtraction", "two_part", "multiplication", "story"]

KINDS: Final[tuple[Kind, ...]] = ("addition", "subtraction", "two_part", "multiplication", "story")

HELD_OUT_SHARE: Final = 0.15
"""Fraction of all problems that are held out: no training stream yields them."""

SLIP_SHARE: Final = 0.4
"""Fraction of the demonstrations that contain a slip."""

_STORIES: Final = (
    "Ann has {0} pens and buys {1} boxes of {2}. How many pens now?",
    "Tom has {0} nuts and finds {1} bags of {2}. How many nuts now?",
    "Eve has {0} cups and gets {1} boxes of {2}. How many cups now?",
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: kind and operands determine all but the wording of a story (`variant`)."""

    kind: Kind
    operands: tuple[int, ...]
    variant: int = 0

    @property
    def text(self) -> str:
        """The text of the problem, without the prompt suffix."""
        if self.kind == "story":
            return _STORIES[self.variant].format(*self.operands)
        return f"What is {_expression(self)}?"

    @property
    def gold(self) -> str:
        """The reference answer as a decimal integer."""
        return str(_VALUES[self.kind](*self.operands))


def _expression(problem: Problem) -> str:
    if problem.kind == "two_part":
        first, second, third = problem.operands
        return f"{first} + {second} - {third}"
    sign = {"addition": "+", "subtraction": "-", "multiplication": "*"}[problem.kind]
    left, right = problem.operands
    return f"{left} {sign} {right}"


_VALUES: Final[Mapping[str, Callable[..., int]]] = MappingProxyType(
    {
        "addition": lambda left, right: left + right,
        "subtraction": lambda left, right: left - right,
        "two_part": lambda first, second, third: first + second - third,
        "multiplication": lambda left, right: left * right,
        "story": lambda start, groups, size: start + groups * size,
    }
)


def draw_problem(rng: random.Random) -> Problem:
    """A random problem. All kinds are equally likely; each has its own range of operands."""
    kind = rng.choice(KINDS)
    operands: tuple[int, ...]
    if kind == "addition":
        high = rng.choice((99, 999))
        operands = (rng.randint(11, high), rng.randint(11, high))
    elif kind == "subtraction":
        left = rng.randint(21, 199)
        operands = (left, rng.randint(11, min(left - 1, 99)))
    elif kind == "two_part":
        operands = (rng.randint(11, 59), rng.randint(11, 39), rng.randint(3, 19))
    elif kind == "multiplication":
        operands = (rng.randint(2, 9), rng.randint(11, 99))
    else:
        operands = (rng.randint(11, 59), rng.randint(2, 9), rng.randint(2, 9))
    return Problem(kind, operands, rng.randrange(len(_STORIES)) if kind == "story" else 0)


def is_held_out(problem: Problem) -> bool:
    """Whether a problem belongs to the fixed fraction that training never sees.

    A hash of the kind and the sorted operands decides. `38 + 47` is therefore held out if `47 + 38`
    is, and a story is held out in every wording.
    """
    key = f"{problem.kind} {sorted(problem.operands)}".encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:4]) < HELD_OUT_SHARE * 2**32


def training_problems(seed: int) -> Iterator[Problem]:
    """An endless stream of problems that are not held out, determined by the seed."""
    return _stream(f"training {seed}", held_out=False)


def held_out_problems(n_problems: int) -> list[Problem]:
    """The first `n_problems` distinct held-out problems, the same on every call.

    No two have the same text or the same sorted operands, so none is counted twice.
    """
    chosen: dict[tuple[str, tuple[int, ...]], Problem] = {}
    for problem in _stream("held out", held_out=True):
        chosen.setdefault((problem.kind, tuple(sorted(problem.operands))), problem)
        if len(chosen) >= n_problems:
            break
    return list(chosen.values())[:n_problems]


def _stream(seed: str, *, held_out: bool) -> Iterator[Problem]:
    rng = random.Random(seed)
    while True:
        problem = draw_problem(rng)
        if is_held_out(problem) is held_out:
            yield problem


def write_demonstration(problem: Problem, rng: random.Random) -> str:
    """A worked answer, one line per step, with a slip in a fraction `SLIP_SHARE` of the cases."""
    slips = rng.random() < SLIP_SHARE
    return _WRITERS[problem.kind](problem.operands, rng, slips)


def _closing(answer: int) -> str:
    return f"\n\\boxed{{{answer}}}"


def _write_addition(operands: tuple[int, ...], rng: random.Random, slips: bool) -> str:
    """Add column by column from the right. The slip drops a carry, or miscounts a column by one."""
    left, right = operands
    n_columns = len(str(max(operands)))
    bad_column = rng.randrange(n_columns) if slips else None
    carry, answer, lines = 0, 0, []
    for column in range(n_columns):
        is_last = column == n_columns - 1
        a, b = left // 10**column % 10, right // 10**column % 10
        terms, total = (f"{a}+{b}+1" if carry else f"{a}+{b}"), a + b + carry
        carry = int(total >= 10 and not is_last)
        if column == bad_column and carry:
            carry = 0
        elif column == bad_column:
            total = max(total + rng.choice((-1, 1)), 0)
        answer += 10**column * (total if is_last else total % 10)
        lines.append(f"\n{terms}={total}" + (" carry" if carry else ""))
    return "".join(lines) + _closing(answer)


def _write_subtraction(operands: tuple[int, ...], rng: random.Random, slips: bool) -> str:
    """Subtract units, then tens, with a borrow. The slip drops the borrow, or miscounts by one."""
    left, right = operands
    borrow = int(left % 10 < right % 10)
    raised = left % 10 + 10 * borrow
    units = raised - right % 10
    if slips and borrow:
        borrow = 0
    elif slips:
        units = max(units + rng.choice((-1, 1)), 0) % 10
    terms = f"{left // 10}-{right // 10}" + ("-1" if borrow else "")
    tens = left // 10 - right // 10 - borrow
    middle = " borrow" if borrow else ""
    return f"\n{raised}-{right % 10}={units}{middle}\n{terms}={tens}{_closing(10 * tens + units)}"


def _write_two_part(operands: tuple[int, ...], rng: random.Random, slips: bool) -> str:
    """Add, then subtract. The slip is off by ten in the sum, or adds the last number."""
    first, second, third = operands
    middle, sign = first + second, "-"
    if slips and rng.random() < 0.5:
        middle += rng.choice((-10, 10))
    elif slips:
        sign = "+"
    answer = middle - third if sign == "-" else middle + third
    return f"\n{first}+{second}={middle}\n{middle}{sign}{third}={answer}{_closing(answer)}"


def _write_multiplication(operands: tuple[int, ...], rng: random.Random, slips: bool) -> str:
    """Multiply tens and units, then add. The slip takes a neighbour in the times table."""
    left, right = operands
    tens, units = right // 10, right % 10
    tens_product, units_product = left * tens * 10, left * units
    if slips and rng.random() < 0.5:
        tens_product = left * (tens + rng.choice((-1, 1))) * 10
    elif slips:
        units_product = left * abs(units + rng.choice((-1, 1)))
    answer = tens_product + units_product
    return (
        f"\n{left}*{tens * 10}={tens_product}\n{left}*{units}={units_product}"
        f"\n{tens_product}+{units_product}={answer}{_closing(answer)}"
    )


def _write_story(operands: tuple[int, ...], rng: random.Random, slips: bool) -> str:
    """Multiply groups by their size, then add. The slip adds instead of multiplying, or counts one
    group too few."""
    start, groups, size = operands
    sign, bought = "*", groups * size
    if slips and rng.random() < 0.5:
        sign, bought = "+", groups + size
    elif slips:
        bought -= size
    answer = start + bought
    return f"\n{groups}{sign}{size}={bought}\n{start}+{bought}={answer}{_closing(answer)}"


_WRITERS: Final[Mapping[str, Callable[[tuple[int, ...], random.Random, bool], str]]] = (
    MappingProxyType(
        {
            "addition": _write_addition,
            "subtraction": _write_subtraction,
            "two_part": _write_two_part,
            "multiplication": _write_multiplication,
            "story": _write_story,
        }
    )
)
