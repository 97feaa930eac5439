"""The report's verdict for programs: JSON, and JUnit XML, which CI systems show by themselves."""

from __future__ import annotations

from collections.abc import Iterable
from xml.etree import ElementTree


def verdict(name: str, wanted: Iterable[str], missing: Iterable[str]) -> dict[str, object]:
    """Whether everything is there that the config asks for, and what is not."""
    lacking = sorted(missing)
    return {
        "name": name,
        "complete": not lacking,
        "wanted": len(set(wanted)),
        "missing": lacking,
    }


def junit(name: str, wanted: Iterable[str], missing: Iterable[str]) -> bytes:
    """A test case for every output of the run; one that is not there has failed.

    The format has no standard; this keeps to what all readers take:
    https://github.com/testmoapp/junitxml
    """
    outputs, lacking = sorted(set(wanted)), set(missing)
    suite = ElementTree.Element(
        "testsuite", name=name, tests=str(len(outputs)), failures=str(len(lacking))
    )
    for output in outputs:
        stage, _, rest = output.partition("/")
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"{name}.{stage}", name=rest or stage
        )
        if output in lacking:
            failure = ElementTree.SubElement(case, "failure", message="not finished")
            failure.text = f"{output} is missing, or was made with other settings"
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    text: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return text + b"\n"
