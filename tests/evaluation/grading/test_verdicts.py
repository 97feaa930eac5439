r"""Wrong and right answers of the kinds that graders confuse: pairs of gold and boxed answer."""

from __future__ import annotations

import pytest

from svdjobs.evaluation.grading.rule import grade_answer, is_readable
from svdjobs.records import Outcome

Pairs = list[tuple[str, str]]

WRONG: dict[str, Pairs] = {
    "a fragment of what cannot be read": [
        (r"\frac{3}{5}", r"\frac{3}{5}+√7"), (r"\frac{3}{5}", r"\frac{3}{5}+\clubsuit"),
        ("7", r"7\diamondsuit 2"), ("4", r"4 \pmod 7 + @"), ("3", r"3\,\star\,5"),
        ("12", "12 ?? 13"), ("x^2", r"x^2 \foo y"), ("2", r"2\overset{!}{=}3"),
    ],
    "text behind an answer": [
        ("4", r"4\text{ feet }7\text{ inches}"), ("4", r"4\text{ million}"), ("4", "4 million"),
        ("4", r"4\text{ if odd, }9\text{ otherwise}"), ("4", r"4\text{ or }9"),
        ("4", r"4\text{ more than }x"), ("4", r"4\text{ times } 5"), ("4", r"4\text{ dozen}"),
        ("4", r"4\text{ halves}"), ("4", r"4 \text{ mod } 9"), ("4", r"4\text{ unless }x=0"),
        ("5", r"5\text{ thousand}"), ("5", r"5\text{ hundred dollars}"),
    ],
    "upright letters": [
        ("8", r"5+3\mathrm{i}"), ("2", r"2\mathrm{e}"), ("3", r"3\mathrm{x}"), ("5", r"5\text{i}"),
    ],
    "mixed numbers": [("4", "7 1/2"), ("7", r"7\frac{1}{2}"), ("3.5", r"7\frac12")],
    "equations as truth values": [
        ("I=4", "I=9"), ("x=4", "x=9"), ("x=4", "y=9"), ("y=2x+1", "y=2x+2"), ("x^2=9", "x^2=16"),
        ("1<2<x", r"x=\frac13\approx0.33"),
        ("f(x)=x^2", "f(x)=x^3"), ("9", "4+4=9"), ("1=1", "2=2"), ("0", "5x-7y+11z+4=0"),
    ],
    "what follows the last sign of equality": [
        ("9", r"\therefore x=4,\ y=9"), ("9", "x=4, y=9"), ("9", "x=4; y=9"), ("9", "5=9"),
        ("9", r"x=4\text{ and }y=9"), ("9", r"4=x, 9"), ("9", r"2x=18=9"),
    ],
    "sets, tuples, intervals, multisets": [
        (r"\{4,9\}", "(9,4)"), (r"\{4,9\}", "(4,9)"), ("4,4,9", "4,9"), ("4,9", "4,4,9"),
        ("(4,9)", "[4,9]"), ("(4,9)", "(4,9]"), ("(4,9)", r"\{4,9\}"), ("(4,9)", "(9,4)"),
        ("(4,9)", "4,9"), ("[4,9]", "(4,9)"), (r"(-\infty,4)", r"(-\infty,4]"), ("4,9", "4"),
        ("4", "4,9"), (r"(4,9)\cup(10,12)", "(4,9)"), ("(1,2,3)", "(1,3,2)"), ("4,9", "(4,9)"),
        (r"\{1,2,2\}", "(1,2,2)"), (r"x \in (2,5)", "x=2,5"),
    ],
    "letter case": [("N+4", "n+4"), ("x", "X"), ("(B)", "b"), (r"\delta", r"\Delta"), ("2R", "2r")],
    "units of another dimension or size": [
        (r"3\text{ m}", r"3\text{ cm}"), (r"3\text{ m}", r"3\text{ m}^2"), ("3 m", "3 kg"),
        (r"3\text{ m}", r"300\text{ cm}"), (r"5\text{ hours}", r"5\text{ minutes}"),
        (r"\$5", r"5\text{ cents}"), (r"30^\circ", r"30\text{ radians}"),
        (r"5\text{ square feet}", r"5\text{ feet}"), (r"40\%", r"40^\circ"),
    ],
    "another number": [
        ("7.5", r"75\%"), ("40", r"0.40\%"), ("1/3", "0.3"), ("0.5", "0.51"),
        ("1000000", "1000001"),
        ("52_8", "52"), ("52_8", "52_7"), (r"\frac{1}{2006!}", r"\frac{1}{2004!}"),
        ("10^{-9}", "0"),
        (r"\sqrt{2}", "1.4"), ("2^{100}", "2^{101}"), ("0.\\overline{4}", "0.4"), ("-4", "4"),
    ],
    "expressions": [
        ("x+1", "x-1"), ("x+1", "y+1"), (r"\sin x", r"\cos x"), ("2x", "x^2"),
        ("1", r"\frac{x}{y}"),
        (r"\frac{1}{x}", "x"), (r"\binom{5}{2}", r"\frac{5}{2}"), ("x'", "x"), ("6", "2(4)"),
        ("9", "4 5"),
    ],
    "words": [
        (r"\text{Tuesday}", r"\text{Thursday}"), (r"\text{even}", r"\text{odd}"),
        (r"\text{(C)}", r"\text{(D)}"), ("5", r"\text{five or six}"), ("C", "A,C"),
    ],
}  # fmt: skip

