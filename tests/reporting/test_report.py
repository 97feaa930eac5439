from __future__ import annotations

import csv
import json
import math
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from svdjobs import local
from svdjobs.answers import Answered, Parting, ProblemAnswers
from svdjobs.config import SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.records import Completion, Grade, Outcome, Problem
from svdjobs.reporting import charts, problems
from svdjobs.reporting.data import Content, Picture
from svdjobs.reporting.page import html_report
from svdjobs.reporting.sections import Topic
from svdjobs.stages import report
from svdjobs.storage.local import LocalStore
from tests.checkpoints import make_checkpoint
from tests.reporting.references import outside_references
from tests.reporting.test_charts import EDGES

FIGURES = (
    "accuracy-sums", "divergence-sums", "heads", "metrics", "reading-sums", "rotation_mse_curves",
    "spectral_shift", "spectrum", "update_spectra",
)  # fmt: skip
TABLES = (
    "accuracy-sums", "coverage", "estimates-sums", "flips-sums", "graders-sums",
    "likelihood-sums", "metrics", "outcomes-sums", "reading-sums", "realised",
    "rotations", "weights-sums",
)  # fmt: skip
SEED = 280638936101883311
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory, chain: dict[str, Path], benchmark_file: Path
) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("report") / "run"
    document = {
        "name": "mini",
        "before": str(chain["base"]),
        "after": str(chain["rl2"]),
        "store": str(folder),
        "alphas": [-0.25, 0, 0.5, 1],
        "evaluate": {
            "benchmarks": [{"name": "sums", "data": str(benchmark_file)}],
            "max_tokens": 4,
            "n_samples": 2,
            "sampled": "all",
        },
        "rotations": {"rl1": str(chain["rl1"])},
        "metrics": {"null_draws": 1},
        "report": {"title": "A <b>& title"},
    }
    local.sweep(parse_config(document, where="test"))
    return folder


def test_all_files_are_there(run: Path) -> None:
    names = {str(p.relative_to(run / "report")) for p in (run / "report").rglob("*") if p.is_file()}
    assert names == {
        "manifest.json", "report.html", "report.md", "verdict.json", "junit.xml",
        *(f"figures/{name}.{ending}" for name in FIGURES for ending in
          ("png", "svg", "pdf", "vl.json", "csv")),
        *(f"tables/{name}.{ending}" for name in TABLES for ending in ("csv", "parquet", "tex")),
        "tables/numbers.csv", "tables/metrics-all.csv", "tables/metrics-all.parquet",
    }  # fmt: skip
    manifest = json.loads((run / "report" / "manifest.json").read_text())
    assert {item["key"] for item in manifest["files"]} == names - {"manifest.json"}


def test_page_needs_nothing_from_elsewhere(run: Path) -> None:
    page = (run / "report" / "report.html").read_text()
    own = re.sub(r"(?s)<script>.*?</script>", "", page)
    assert outside_references(own) == []
    assert page.count("<figure") == len(FIGURES)
    assert "A &lt;b&gt;&amp; title" in page


def test_outside_references_are_found() -> None:
    page = '<img src="https://x/y.png"><a href="#here"></a><style>@import "z"; url(q)</style>'
    assert len(outside_references(page)) == 3


def test_extrapolation_is_marked(run: Path) -> None:
    assert "-0.25 (extrapolation)" in (run / "report" / "report.md").read_text()


