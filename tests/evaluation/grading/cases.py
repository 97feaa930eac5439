"""Answers and golds with certain verdicts, of the kinds that graders are known to miss."""

from __future__ import annotations

from typing import Final, NamedTuple


class Case(NamedTuple):
    """The end of a completion, the gold, and whether the answer is right."""

    output: str
    gold: str
    right: bool


CASES: Final = (
    # one number, written in two ways
    Case(r"Hence the total is \boxed{57}", "57", True),
    Case(r"\boxed{\frac{3}{8}}", "0.375", True),
    Case(r"\boxed{57}", "58", False),
    Case(r"\boxed{\sqrt7}", r"$\sqrt{7}$", True),
    Case(r"\boxed{12.5\%}", "0.125", True),
    Case(r"\boxed{2.4 \times 10^4}", "24000", True),
    Case(r"\boxed{\$27,\!500}", "27500", True),
    Case(r"\boxed{8\text{ cm}}", "8", True),
    # equal expressions
    Case(r"\boxed{\sqrt{\sqrt{5}}}", "5**(1/4)", True),
    Case(r"\boxed{y^3 - y^3}", "0", True),
    Case(r"\boxed{-2 + \sqrt{6}}", r"\sqrt{6} - 2", True),
    Case(r"\boxed{\frac{5\sqrt{3}}{8}}", r"\frac{5}{8}\sqrt{3}", True),
    Case(r"\boxed{\frac{1}{\sqrt{11}}}", r"\frac{\sqrt{11}}{11}", True),
    Case(r"\boxed{\frac{1}{\sqrt{11}}}", r"\frac{\sqrt{11}}{10}", False),
    Case(r"\boxed{\sqrt{13 - 4\sqrt{10}}}", r"2\sqrt{2} - \sqrt{5}", True),
    # points, sets, intervals, matrices
    Case(r"\boxed{\left(5, \frac{\pi}{6}\right)}", r"\left( 5, \frac{\pi}{6} \right)", True),
    Case(r"\boxed{(\frac{\pi}{6}, 5)}", r"\left( 5, \frac{\pi}{6} \right)", False),
    Case(r"\boxed{\{4, 7, 9\}}", r"\{9, 7, 4\}", True),
    Case(r"\boxed{\{4, 7\}}", r"\{9, 7, 4\}", False),
    Case(r"\boxed{(-\infty, -5) \cup (5, \infty)}", r"(-\infty,-5)\cup(5,\infty)", True),
    Case(r"\boxed{(-\infty, -5] \cup (5, \infty)}", r"(-\infty,-5)\cup(5,\infty)", False),
    Case(
        r"\boxed{\begin{pmatrix} 1/\sqrt{3} & 2 \\ -2 & 1/\sqrt{3} \end{pmatrix}}",
        r"\begin{pmatrix} \frac{1}{\sqrt{3}} & 2 \\ -2 & \frac{1}{\sqrt{3}} \end{pmatrix}",
        True,
    ),
    Case(r"\boxed{3, -1, 2+i, 2-i}", "-1, 3, 2-i, 2+i", True),
    # too large to be computed, so compared by form
    Case(r"\boxed{\binom{1998}{999}}", r"\binom{1998}{999}", True),
    Case(r"\boxed{1998^{3996}}", "1998^{3996}", True),
    Case(r"\boxed{1/1998!}", "1/1998!", True),
    Case(r"\boxed{2^{1999}}", "3^{1999}", False),
    # relations, degrees, words
    Case(r"\boxed{x=-6}", "-6=x", True),
    Case(r"\boxed{x<9}", "9>x", True),
    Case(r"\boxed{\;\angle PQR = 38^\circ\;}", r"38^\circ", True),
    Case(r"\boxed{38°}", r"38^\circ", True),
    Case(r"\boxed{\text{Tuesday}}", "Tuesday", True),
    Case(r"\boxed{\text{Thursday}}", "Tuesday", False),
)
