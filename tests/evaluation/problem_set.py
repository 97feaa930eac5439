r"""A set of mathematics problems with worked solutions, made here: `problem_set()`.

The kinds of answers are those of the usual benchmarks (numbers in every notation, radicals,
polynomials, points, intervals, matrices, sets, units, words), and so are the ways in which a
solution ends. Numbers are drawn from a fixed seed, and every answer is computed, not typed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from math import comb, gcd
from typing import NamedTuple, TypedDict

from tests.evaluation.answers.latex import fraction, matrix, polynomial, radical


class Row(TypedDict):
    """A problem in the fields of the usual data sets."""

    problem: str
    solution: str
    answer: str
    subject: str
    unique_id: str


class Made(NamedTuple):
    """What a kind of problem makes: the question, how it is worked, the answer in LaTeX."""

    problem: str
    steps: str
    answer: str


Kind = Callable[[random.Random], Made]


def linear(rng: random.Random) -> Made:
    a, x, b = rng.randint(2, 30), rng.randint(-60, 60), rng.randint(1, 90)
    return Made(
        f"Solve ${a}x + {b} = {a * x + b}$ for $x$.",
        f"Subtract ${b}$ to get ${a}x = {a * x}$, then divide by ${a}$.",
        str(x),
    )


def large_sum(rng: random.Random) -> Made:
    n = rng.randint(150, 900)
    total = n * (n + 1) // 2
    return Made(
        f"Find the sum of the integers from $1$ to ${n}$.",
        rf"The sum is \[\frac{{{n} \cdot {n + 1}}}{{2}}.\]",
        f"{total:,}".replace(",", "{,}") if rng.random() < 0.3 else str(total),
    )


def quotient(rng: random.Random) -> Made:
    a, b = rng.randint(1, 60), rng.randint(2, 45)
    value = Fraction(-a if rng.random() < 0.3 else a, b)
    style = rng.choice([r"\frac", r"\dfrac", r"\tfrac"])
    return Made(
        f"Write ${value.numerator * 6} \\div {value.denominator * 6}$ as a common fraction.",
        "Divide both numbers by their greatest common divisor.",
        fraction(value, style),
    )


def decimal(rng: random.Random) -> Made:
    cents = rng.randint(101, 9999)
    return Made(
        f"How many hundreds are there in ${cents}$? Give a decimal.",
        "Move the point by two places.",
        f"{cents / 100:.2f}",
    )


def length(rng: random.Random) -> Made:
    a, b = rng.randint(1, 20), rng.randint(1, 20)
    return Made(
        f"A right triangle has legs of ${a}$ and ${b}$. How long is its hypotenuse?",
        f"By Pythagoras its square is ${a * a} + {b * b} = {a * a + b * b}$.",
        radical(a * a + b * b),
    )


def cube_root(rng: random.Random) -> Made:
    k, m = rng.randint(2, 9), rng.choice([2, 3, 5, 7])
    return Made(
        rf"Simplify $\sqrt[3]{{{k**3 * m}}}$.",
        f"Since ${k**3 * m} = {k}^3 \\cdot {m}$, a factor of ${k}$ leaves the root.",
        rf"{k}\sqrt[3]{{{m}}}",
    )


def rationalised(rng: random.Random) -> Made:
    a, b = rng.randint(1, 12), rng.choice([2, 3, 5, 6, 7, 10, 11])
    common = gcd(a, b)
    top = rf"\sqrt{{{b}}}" if a == common else rf"{a // common}\sqrt{{{b}}}"
    bottom = b // common
    return Made(
        rf"Rationalise the denominator of $\frac{{{a}}}{{\sqrt{{{b}}}}}$.",
        rf"Multiply both parts by $\sqrt{{{b}}}$.",
        top if bottom == 1 else rf"\frac{{{top}}}{{{bottom}}}",
    )


def expanded(rng: random.Random) -> Made:
    a, b = (rng.choice([-1, 1]) * rng.randint(1, 12) for _ in range(2))
    return Made(
        f"Expand $({polynomial(1, a)})({polynomial(1, b)})$.",
        f"The sum of the constants is ${a + b}$ and their product ${a * b}$.",
        polynomial(1, a + b, a * b),
    )


def factored(rng: random.Random) -> Made:
    a, b = rng.sample(range(1, 15), 2)
    return Made(
        f"Factor ${polynomial(1, a - b, -a * b)}$ completely.",
        f"Two numbers with the product ${-a * b}$ and the sum ${a - b}$ are ${a}$ and ${-b}$.",
        f"(x+{a})(x-{b})",
    )


def roots(rng: random.Random) -> Made:
    a, b = sorted(rng.sample(range(-15, 16), 2))
    return Made(
        f"Find all roots of ${polynomial(1, -a - b, a * b)}$, separated by commas.",
        "Factor, and set each factor to zero.",
        f"{a},{b}" if rng.random() < 0.5 else f"{a}, {b}",
    )


def line(rng: random.Random) -> Made:
    m, b = rng.randint(2, 12), rng.randint(1, 30)
    return Made(
        f"Which line has the slope ${m}$ and meets the $y$-axis at $(0,{b})$?",
        "Use the slope-intercept form.",
        f"y = {m}x + {b}" if rng.random() < 0.5 else f"y={m}x+{b}",
    )


def midpoint(rng: random.Random) -> Made:
    x, y, u, v = (rng.randint(-20, 20) for _ in range(4))
    one, two = fraction(Fraction(x + u, 2)), fraction(Fraction(y + v, 2))
    return Made(
        f"Find the midpoint of the segment from $({x},{y})$ to $({u},{v})$.",
        "Take the means of the coordinates.",
        rf"\left( {one}, {two} \right)" if "frac" in one + two else f"({one},{two})",
    )


def polar(rng: random.Random) -> Made:
    r, k = rng.randint(2, 30), rng.choice([1, 2, 4, 5])
    angle = {1: r"\frac{\pi}{3}", 2: r"\frac{2\pi}{3}", 4: r"\frac{4\pi}{3}", 5: r"\frac{5\pi}{3}"}
    return Made(
        f"Give polar coordinates of the point at distance ${r}$ and angle ${60 * k}^\\circ$.",
        r"A half turn is $\pi$.",
        rf"\left( {r}, {angle[k]} \right)",
    )


def interval(rng: random.Random) -> Made:
    a, b = sorted(rng.sample(range(-20, 21), 2))
    left, right = rng.choice([("(", ")"), ("[", "]"), ("[", ")"), ("(", "]")])
    words = {"(": "more than", "[": "at least", ")": "less than", "]": "at most"}
    return Made(
        f"Which numbers are {words[left]} ${a}$ and {words[right]} ${b}$? Use an interval.",
        "An end that belongs to it gets a square bracket.",
        f"{left}{a},{b}{right}",
    )


def rays(rng: random.Random) -> Made:
    a, b = sorted(rng.sample(range(-20, 21), 2))
    return Made(
        f"For which $x$ is $(x-({a}))(x-({b}))$ positive?",
        "Both factors have the same sign.",
        rf"(-\infty,{a}) \cup ({b},\infty)",
    )


def circle(rng: random.Random) -> Made:
    r = rng.randint(2, 40)
    return Made(
        f"What is the area of a circle of radius ${r}$?",
        r"Use $\pi r^2$.",
        rf"{r * r}\pi",
    )


def angle(rng: random.Random) -> Made:
    a, b = rng.randint(20, 80), rng.randint(20, 80)
    return Made(
        f"Two angles of a triangle are ${a}^\\circ$ and ${b}^\\circ$. Find the third.",
        "The three add up to a half turn.",
        rf"{180 - a - b}^\circ" if rng.random() < 0.6 else str(180 - a - b),
    )


def price(rng: random.Random) -> Made:
    each, count = rng.randint(3, 40), rng.randint(2, 25)
    return Made(
        rf"A book costs \${each}. What do {count} of them cost?",
        "Multiply.",
        rf"\${each * count}",
    )


def share(rng: random.Random) -> Made:
    part, whole = rng.randint(1, 24), 25
    return Made(
        f"What percentage of ${whole * 4}$ is ${part * 4}$?",
        "Compare with a hundred.",
        rf"{4 * part}\%",
    )


def distance(rng: random.Random) -> Made:
    speed, hours = rng.randint(20, 90), rng.randint(2, 9)
    unit = rng.choice(["miles", "meters", "cm"])
    return Made(
        f"How far does something get in {hours} hours at {speed} {unit} per hour?",
        "Multiply time and speed.",
        rf"{speed * hours} \text{{ {unit}}}",
    )


def based(rng: random.Random) -> Made:
    base, value = rng.randint(3, 9), rng.randint(30, 900)
    digits, rest = "", value
    while rest:
        digits, rest = str(rest % base) + digits, rest // base
    return Made(
        f"Write ${value}_{{10}}$ in base ${base}$.",
        "Divide again and again, and read the remainders from the last.",
        f"{digits}_{base}" if rng.random() < 0.7 else f"{digits}_{{{base}}}",
    )


def complex_product(rng: random.Random) -> Made:
    a, b, c, d = (rng.randint(1, 9) for _ in range(4))
    real, imaginary = a * c - b * d, a * d + b * c
    return Made(
        f"Compute $({a}+{b}i)({c}+{d}i)$.",
        "Multiply out, with $i^2 = -1$.",
        f"{real}+{imaginary}i" if real else f"{imaginary}i",
    )


def matrix_sum(rng: random.Random) -> Made:
    a, b = ([[rng.randint(-9, 9) for _ in range(2)] for _ in range(2)] for _ in range(2))
    total = [[x + y for x, y in zip(p, q, strict=True)] for p, q in zip(a, b, strict=True)]
    return Made(f"Compute ${matrix(a)} + {matrix(b)}$.", "Add entry by entry.", matrix(total))


def vector(rng: random.Random) -> Made:
    k, v = rng.randint(2, 6), [rng.randint(-9, 9) for _ in range(3)]
    scaled = matrix([[k * x] for x in v])
    return Made(f"Compute ${k}{matrix([[x] for x in v])}$.", "Scale every entry.", scaled)


def word(rng: random.Random) -> Made:
    names = rng.sample(["Ada", "Bo", "Chandra", "Dov", "Emeka", "Fen"], 3)
    times = rng.sample(range(10, 60), 3)
    first = names[times.index(min(times))]
    told = ", ".join(f"{n} in {t} s" for n, t in zip(names, times, strict=True))
    return Made(f"Who runs fastest: {told}?", "The least time wins.", rf"\text{{{first}}}")


def parity(rng: random.Random) -> Made:
    power = rng.randint(1, 99)
    return Made(
        f"Is $x^{power}$ even, odd or neither, as a function?",
        "Put $-x$ in the place of $x$.",
        r"\text{even}" if power % 2 == 0 else r"\text{odd}",
    )


def choice(rng: random.Random) -> Made:
    right, letters = rng.randrange(5), "ABCDE"
    value = rng.randint(10, 99)
    shown = " ".join(f"({x}) {value + i - right}" for i, x in enumerate(letters))
    return Made(f"What is {value - 7} + 7? {shown}", "Add seven.", rf"\text{{({letters[right]})}}")


def chosen(rng: random.Random) -> Made:
    n, k = rng.randint(5, 60), rng.randint(2, 5)
    return Made(
        f"In how many ways can {k} of {n} be chosen?",
        rf"There are $\binom{{{n}}}{{{k}}}$.",
        str(comb(n, k)),
    )


def power(rng: random.Random) -> Made:
    base, a, b = rng.choice([2, 3, 5, 7]), rng.randint(12, 60), rng.randint(12, 60)
    return Made(
        f"Write ${base}^{{{a}}} \\cdot {base}^{{{b}}}$ as a power of ${base}$.",
        "Add the exponents.",
        f"{base}^{{{a + b}}}",
    )


def surd_pair(rng: random.Random) -> Made:
    p, q = rng.randint(1, 9), rng.choice([2, 3, 5, 6, 7, 10, 11, 13])
    return Made(
        f"Find the larger root of ${polynomial(1, -2 * p, p * p - q)}$.",
        rf"By the quadratic formula it is \[\frac{{{2 * p} + \sqrt{{{4 * q}}}}}{{2}}.\]",
        rf"{p}+\sqrt{{{q}}}" if rng.random() < 0.6 else rf"{p} + \sqrt{{{q}}}",
    )


def symbolic(rng: random.Random) -> Made:
    a, b = rng.randint(2, 9), rng.randint(2, 9)
    return Made(
        f"Simplify ${a}(p - q) + {b}(q - p)$ for ${a} \\ne {b}$, or say what is left.",
        "The brackets differ by their sign.",
        "0" if a == b else f"{a - b}(p-q)" if abs(a - b) > 1 else f"{'-' if a < b else ''}(p-q)",
    )


def mixed_number(rng: random.Random) -> Made:
    whole, b = rng.randint(1, 12), rng.randint(3, 12)
    a = next(n for n in range(rng.randint(1, b - 1), 0, -1) if gcd(n, b) == 1)
    return Made(
        f"Write ${whole * b + a} \\div {b}$ as a mixed number.",
        "Divide with a remainder.",
        rf"{whole}\frac{{{a}}}{{{b}}}",
    )


def trigonometric(rng: random.Random) -> Made:
    k = rng.randint(2, 60)
    value = rng.choice([r"\frac{\sqrt{2}}{2}", r"\frac{\sqrt{3}}{2}", r"\frac{1}{2}"])
    degrees = {r"\frac{\sqrt{2}}{2}": 45, r"\frac{\sqrt{3}}{2}": 60, r"\frac{1}{2}": 30}[value]
    return Made(rf"Compute $\sin {degrees + 360 * k}^\circ$.", "Leave out whole turns.", value)


KINDS: dict[str, tuple[Kind, ...]] = {
    "Algebra": (linear, expanded, factored, roots, line, interval, rays, symbolic, surd_pair),
    "Prealgebra": (
        large_sum, quotient, decimal, price, share, distance, mixed_number, word, choice,
    ),
    "Geometry": (length, midpoint, circle, angle),
    "Number Theory": (based, power, cube_root, rationalised),
    "Precalculus": (polar, complex_product, matrix_sum, vector, trigonometric, parity),
    "Counting": (chosen,),
}  # fmt: skip
# Of the usual benchmarks' answers about three in five are plain integers.
TURNS: dict[Kind, int] = {linear: 24, large_sum: 10, chosen: 16}
ENDINGS = (
    r"The answer is $\boxed{@}$.",
    r"\[\boxed{@}\]",
    r"Therefore it is $\boxed{@}.$",
    r"So we get \[\text{result} = \boxed{@}.\]",
    r"$$\boxed{@}$$ as wanted.",
)


def problem_set(count: int = 500, seed: int = 13) -> list[Row]:
    """`count` different problems, the kinds in turn."""
    rng = random.Random(seed)
    kinds = [
        (subject, kind)
        for subject, group in KINDS.items()
        for kind in group
        for _ in range(TURNS.get(kind, 1))
    ]
    rows: list[Row] = []
    seen: set[str] = set()
    while len(rows) < count:
        subject, kind = kinds[len(rows) % len(kinds)]
        made = kind(rng)
        while made.problem in seen:
            made = kind(rng)
        seen.add(made.problem)
        ending = rng.choice(ENDINGS).replace("@", made.answer)
        rows.append(
            {
                "problem": made.problem,
                "solution": f"{made.steps} {ending}",
                "answer": made.answer,
                "subject": subject,
                "unique_id": f"{kind.__name__}/{len(rows)}",
            }
        )
    return rows


def integers(count: int, seed: int = 13) -> list[Row]:
    """Problems as contests have them: the answer is an integer from 0 to 999."""
    whole = [row for row in problem_set(6 * count, seed) if row["answer"].isdigit()]
    return [row for row in whole if int(row["answer"]) < 1000][:count]
