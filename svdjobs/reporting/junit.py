"""The verdict on a run for programs: as JSON, and as JUnit XML, which CI systems can show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from svdjobs.escape import xml


def verdict(name: str, wanted: Iterable[str], missing: Iterable[str]) -> dict[str, object]:
    """Whether the run has all outputs that its config asks for, and which are missing."""
    absent = sorted(missing)
    return {
        "name": name,
        "complete": not absent,
        "wanted": len(set(wanted)),
        "missing": absent,
    }


class Case(NamedTuple):
    """One test case; it has passed if it has neither a failure nor a reason to skip it."""

    classname: str
    name: str
    failure: tuple[str, str] | None = None
    """A short message and a longer text."""
    skipped: str | None = None
    """Why the case has no result."""


def junit(name: str, wanted: Iterable[str], missing: Iterable[str]) -> bytes:
    """A test case for every output of the run; a missing output is a failure."""
    absent = set(missing)
    cases = []
    for output in sorted(set(wanted)):
        stage, _, rest = output.partition("/")
        text = f"{output} is missing, or was made with other settings"
        failure = ("not finished", text) if output in absent else None
        cases.append(Case(f"{name}.{stage}", rest or stage, failure))
    return document(name, cases)


def document(name: str, cases: Sequence[Case]) -> bytes:
    """The cases as one test suite in JUnit XML.

    The format has no standard. This writes only elements that all readers know:
    https://github.com/testmoapp/junitxml
    """
    counts = {"tests": len(cases), "failures": sum(case.failure is not None for case in cases)}
    if skipped := sum(case.skipped is not None for case in cases):
        counts["skipped"] = skipped
    numbers = {key: str(count) for key, count in counts.items()}
    suite = ElementTree.Element("testsuite", {"name": xml(name), **numbers})
    for case in cases:
        element = ElementTree.SubElement(
            suite, "testcase", classname=xml(case.classname), name=xml(case.name)
        )
        if case.failure is not None:
            message, more = map(xml, case.failure)
            ElementTree.SubElement(element, "failure", message=message).text = more
        if case.skipped is not None:
            ElementTree.SubElement(element, "skipped", message=xml(case.skipped))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"