def test_csv_holds_what_the_summaries_say(run: Path) -> None:
    with (run / "report" / "tables" / "accuracy-sums.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["checkpoint"] for row in rows][:2] == ["before", "after"]
    for row in rows:
        path = run / "grades" / row["checkpoint"] / "sums" / "summary.json"
        value = json.loads(path.read_text())["avg_at_n"]["value"]
        assert float(row["avg@2"]) == 100 * value
        assert {"95 % interval low", "95 % interval high", "minus after", "minus after low"} <= {
            *row
        }


def test_results_have_the_fields_names(run: Path) -> None:
    """Read results.json as other evaluation scripts do."""
    document = json.loads((run / "grades" / "after" / "sums" / "results.json").read_text())
    for row in document["summary"]:
        assert isinstance(row["model"], str)
        assert 0 <= row["avg_accuracy"] <= 1
        assert row["n_samples_per_problem"] == 2
    for model, row in zip(document["results"], document["summary"], strict=True):
        assert model["model"] == row["model"]
        assert row["num_items"] == len(model["details"]) == 5
        for item in model["details"]:
            assert {"idx", "problem", "gold"} <= set(item)
            assert len(item["generations"]) == len(item["sample_scores"]) == 2
        scores = [item["per_problem_score"] for item in model["details"]]
        assert sum(scores) / len(scores) == pytest.approx(row["avg_accuracy"])


def test_numbers_are_floats_and_those_of_the_tables(run: Path) -> None:
    with (run / "report" / "tables" / "numbers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for column in ("value", "low", "high", "standard_error"):
            float(row[column])
    by_key = {(row["checkpoint"], row["quantity"]): row for row in rows}
    summary = json.loads((run / "grades" / "after" / "sums" / "summary.json").read_text())
    assert float(by_key["after", "avg"]["value"]) == summary["avg_at_n"]["value"]
    assert float(by_key["after", "pass@2"]["high"]) == summary["pass_at"]["2"]["high"]
    assert ("before", "kl_from_after") in by_key
    assert ("alpha-0.5000", "realised_in_bfloat16") in by_key


def test_a_report_says_what_answered_and_what_figures_show(run: Path) -> None:
    page = (run / "report" / "report.md").read_text()
    assert re.search(r"answers by transformers [^;]* in float32", page)
    for name in FIGURES:
        assert re.search(rf"!\[[^]]*\]\(figures/{name}\.png\)\n\n\*[^*]+\*", page)
    assert "auto" not in page


def test_alpha_one_answers_exactly_as_after(run: Path) -> None:
    files = [
        run / "results" / name / "sums" / "completions.jsonl" for name in ("after", "alpha-1.0000")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_figures_are_the_same_bytes_every_time(run: Path) -> None:
    def written() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in (run / "report").rglob("*") if p.is_file()}

    before = written()
    config = SweepConfig.model_validate_json((run / "config.json").read_text())
    report.run(config, LocalStore(run), force=True)
    assert written() == before


def test_no_evaluation_no_rotations(tmp_path: Path, chain: dict[str, Path]) -> None:
    document = {
        "name": "bare",
        "before": str(chain["base"]),
        "after": str(chain["rl2"]),
        "alphas": [0],
        "store": str(tmp_path / "run"),
    }
    local.sweep(parse_config(document, where="test"))
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert "no evaluation was asked for" in page
    assert "What rounding leaves of the blend" in page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser without a network of its own."""
    if CHROMIUM is None:
        pytest.skip("NO BROWSER: no chromium here to look at the report with: say `make programs`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-background-networking",
                "--disable-component-update",
            ],
        )
        yield found
        found.close()


def opened(browser: Any, path: Path, **options: Any) -> Any:
    """A page in a context of its own; `problems` has its messages, errors and requests."""
    page = browser.new_context(**options).new_page()
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on(
        "request",
        lambda request: (
            page.problems.append(request.url)
            if not request.url.startswith(("file:", "data:", "blob:"))
            else None
        ),
    )
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    return page


@pytest.fixture(scope="module")
def page(browser: Any, run: Path) -> Any:
    """The report in a window of usual size."""
    size = {"width": 1100, "height": 900}
    return opened(browser, run / "report" / "report.html", viewport=size)


def test_browser_shows_it_without_complaint(page: Any) -> None:
    assert page.problems == []
    assert page.inner_text("h1") == "A <b>& title"
    charts = page.query_selector_all("figure .chart svg")
    assert len(charts) == len(FIGURES)
    for box in (chart.bounding_box() for chart in charts):
        assert box["width"] > 500
        assert box["height"] > 150
    headings = [heading.inner_text() for heading in page.query_selector_all("h2")]
    assert headings[:2] == ["Problems", "Accuracy"]
    assert "Rounding and coverage" in headings
    links = [link.get_attribute("href") for link in page.query_selector_all("nav a")]
    assert all(page.query_selector(link) for link in links)


@pytest.mark.parametrize("width", [1100, 800, 390])
def test_page_never_scrolls_sideways(browser: Any, run: Path, width: int) -> None:
    size = {"width": width, "height": 900}
    narrow = opened(browser, run / "report" / "report.html", viewport=size)
    assert narrow.evaluate("document.documentElement.scrollWidth") <= width
    assert narrow.problems == []
    narrow.context.close()


def test_a_problem_is_found_and_its_answers_stand_side_by_side(page: Any, run: Path) -> None:
    """With the mouse: filter, open, compare, close."""
    page.select_option("[name=first]", "before")
    page.select_option("[name=second]", "after")
    page.select_option("[name=filter]", "flipped between the two")
    shown = page.inner_text("#problems output")
    assert shown == f"{flipped_problems(run)} of 5 problems"
    page.select_option("[name=filter]", "all problems")
    page.click("#problems tbody button:text-is('3')")
    page.wait_for_selector("#problem .beside .text")
    assert page.inner_text("#problem h3") == "sums, problem 3"
    texts = [text.inner_text() for text in page.query_selector_all("#problem .beside .text")]
    sample = int(page.get_attribute("#problem .samples [aria-pressed=true]", "data-sample"))
    page.click("#problem .close")
    own = [drawn(run, checkpoint)[3, sample]["text"] for checkpoint in ("before", "after")]
    assert [text.split() for text in texts] == [text.split() for text in own]
    assert page.evaluate("document.activeElement.textContent") == "3", "where the reader was"
    page.fill("[name=text]", "no such words")
    assert page.inner_text("#problems output") == "0 of 5 problems"
    assert page.inner_text("#problems tbody") == "No problem that is shown has “no such words”."
    page.fill("[name=text]", "")
    page.select_option("[name=second]", "before")
    page.select_option("[name=filter]", "flipped between the two")
    assert "No problem is like that for these two" in page.inner_text("#problems tbody")
    page.select_option("[name=second]", "after")
    page.select_option("[name=filter]", "all problems")
    page.click("#problems thead button:text-is('after')")
    shares = page.eval_on_selector_all(
        "#problems tbody tr", "rows => rows.map((row) => parseInt(row.cells[5].textContent))"
    )
    assert shares == sorted(shares, reverse=True)
    page.select_option("[name=order]", "number")
    counts = page.eval_on_selector_all(
        "#problems tbody tr", "rows => rows.map((row) => [...row.cells].map((c) => c.textContent))"
    )
    better = sum(int(cells[3] or 0) for cells in counts)
    worse = sum(int(cells[2].replace("−", "") or 0) for cells in counts)
    right = [
        sum(one["outcome"] == "correct" for one in grades(run, checkpoint))
        for checkpoint in ("before", "after")
    ]
    assert better - worse == right[1] - right[0]
    assert page.problems == []


def test_a_cell_of_a_heat_map_tells_its_numbers_and_opens_its_matrix(page: Any) -> None:
    number = page.locator("figure[data-name=metrics] .mark-text text").first
    number.scroll_into_view_if_needed()
    box = number.bounding_box()
    at = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*at)
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "measured" in page.inner_text("#vg-tooltip-element")
    page.mouse.click(*at)
    page.wait_for_selector("#details[open]")
    row = page.locator("#details tr", has_text="nss").first
    assert "how far the singular values moved" in row.inner_text()
    page.click("#details .close")
    tools = page.locator("figure[data-name=metrics] .tools")
    tools.locator("select").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#details[open]")
    chosen = tools.locator("select").input_value().split(" ")
    assert page.inner_text("#details h3") == f"Layer {chosen[0]}, {chosen[1]}"
    page.click("#details .close")


def drawn(run: Path, checkpoint: str) -> dict[tuple[int, int], Any]:
    path = run / "results" / checkpoint / "sums" / "completions.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return {(row["idx"], row["sample_index"]): row for row in rows}


def grades(run: Path, checkpoint: str) -> list[dict[str, Any]]:
    path = run / "grades" / checkpoint / "sums" / "grades.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def flipped_problems(run: Path) -> int:
    """Problems with a sample that one of before and after has right, from their grades."""
    right = [
        {(r["idx"], r["sample_index"]): r["outcome"] == "correct" for r in grades(run, checkpoint)}
        for checkpoint in ("before", "after")
    ]
    return len({key[0] for key in right[0] if right[0][key] != right[1][key]})


def test_keys_alone_open_a_problem_turn_to_the_next_and_sort_a_table(page: Any) -> None:
    page.focus("#problems tbody tr:nth-child(2) button")
    page.keyboard.press("Enter")
    page.wait_for_selector("#problem[open]")
    assert page.inner_text("#problem h3") == "sums, problem 1"
    page.keyboard.press("ArrowRight")
    page.wait_for_function("document.querySelector('#problem h3').textContent.endsWith('2')")
    page.focus("#problem .samples button >> nth=1")
    page.keyboard.press("Enter")
    for end in "34":  # the button that had the focus is gone, and the arrows go on
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            f"document.querySelector('#problem h3').textContent.endsWith('{end}')"
        )
    page.keyboard.press("Escape")
    assert page.query_selector("#problem[open]") is None
    table = page.locator("table.sortable").first
    table.locator("thead button").nth(1).focus()
    page.keyboard.press("Enter")
    values = [cell.inner_text() for cell in table.locator("tbody tr td:nth-child(2)").all()]
    numbers = [float(value.removesuffix(" %")) for value in values]
    assert numbers == sorted(numbers)
    assert table.locator("th[aria-sort=ascending]").count() == 1
    page.keyboard.press("Enter")
    values = [cell.inner_text() for cell in table.locator("tbody tr td:nth-child(2)").all()]
    assert [float(value.removesuffix(" %")) for value in values] == sorted(numbers, reverse=True)


def test_what_can_be_scrolled_can_be_reached_and_has_a_name(page: Any) -> None:
    for box in page.query_selector_all(".scroll, .grid, .chart"):
        assert box.get_attribute("tabindex") == "0"
        assert box.get_attribute("aria-label")
    for table in page.query_selector_all("main table, dialog table"):
        assert table.query_selector("caption")
    for cell in page.query_selector_all("thead th"):
        assert cell.get_attribute("scope") == "col"


def test_figures_are_saved_from_the_page(page: Any) -> None:
    figure = page.locator("figure[data-name=accuracy-sums]")
    for name, start in (("SVG", b"<svg"), ("PNG", b"\x89PNG"), ("Data", b"series,kind,x,y")):
        with page.expect_download() as download:
            figure.locator("button", has_text=name).click()
        assert Path(download.value.path()).read_bytes().startswith(start)


def test_the_dark_page_is_dark_and_its_button_makes_it_light(browser: Any, run: Path) -> None:
    dark = opened(browser, run / "report" / "report.html", color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('.chart svg text')).fill"
    assert dark.evaluate(paper) == "rgb(20, 24, 28)"
    assert dark.evaluate(ink) == "rgb(228, 232, 236)"
    unseen = """[...document.querySelectorAll('.chart svg text')]
        .filter((e) => e.textContent && getComputedStyle(e).fill === 'rgb(0, 0, 0)')
        .map((e) => e.textContent)"""
    assert dark.evaluate(unseen) == []
    dark.click("#theme")
    assert dark.evaluate(paper) == "rgb(255, 255, 255)"
    assert dark.evaluate(ink) == "rgb(28, 32, 36)"
    dark.emulate_media(media="print", color_scheme="dark")
    assert dark.evaluate(paper) == "rgb(255, 255, 255)"
    dark.context.close()


def test_printed_on_a4_nothing_is_cut(page: Any) -> None:
    """At the width of A4 without its margins, nothing is wider than the paper."""
    page.set_viewport_size({"width": 688, "height": 1000})
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    wide = page.evaluate(
        """[...document.querySelectorAll('main table, main svg, main p, main h2')]
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
        .map((e) => e.closest('[id]').id + ' ' + e.tagName + ' ' + e.innerText)"""
    )
    assert wide == []
    assert page.query_selector("details:not([open])") is None
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
    page.emulate_media(media="screen")
    page.set_viewport_size({"width": 1100, "height": 900})


def test_the_token_where_two_answers_part_is_shown_with_its_chances(
    browser: Any, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text(html_report(nothing(), [], list(problems.parts("b", [planted()]))))
    shown = opened(browser, path)
    shown.select_option("[name=filter]", "second is worse")
    shown.click("#problems tbody button")
    shown.wait_for_selector("#problem .beside .text")
    assert shown.inner_text("#problem .samples [aria-pressed=true]") == "2: correct → wrong"
    assert shown.inner_text("#problem .parting") == (
        "The two part at token 2. after's token there has probability 0.9 under after and 0.6 "
        "under alpha-0.0000."
    )
    parted = [span.inner_text() for span in shown.query_selector_all(".beside .parted")]
    assert parted == ["4", "5"]
    assert str(SEED) in shown.inner_text("#problem .beside")
    shown.click("#problem .samples button >> nth=0")
    assert shown.inner_text("#problem .parting") == "The same answer, token by token."
    shown.context.close()


def planted() -> ProblemAnswers:
    """Two samples: in the second one the checkpoint leaves after at its second token."""

    def one(sample: int, text: str, correct: bool, parting: Parting | None = None) -> Answered:
        completion = Completion(
            idx=0,
            sample_index=sample,
            seed=SEED,
            text=text,
            finish_reason="stop",
            completion_tokens=2,
        )
        outcome = Outcome.CORRECT if correct else Outcome.WRONG
        grade = Grade(idx=0, sample_index=sample, outcome=outcome, answer=text[-1])
        return Answered(completion, grade, parting)

    left = Parting(1, math.log(0.9), math.log(0.6))
    return ProblemAnswers(
        Problem(idx=0, problem="2+2", gold="4"),
        {
            "after": [one(0, "= 4", True), one(1, "= 4", True)],
            "alpha-0.0000": [one(0, "= 4", True), one(1, "= 5", False, left)],
        },
    )


def nothing() -> Content:
    """The content of a report without results."""
    config = parse_config({"name": "x", "before": "a", "after": "b"}, where="")
    plan: Any = SimpleNamespace(tensors=[], rounding={}, architecture="Q")
    return Content(config, plan, {}, {}, {}, {}, [])


def test_figures_of_nothing_and_of_extremes_are_drawn_without_complaint(
    browser: Any, tmp_path: Path
) -> None:
    pictures = [Picture(name, name, "", make()) for name, make in EDGES.items()]
    pictures.append(
        Picture(
            "several",
            "several",
            "",
            charts.beside((p.spec for p in pictures[:3]), independent=("color",)),
        )
    )
    path = tmp_path / "report.html"
    path.write_text(html_report(nothing(), [Topic("Edges", pictures, [])], []))
    shown = opened(browser, path)
    assert len(shown.query_selector_all("figure .chart svg")) == len(pictures)
    assert shown.problems == []
    shown.context.close()


def test_what_a_model_says_is_text(browser: Any, tmp_path: Path) -> None:
    """Markup, script and mathematics that loads or links, in a problem, an answer and a name."""
    hostile = (
        "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1> "
        r"$\href{javascript:window.hacked=1}{x}$ $\includegraphics{http://x/y}$ \(\frac{1}{2}\) "
        r"$\def\a{\a\a}\a$ $" + "x" * 5000 + "$"
    )
    problem = Problem(idx=0, problem=hostile, gold=hostile)
    completion = Completion(
        idx=0, sample_index=0, seed=1, text=hostile, finish_reason="stop", completion_tokens=1
    )
    grade = Grade(idx=0, sample_index=0, outcome=Outcome.WRONG, answer=hostile)
    answered = [Answered(completion, grade, None)]
    one = ProblemAnswers(problem, {"after": answered, "alpha-0.0000": answered})
    content = replace(nothing(), missing=[hostile])
    path = tmp_path / "report.html"
    path.write_text(html_report(content, [], list(problems.parts("b", [one]))))
    shown = opened(browser, path)
    shown.click("#problems tbody button")
    shown.wait_for_selector("#problem .beside .text")
    assert shown.evaluate("window.hacked") is None
    assert shown.query_selector("#problem img, #problem a[href]") is None
    assert "<img src=x" in shown.inner_text("#problem .question")
    assert shown.query_selector("#problem .question math mfrac")
    assert shown.problems == []
    shown.context.close()


def test_parts_beside_the_page_are_loaded_when_a_problem_is_opened(
    browser: Any, tmp_path: Path
) -> None:
    found = (simple_answers(idx) for idx in range(3))
    (tmp_path / "problems").mkdir()

    def beside(part: problems.Part) -> None:
        (tmp_path / "problems" / f"{part.name}.js").write_bytes(problems.script(part))

    inside = problems.split(problems.parts("my bench", found), beside, limit=10)
    assert [part.name for part in inside] == ["index-my bench"]
    path = tmp_path / "report.html"
    path.write_text(html_report(nothing(), [], inside))
    shown = opened(browser, path)
    shown.click("#problems tbody tr:nth-child(3) button")
    shown.wait_for_selector("#problem .beside .text")
    assert shown.inner_text("#problem .question") == "problem 2"
    assert shown.problems == []
    shown.context.close()
    (tmp_path / "problems" / "my bench-0.js").unlink()
    alone = opened(browser, path)
    alone.click("#problems tbody button")
    alone.wait_for_function("document.querySelector('.question').textContent.includes('Copy the')")
    alone.context.close()


def simple_answers(idx: int) -> ProblemAnswers:
    problem = Problem(idx=idx, problem=f"problem {idx}", gold="1")
    completion = Completion(
        idx=idx, sample_index=0, seed=1, text="one", finish_reason="stop", completion_tokens=1
    )
    grade = Grade(idx=idx, sample_index=0, outcome=Outcome.CORRECT, answer="1")
    return ProblemAnswers(problem, {"after": [Answered(completion, grade, None)]})


def test_sharded_checkpoints_are_reported_whole(tmp_path: Path) -> None:
    """The blend records of several weight files are in one table."""
    before, after = (make_checkpoint(tmp_path / name, updates=i) for i, name in enumerate("ab"))
    document = {
        "name": "shards",
        "before": str(before),
        "after": str(after),
        "alphas": [0],
        "store": str(tmp_path / "run"),
        "blend": {"max_shard_bytes": 60_000},
    }
    config = parse_config(document, where="test")
    local.sweep(config)
    store = LocalStore(tmp_path / "run")
    from svdjobs.runs import layout

    made = report.gather(config, store, layout.load_plan(store, config, stage="test"), {})
    assert len(made.blends[0.0]) == 14


@pytest.mark.parametrize("content", ['{"this is": "no manifest"}', '{"cut'])
def test_a_damaged_manifest_is_missing_and_the_rest_reported(
    tmp_path: Path, chain: dict[str, Path], content: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """On a cluster one damaged alpha must not prevent the report on the others."""
    document = {
        "name": "bare",
        "before": str(chain["base"]),
        "after": str(chain["rl2"]),
        "alphas": [0, 0.5],
        "store": str(tmp_path / "run"),
    }
    config = parse_config(document, where="test")
    local.sweep(config)
    store = LocalStore(tmp_path / "run")
    manifest = tmp_path / "run/checkpoints/alpha-0.0000/manifest.json"
    manifest.write_text(content)
    report.run(config, store)
    assert report.unfinished(config, store) == ["checkpoints/alpha-0.0000"]
    assert "checkpoints/alpha-0.0000" in (tmp_path / "run/report/report.md").read_text()
    assert str(manifest) in capfd.readouterr().err
