from __future__ import annotations

import csv
import json
import math
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from svdjobs import local
from svdjobs.config import EvaluateConfig, SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.records import Interval, Likelihood, Outcome, Summary
from svdjobs.reporting import text
from svdjobs.reporting.data import Content, interval_text, points
from svdjobs.reporting.sections import sentences
from svdjobs.reporting.sections.accuracy import (
    accuracy_table,
    outcomes_table,
)
from svdjobs.reporting.sections.likelihood import divergences, likelihood_table
from svdjobs.stages import report
from svdjobs.statistics import mean_interval
from svdjobs.storage.local import LocalStore
from tests.checkpoints import make_checkpoint
from tests.reporting.references import outside_references

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
        "report": {"title": "A <b>& title"},
    }
    local.sweep(parse_config(document, where="test"))
    return folder


def test_all_files_are_there(run: Path) -> None:
    names = {str(p.relative_to(run / "report")) for p in (run / "report").rglob("*") if p.is_file()}
    assert names == {
        "manifest.json", "report.html", "report.md", "verdict.json", "junit.xml",
        "figures/accuracy.png",
        "figures/divergence.png", "figures/reading.png", "tables/reading-sums.csv",
        "tables/weights-sums.csv",
        "figures/rotation_mse_curves.png", "figures/spectrum.png", "tables/accuracy-sums.csv",
        "tables/estimates-sums.csv", "tables/likelihood-sums.csv", "tables/outcomes-sums.csv",
        "tables/graders-sums.csv",
        "tables/coverage.csv", "tables/numbers.csv", "tables/realised.csv", "tables/rotations.csv",
    }  # fmt: skip
    manifest = json.loads((run / "report" / "manifest.json").read_text())
    assert {item["key"] for item in manifest["files"]} == names - {"manifest.json"}


def test_page_needs_nothing_from_elsewhere(run: Path) -> None:
    page = (run / "report" / "report.html").read_text()
    assert outside_references(page) == []
    assert page.count("<svg") == 5
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
        assert row["avg@2"] == f"{100 * value:.1f} %"


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
    for name in ("accuracy", "rotation_mse_curves", "spectrum"):
        assert re.search(rf"!\[[^]]*\]\(figures/{name}\.png\)\n\n\*[^*]+\*", page)
    assert "auto" not in page