RIGHT: dict[str, Pairs] = {
    "percent": [
        ("7.5", r"7.5\%"), ("40", r"40.0\%"), (r"40\%", "0.4"), (r"40\%", "40"), ("0.4", r"40\%"),
        ("12.5", r"\text{12.5\%}"), ("40", r"\text{40\%}"), ("40", "40 percent"),
    ],
    "plus or minus": [
        (r"\frac{1+\sqrt5}{2}, \frac{1-\sqrt5}{2}", r"\frac{1\pm\sqrt5}{2}"),
        (r"\frac{1\pm\sqrt5}{2}", r"\frac{1-\sqrt5}{2}, \frac{1+\sqrt5}{2}"),
        (r"\pm 3", "3, -3"), ("3,-3", r"x=\pm3"), (r"\pm 3", r"x=3\text{ or }x=-3"),
        (r"2\pm\sqrt3", r"2\mp\sqrt{3}"),
    ],
    "short forms": [
        (r"\frac{\pi}{6}", r"\frac\pi6"), ("10", r"\binom52"), (r"\frac{1}{2}", r"\frac12"),
        (r"\sqrt{3}", r"\sqrt3"), (r"\frac{\sqrt3}{2}", r"\frac{\sqrt3}2"), ("10", r"{5\choose 2}"),
        ("10", r"\dbinom{5}{2}"), (r"\frac{1}{2}", r"\tfrac12"), (r"\frac{1}{2}", r"{1 \over 2}"),
    ],
    "Unicode": [
        (r"\sqrt{7}", "√7"), (r"2\sqrt{3}", "2√3"), (r"\sqrt[3]{5}", "∛5"), (r"\frac{3}{4}", "¾"),
        ("x^4", "x⁴"), (r"\frac{3}{4}", "3⁄4"), ("(1,2)", "（1，2）"), ("-5", "−5"),
        (r"\pi", "π"), (r"x \ge 2", "x ≥ 2"), (r"\frac{7}{2}", "3½"), ("2^{10}", "2¹⁰"),
        (r"90^\circ", "90°"), (r"3\times 4", "3×4"), (r"\sqrt{x+1}", "√(x+1)"),
    ],
    "units and money": [
        ("1500", "1,500 dollars"), ("1500", r"\$1,500"), ("5", "5 cm"), ("5", r"5\text{ cm}"),
        ("5", "5 square units"), (r"5\text{ cm}", "5"), (r"5\text{ cm}^2", r"5\ \mathrm{cm}^2"),
        ("12", "12 apples"), ("3", r"3\text{ hours}"), (r"15\mbox{ cm}^2", "15"),
        ("60", r"60\text{ miles per hour}"), (r"3\text{ meters}", r"3\text{ m}"),
        (r"\$5.50", "5.50"), ("30", r"30^\circ"), ("30^{\\circ}", "30 degrees"),
    ],
    "repeating decimals": [
        (r"\frac{4}{9}", r"0.\overline{4}"), (r"0.\overline{36}", r"\frac{4}{11}"),
        (r"\frac{1}{6}", r"0.1\overline{6}"), (r"0.\overline{4}", r"0.\overline{44}"),
    ],
    "trigonometry in degrees": [
        (r"\frac{1}{2}", r"\sin 30^\circ"), (r"\frac{\sqrt3}{2}", r"\cos(30^\circ)"),
        ("1", r"\tan 45^{\circ}"), (r"\sin 20^\circ", r"\cos 70^\circ"),
    ],
    "the imaginary unit": [
        ("5+3i", r"5+3\mathrm{i}"), ("5+3i", "3i+5"), ("-1", "i^2"), ("2i", "2 i"),
        ("1+2i", r"1+2\cdot i"), (r"e^{i\pi/3}", r"\frac{1}{2}+\frac{\sqrt3}{2}i"),
        ("1-7i", r"1 - 7\text{i}"),
    ],
    "the empty set": [
        (r"\emptyset", r"\varnothing"), (r"\varnothing", r"\{\}"), (r"\emptyset", "∅"),
    ],
    "bases": [
        ("413_6", "(413)_6"), ("413_6", "413_{6}"), (r"413_{\text{six}}", "413_6"), ("2B_{16}",
        "2B_{16}"),
    ],
    "powers of ten": [
        (r"6.02\times10^{23}", "6.02e23"), ("0.0000012", "1.2e-6"), ("24000", r"2.4\cdot 10^4"),
        ("6.02e23", r"6.02 \times 10^{23}"),
    ],
    "matrices": [
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}",
         r"\begin{pmatrix} 1 & 2 \\[4pt] 3 & 4 \end{pmatrix}"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\2\end{bmatrix}"),
        (r"\begin{pmatrix}1\\-1/2\end{pmatrix}", r"\begin{pmatrix}1\\-\frac12\end{pmatrix}"),
    ],
    "formatting": [
        ("4", r"\underline{4}"), ("4", r"\textcolor{red}{4}"), ("4", "**4**"), ("4", "4,"),
        ("4", "4;"),
        ("4", "4."), ("4", "$4$"), ("4", r"\mathbf{4}"), ("4", r"\color{blue}{4}"), ("4", r"\(4\)"),
        ("4", r"\displaystyle 4"), ("4", r"\text{4}"), ("4", r"\boldsymbol{4}"), ("4", r"{4}"),
        (r"\frac{3}{5}", r"\displaystyle\frac{3}{5}"), ("x+1", r"\left(x+1\right)"),
    ],
    "mixed numbers": [
        (r"\frac{15}{2}", "7 1/2"), (r"\frac{15}{2}", r"7\frac{1}{2}"), ("7.5", r"7\tfrac12"),
        (r"7\frac{1}{2}", r"\frac{15}{2}"), (r"-\frac{7}{2}", r"-3\frac{1}{2}"),
    ],
    "names before values": [
        ("4", "x=4"), ("x=4", "4"), ("4", r"\therefore x = 4"), ("4", "x=2+2=4"), ("I=4", "4"),
        ("9", r"4+5=9"), ("y=2x", "2x"), ("y=2x+1", "2x-y+1=0"), ("x^2+y^2=4", "4=y^2+x^2"),
        ("4,9", "x=4, x=9"), ("4,9", r"x=4\text{ or }9"), ("(4,9)", "(x,y)=(4,9)"),
        ("3.14", r"x \approx 3.14"), ("x+y-1=0", "y=1-x"),
    ],
    "sets and lists": [
        ("4,9", "9,4"), (r"\{4,9\}", r"\{9,4\}"), (r"\{4,9\}", "9,4"), ("4,9", r"\{9,4\}"),
        ("4,9", r"4\text{ and }9"), ("4, 9", "9 and 4"), ("(1,2),(3,4)", "(3,4),(1,2)"),
        ("(1,2)", r"\left(1, 2\right)"), (r"\left(\frac12,3\right)", "(0.5,3)"),
        ("1,2,3", "1;2;3"), ("-1,1", r"\pm1"),
    ],
    "intervals and inequalities": [
        ("(2,5]", r"2<x\le5"), (r"2<x\le 5", "(2,5]"), (r"(-\infty,3)", "x<3"), ("x<3", "3>x"),
        (r"x \ge 2", r"[2,\infty)"), (r"(-\infty,2)\cup(2,\infty)", r"x\ne2"),
        (r"(2,5)", r"x\in(2,5)"), (r"[2,5]", r"2\leq x\leq 5"), (r"(-\infty,-2]\cup[2,\infty)",
        r"x\le-2\text{ or }x\ge2"), (r"(1,2)\cup(3,4)", r"(3,4)\cup(1,2)"),
        (r"(2,5)", r"\{x \mid 2<x<5\}"), (r"\mathbb{R}", r"(-\infty,\infty)"),
    ],
    "expressions": [
        ("x^2-1", "(x-1)(x+1)"), (r"\frac{1}{\sqrt2}", r"\frac{\sqrt2}{2}"), ("2(x+1)", "2x+2"),
        (r"\sin^2x+\cos^2x", "1"), (r"\log_2 8", "3"), ("e^{2x}", r"\exp(2x)"), ("6", "2(3)"),
        (r"\sqrt[3]{8}", "2"), ("5!", "120"), (r"|{-3}|", "3"), ("2^{n+1}", r"2\cdot2^n"),
        (r"\ln 8", r"3\ln2"), (r"\cot x", r"\frac{1}{\tan x}"), ("3x+2y", "2y+3x"),
        (r"\frac{a}{b}", "a/b"), ("ab", "ba"), (r"\sum_{k=1}^{4} k", "10"), (r"\pi r^2", r"r^2\pi"),
    ],
    "words": [
        (r"\text{Tuesday}", "Tuesday"), (r"\text{Even}", "even"), (r"\text{(C)}", "C"),
        ("(C)", r"\textbf{(C)}\ 12"), ("C", r"\text{C}"), (r"\text{Navin}", r"\text{navin}"),
    ],
}  # fmt: skip


def rows(table: dict[str, Pairs]) -> list[object]:
    return [
        pytest.param(gold, answer, id=f"{kind}: {gold} <- {answer}")
        for kind, pairs in table.items()
        for gold, answer in pairs
    ]


@pytest.mark.parametrize(("gold", "answer"), rows(WRONG))
def test_no_wrong_answer_is_accepted(gold: str, answer: str) -> None:
    outcome = grade_answer(answer, gold)
    assert outcome in (Outcome.WRONG, Outcome.PARSE_ERROR)
    assert is_readable(gold)


@pytest.mark.parametrize(("gold", "answer"), rows(RIGHT))
def test_no_right_answer_is_refused(gold: str, answer: str) -> None:
    assert grade_answer(answer, gold) is Outcome.CORRECT


@pytest.mark.parametrize(("gold", "answer"), rows(RIGHT))
def test_a_readable_gold_is_never_a_gold_error(gold: str, answer: str) -> None:
    assert is_readable(gold)
    assert grade_answer("\\unknown{??}", gold) in (Outcome.WRONG, Outcome.PARSE_ERROR)
