from __future__ import annotations

from xml.etree import ElementTree

from svdjobs.reporting.junit import Case, document, junit, verdict

WANTED = ["plan", "results/after/math-500", "results/alpha-0.5000/math-500"]


def test_every_output_is_a_case_and_a_missing_one_a_failure() -> None:
    suite = ElementTree.fromstring(junit("a<b", WANTED, WANTED[2:])).find("testsuite")
    assert suite is not None
    assert suite.attrib == {"name": "a<b", "tests": "3", "failures": "1"}
    cases = {(c.get("classname"), c.get("name")): c.find("failure") for c in suite}
    assert list(cases) == [
        ("a<b.plan", "plan"),
        ("a<b.results", "after/math-500"),
        ("a<b.results", "alpha-0.5000/math-500"),
    ]
    (failure,) = (f for f in cases.values() if f is not None)
    assert failure.text == (
        "results/alpha-0.5000/math-500 is missing, or was made with other settings"
    )


def test_the_verdict() -> None:
    assert verdict("x", WANTED, []) == {
        "name": "x",
        "complete": True,
        "wanted": 3,
        "missing": [],
    }
    assert verdict("x", WANTED, ["plan"])["complete"] is False


def test_cases_of_other_verdicts() -> None:
    cases = [Case("x", "a"), Case("x", "b", skipped="too few"), Case("x", "c", ("lost", "by 3"))]
    suite = ElementTree.fromstring(document("x", cases)).find("testsuite")
    assert suite is not None
    assert suite.attrib == {"name": "x", "tests": "3", "failures": "1", "skipped": "1"}
    found = [(child.tag, child.get("message"), child.text) for case in suite for child in case]
    assert found == [("skipped", "too few", None), ("failure", "lost", "by 3")]