def test_alpha_one_answers_exactly_as_after(run: Path) -> None:
    files = [
        run / "results" / name / "sums" / "completions.jsonl" for name in ("after", "alpha-1.0000")
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_figures_are_the_same_bytes_every_time(run: Path) -> None:
    before = {p.name: p.read_bytes() for p in (run / "report").rglob("*") if p.is_file()}
    config = SweepConfig.model_validate_json((run / "config.json").read_text())
    report.run(config, LocalStore(run), force=True)
    after = {p.name: p.read_bytes() for p in (run / "report").rglob("*") if p.is_file()}
    assert after == before


def summary(checkpoint: str, scores: list[float], **outcomes: int) -> Summary:
    return Summary(
        checkpoint=checkpoint,
        benchmark="b",
        benchmark_sha256="",
        prompts_sha256="",
        engine="",
        dtype="float32",
        n=2,
        problems=len(scores),
        avg_at_n=mean_interval(scores),
        outcomes={o: outcomes.get(o.value, 0) for o in Outcome},
        truncated=3,
        completion_tokens_mean=1,
        problem_scores=scores,
    )


def content(**by_id: list[float]) -> Content:
    config = parse_config({"name": "x", "before": "a", "after": "b"}, where="")
    plan: Any = SimpleNamespace(tensors=[], rounding={}, architecture="Q")
    ids = {"zero": "alpha-0.0000"}
    summaries = {ids.get(i, i): summary(i, s, timeout=2, no_answer=5) for i, s in by_id.items()}
    return Content(config, plan, {"b": summaries}, {}, {}, {}, [])


def test_headlines_say_how_sure_they_are() -> None:
    before, after = [0.0, 0.5, 0.0, 0.5] * 10, [0.5, 1.0, 1.0, 0.5] * 10
    flat = sentences(content(before=before, after=after, zero=after))
    assert "after scores 75.0 %, before 25.0 %; RL changed accuracy by +50.00 [" in flat[0]
    assert "Every problem scored the same" in flat[1]
    assert "It would have found one of 3.9 points in 4 of 5 tries." in flat[1]
    noisy = [0.5, 1.0, 0.5, 1.0] * 10
    assert "interval contains 0" in sentences(content(before=before, after=after, zero=noisy))[1]
    assert "interval excludes 0" in sentences(content(before=before, after=after, zero=before))[1]


def likelihood(idx: int, log_probabilities: list[float]) -> Likelihood:
    return Likelihood(idx=idx, sample_index=0, log_probabilities=log_probabilities)


def test_an_effect_that_the_likelihood_shows_is_not_denied() -> None:
    rng = random.Random(0)
    same = [0.5, 1.0, 0.5, 1.0]
    shown = content(before=same, after=same, zero=same)
    tokens = [[rng.gauss(-1, 0.5) for _ in range(50)] for _ in range(4)]

    def read(shift: float) -> list[Likelihood]:
        return [
            Likelihood(
                idx=i, sample_index=0, log_probabilities=[t + rng.gauss(0, shift) for t in own]
            )
            for i, own in enumerate(tokens)
        ]

    sampled = shown.config.model_copy(
        update={
            "evaluate": EvaluateConfig.model_validate(
                {"benchmarks": [{"name": "b", "data": "b.jsonl"}]}
            )
        }
    )
    for shift, seen in ((1e-2, True), (1e-6, False)):
        found = {"b": {"after": read(0), "alpha-0.0000": read(shift)}}
        line = sentences(replace(shown, config=sampled, likelihoods=found))[1]
        assert ("does show one: KL" in line) == seen


def test_an_answer_that_was_not_read_is_said_and_averaged_over_by_nobody() -> None:
    """The KL is over the one completion whose likelihood is known under both checkpoints."""
    same = [0.5, 1.0]
    shown = content(before=same, after=same)
    sampled = shown.config.model_copy(
        update={
            "evaluate": EvaluateConfig.model_validate(
                {"benchmarks": [{"name": "b", "data": "b.jsonl"}]}
            )
        }
    )
    first, second = ([-1.0, -2.0], [-1.5, -2.5]), ([-3.0, -1.0], [-3.0, -1.0])

    def rows(*tokens: list[float]) -> list[Likelihood]:
        return [
            Likelihood(idx=i, sample_index=0, log_probabilities=t) for i, t in enumerate(tokens)
        ]

    by_id = {"after": rows(first[0]), "before": rows(first[1], second[1])}
    found = replace(shown, config=sampled, likelihoods={"b": by_id})
    kl = divergences(found, "b")["before"].value.value
    assert kl == pytest.approx(math.expm1(-0.5) + 0.5)
    assert "missing: after 1." in likelihood_table(found, "b").caption


def test_unscored_and_truncated_are_shown() -> None:
    shown = content(before=[0.0, 1.0], after=[1.0, 1.0])
    assert outcomes_table(shown, "b").rows[0] == ["before", "7", "0", "0", "0", "0", "5", "2"]
    assert accuracy_table(shown, "b").rows[1][2] == "-"  # no spread, no interval


def test_numbers_as_text() -> None:
    known = Interval(value=0.01, low=-0.02, high=0.04)
    assert points(known) == "+1.00 [-2.00, +4.00]"
    assert points(Interval(value=0)) == "0 (same scores)"
    assert interval_text(known) == "[-2.0, 4.0]"
    assert interval_text(Interval(value=0.5)) == "-"


def test_plain_table_is_aligned() -> None:
    table = accuracy_table(content(before=[0.0, 1.0], after=[1.0, 1.0]), "b")
    lines = text.plain_table(table).splitlines()
    assert len({len(line) for line in lines[2:]}) == 1


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
    assert "No evaluation was asked for" in page
    assert "What rounding leaves of the blend" in page


@pytest.fixture(scope="module")
def page(run: Path) -> Iterator[Any]:
    """The report, opened in a browser without a network."""
    if CHROMIUM is None:
        pytest.skip("NO BROWSER: no chromium here to look at the report with: say `make programs`")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--disable-background-networking",
                "--disable-component-update",
            ],
        )
        opened: Any = browser.new_page(viewport={"width": 1100, "height": 900})
        opened.problems = []
        opened.on("console", lambda message: opened.problems.append(message.text))
        opened.on("pageerror", lambda error: opened.problems.append(str(error)))
        opened.on(
            "request",
            lambda request: (
                opened.problems.append(request.url)
                if not request.url.startswith(("file:", "data:"))
                else None
            ),
        )
        opened.goto((run / "report" / "report.html").as_uri())
        yield opened
        browser.close()


def test_browser_shows_it_without_complaint(page: Any) -> None:
    assert page.problems == []
    assert page.inner_text("h1") == "A <b>& title"
    for box in (figure.bounding_box() for figure in page.query_selector_all("figure svg")):
        assert box["width"] > 500
        assert box["height"] > 200
    headings = [heading.inner_text() for heading in page.query_selector_all("h2")]
    assert headings[0] == "Accuracy against alpha"
    assert "What rounding leaves of the blend" in headings


@pytest.mark.parametrize("width", [1100, 390])
def test_page_never_scrolls_sideways(page: Any, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


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
