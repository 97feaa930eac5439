"""Names with control characters or markup have no effect on the medium that shows them."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

import svdjobs
from svdjobs import escape, progress
from svdjobs.ci.summary import Finding, page
from svdjobs.cli.options import tell_json
from svdjobs.config_file import parse_config
from svdjobs.errors import ConfigError, StorageError, SvdjobsError, first_line
from svdjobs.records import (
    Interval,
    Outcome,
    RotationMetrics,
    RotationNull,
    RotationRow,
    SideMetrics,
    Summary,
)
from svdjobs.reporting import charts, sections, text
from svdjobs.reporting import page as report_page
from svdjobs.reporting.data import Content, Table
from svdjobs.reporting.junit import Case, document
from svdjobs.reporting.sections import rotations
from tests.reporting.references import outside_references

ROOT = Path(svdjobs.__file__).parent
HOSTILE = [
    "a\n::error::forged", "::error::forged", "  ::add-mask::x", "x ##[error]y", "##vso[task.x]y",
    "\x1b]0;title\x07", "\x1b[2J", "\x9b31m", "a\r2026-01-01 done", "a\u202eb", "a\u2028b",
    "\ud800", "\x00", "<script>alert(1)</script>", "![x](//e.example/i)", "[a](//e)",
    '"onload="x', "=1+2", "+1+cmd|'/C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "$\\frac{", "$a$",
    "_hidden", "a|b", "[/red]", "[bold]",
]  # fmt: skip
PRINTED = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]*")
ANY = st.text(st.characters(codec=None)) | st.sampled_from(HOSTILE)


@given(ANY)
def test_a_line_is_one_line_without_anything_that_acts(text: str) -> None:
    shown = escape.line(text)
    assert PRINTED.fullmatch(shown)
    assert not shown.lstrip().startswith("::")
    assert not re.search(r"##\w*\[", shown)
    assert escape.line(shown) == shown


def test_usual_names_stay_as_they_are() -> None:
    for name in (
        "model.layers.0.self_attn.q_proj.weight", "alpha-0.5000", "s3://bucket/run", "‖ΔW‖ – 3 %",
        "C::D", "a#[1]", "模型", "user@host:path", "[1.2, 3.4]",
    ):  # fmt: skip
        assert escape.line(name) == escape.xml(name) == escape.csv_cell(name) == name
        assert escape.markdown(name) == name


def test_a_message_s_further_lines_are_indented_and_no_commands() -> None:
    text = "name a\n2026-01-01 00:00:00 done\n  ours\n\n::error::x"
    assert escape.message(text) == (
        "name a\n  2026-01-01 00:00:00 done\n  ours\n\n  \\x3a:error::x"
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_has_neither_tags_nor_images_nor_cells_of_a_name(text: str) -> None:
    shown = escape.markdown(text)
    assert PRINTED.fullmatch(shown)
    assert not re.search(r"[<>]|\]\(|(?<!\\)!\[|(?<!\\)\|", shown.replace("<!-- -->", ""))


def test_markdown_writes_to_nobody_whom_a_name_names() -> None:
    assert escape.markdown("@someone, (@team/a) user@host") == (
        "@<!-- -->someone, (@<!-- -->team/a) user@host"
    )


@pytest.mark.parametrize(
    ("text", "span"), [("a", "`a`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("a``", "``` a`` ```")]
)
def test_a_code_span_is_longer_than_the_backticks_in_it(text: str, span: str) -> None:
    assert escape.code(text) == span


def table(*cells: str) -> Table:
    return Table("t", "<b>title", "<i>caption", ["<name>", "=x"], [[cell, "1"] for cell in cells])


def test_csv_keeps_numbers_and_computes_nothing() -> None:
    numbers = ["-0.5", "+1.5e-03", "-inf", "1,234", "-", "+1.20 [-0.31, +2.71]", "12.5 %"]
    rows = list(csv.reader(io.StringIO(text.csv_table(table(*numbers, *HOSTILE)).decode())))
    assert rows[0] == ["<name>", "'=x"]
    cells = [row[0] for row in rows[1:]]
    assert cells[: len(numbers)] == numbers
    assert [float(cell) for cell in cells[:3]] == [-0.5, 0.0015, -float("inf")]
    assert not [cell for cell in cells[len(numbers) :] if cell.lstrip()[:1] in ("=", "+", "-", "@")]


def test_a_table_on_a_terminal_has_a_line_for_each_row() -> None:
    lines = text.plain_table(table(*HOSTILE)).split("\n")
    assert len(lines) == 2 + len(HOSTILE)
    assert all(PRINTED.fullmatch(line) for line in lines)
    assert not [line for line in lines if line.lstrip().startswith("::")]


def test_junit_is_xml_whatever_names_say() -> None:
    cases = [Case(name, name, (name, name)) for name in HOSTILE]
    cases += [Case(name, name, skipped=name) for name in HOSTILE]
    suite = ElementTree.fromstring(document("a\x1b", cases)).find("testsuite")
    assert suite is not None
    assert [case.get("name") for case in suite] == [escape.line(name) for name in HOSTILE] * 2


def test_a_step_s_summary_loads_nothing() -> None:
    for name in HOSTILE:
        finding = Finding(name, 4, words=f"Error: {name}", missing=[name], places=[name])
        shown = page(finding).replace("<!-- -->", "")
        assert not re.search(r"[<>]|\]\(|(?<!\\)!\[", shown)
    assert "- Look further: ``a`<b>``\n" in page(Finding("x", 4, look=["a`<b>"]))


def hostile_content(names: list[str]) -> Content:
    config = parse_config({"name": "x", "before": "a", "after": "b"}, where="")
    plan: Any = SimpleNamespace(tensors=[], architecture="<script>", rounding={})
    made = Summary(
        checkpoint="after",
        benchmark="b",
        benchmark_sha256="",
        prompts_sha256="",
        engine="",
        dtype="float32",
        n=1,
        problems=1,
        avg_at_n=Interval(value=1),
        truncated=0,
        outcomes=dict.fromkeys(Outcome, 0),
        completion_tokens_mean=1,
        problem_scores=[1.0],
    )
    side = SideMetrics(mse=0.1)
    rows = [
        RotationRow(
            name=name,
            layer=0,
            family=name,
            shape=(2, 2),
            rank=2,
            metrics=RotationMetrics(nss=0.1, u=side, vh=side),
            null=RotationNull(nss=0.1, u=side, vh=side),
            trivial_side="u",
        )
        for name in names
    ]
    spectra = {name: ([1.0, 0.5], [1.0, 0.4]) for name in names}
    benchmark = {names[0]: {"after": made}}
    provenance = {"torch": "<script>\x1b"}
    return Content(
        config, plan, benchmark, {}, {RotationRow: list(rows)}, spectra, list(names), provenance
    )


def test_figures_and_pages_parse_no_name() -> None:
    found = hostile_content(["$\\frac{ and $", "_hidden", "<script>\n![x](//e)\x1b", "y" * 300])
    topics = sections.topics(found)
    written = report_page.html_report(found, topics, [])
    own = re.sub(r"(?s)<style>.*?</style>|<script>.*?</script>", "", written)
    assert "<script>" not in own
    assert "\x1b" not in own
    assert outside_references(own) == []
    text = report_page.markdown_report(found, topics)
    assert "<script" not in text
    assert "](//e)" not in text


def test_figures_show_names_as_they_are_on_one_line() -> None:
    names = ["$x$", "_hidden", "<b>\n\x1b", "y" * 500]
    figures = {
        p.name: charts.files(p.spec)["svg"].decode()
        for p in rotations.SECTION.pictures(hostile_content(names))
    }
    assert set(figures) == {"rotation_mse_curves", "spectral_shift", "spectrum"}
    for figure in figures.values():
        ElementTree.fromstring(figure)
        for shown in (r"$x$", "_hidden", r"&lt;b&gt;\n\x1b", "y" * 20 + "…" + "y" * 19):
            assert f">{shown}" in figure


def test_a_bar_takes_a_name_with_brackets(capsys: pytest.CaptureFixture[str]) -> None:
    with progress._bar("read [/x]", 2) as advance:
        advance(1, "a[/red]\x1b[2J\n::error::x")
    assert "\n::error" not in capsys.readouterr().err


def test_what_is_said_forges_no_line_of_the_log(
    tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.log_to(tmp_path / "log"):
        progress.say("tensor a\n2026-01-01 00:00:00 all is well\n::error::x\x1b[2J")
    for said in (capsys.readouterr().err, (tmp_path / "log").read_text()):
        assert [line[:2] for line in said.splitlines()[1:]] == ["  ", "  "]
        assert "::error" not in said.replace("\\x3a:error", "")
        assert "\x1b[2J" not in said


SECRET = "https://user:pass%40word@host.example/x?a=1&X-Amz-Signature=abcdef&b=2"


@pytest.mark.parametrize("kind", [SvdjobsError, ConfigError, StorageError])
def test_an_error_shows_no_password_and_forges_no_line(kind: type[SvdjobsError]) -> None:
    shown = str(kind(f"{SECRET}: no\nError: forged"))
    assert shown == ("https://***@host.example/x?a=1&X-Amz-Signature=***&b=2: no\n  Error: forged")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@bucket/run", "s3://***@bucket/run"),
        ("http://token@h:80/a@b", "http://***@h:80/a@b"),
        ("https://a:b@c@host", "https://***@host"),
        (
            "no config file at https:/user:hush@host/c.yaml",
            "no config file at https:/***@host/c.yaml",
        ),
        ("D:/x@y", "D:/x@y"),
        ("https://host/x@v1?y=a@b", "https://host/x@v1?y=a@b"),
        ("user@host no://", "user@host no://"),
    ],
)
def test_users_and_passwords_of_addresses(text: str, shown: str) -> None:
    assert escape.without_secrets(text) == shown
    assert escape.without_secrets(shown) == shown


def test_what_is_printed_goes_through_what_escapes_it() -> None:
    """Only the listed modules print without `tell` and `say`, which escape: text of their own."""
    known = {
        "progress.py", "deadline.py", "cli/options.py", "cli/main.py", "cli/store.py",
        "cli/keys.py", "cli/doctor.py", "cluster/doctor/checks.py", "cluster/watching/screen.py",
        "demo/train.py",
    }  # fmt: skip
    prints = re.compile(
        r"(?<![\w.])print\(|\b(click|typer)\.s?echo\b|\.print\(|std(out|err)\.write"
    )
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if prints.search(path.read_text())
    }
    assert found == known


def test_remarks_keep_names_that_look_like_pictures(capsys: pytest.CaptureFixture[str]) -> None:
    progress.say("tensor a:b:c [bold]x[/bold]")
    assert capsys.readouterr().err == "tensor a:b:c [bold]x[/bold]\n"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("\n\n  what\x1b[2Jit\r\nmore", r"what\x1b[2Jit"),
        ("", "ValueError"),
        (" \n", "ValueError"),
        ("::error::x", r"\x3a:error::x"),
    ],
)
def test_the_first_line_of_a_library_s_error_acts_on_nothing(said: str, shown: str) -> None:
    assert first_line(ValueError(said)) == shown


def test_json_for_scripts_holds_no_command_and_no_secret(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = {"name": "##[error]x\x1b", "url": "https://me:word@host/x"}
    tell_json(document)
    printed = capsys.readouterr().out
    assert "##[" not in printed
    assert "\x1b" not in printed
    assert json.loads(printed) == {"name": "##[error]x\x1b", "url": "https://***@host/x"}
