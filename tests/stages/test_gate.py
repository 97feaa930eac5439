"""Verdicts on planted grades, and every reason to refuse a baseline."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from svdjobs.config import SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.errors import ConfigError, IncompleteError, OutputError
from svdjobs.records import Gate
from svdjobs.reporting import gate as words
from svdjobs.runs.outputs import MANIFEST
from svdjobs.stages import gate
from svdjobs.statistics import holm
from svdjobs.storage.local import LocalStore
from tests.evaluation.older_runs import made_older
from tests.evaluation.planted_answers import answer, noted

PROBLEMS = 40
GOOD = [[True, True]] * 30 + [[True, False]] * 10
Make = Callable[..., SweepConfig]


def lost(problems: int) -> list[list[bool]]:
    """GOOD, but with no correct completion of the first problems."""
    return [[False, False]] * problems + GOOD[problems:]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a run with planted grades in a folder `name`, and returns its config."""

    def made(
        name: str = "run", *, problems: int = PROBLEMS, benchmarks: int = 1, **section: Any
    ) -> SweepConfig:
        sets = []
        for number in range(benchmarks):
            path = tmp_path / f"set{number}-{problems}.jsonl"
            rows = [{"problem": f"{number}: {i} + 1?", "answer": i + 1} for i in range(problems)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            sets.append({"name": f"set{number}", "data": str(path)})
        document = {
            "name": "planted", "before": "a/b", "after": "c/d", "alphas": [0],
            "store": str(tmp_path / name),
            "evaluate": {"benchmarks": sets, "n_samples": 2},
            "gate": {"margin": 0.05, **section},
        }  # fmt: skip
        config = parse_config(document, where="test")
        noted(config)
        return config

    return made


def judged(config: SweepConfig, **options: Any) -> Gate:
    store = LocalStore(Path(config.store_url))
    gate.run(config, store, **options)
    return gate.load(store)


def against(make: Make, before: Any, after: Any, **more: Any) -> Gate:
    config = make(**more)
    answer(config, "before", before)
    answer(config, "after", after)
    return judged(config)


def test_a_planted_regression_is_found(make: Make) -> None:
    verdict = against(make, GOOD, lost(12))
    assert (verdict.outcome, verdict.failed) == ("regression", True)
    (row,) = verdict.rows
    assert row.comparison.difference.value == pytest.approx(-12 / 40)
    assert row.loss_p_adjusted == row.loss_p <= 0.05
    assert row.comparison.changed == 12
    assert (row.judged.truncated, row.baseline.truncated) == (34, 10)
    assert (row.judged.unscored, row.judged.completions) == (34, 80)
    assert words.headline(verdict).startswith("Gate: REGRESSION. after lost more than 5 points")


def test_a_gain_passes(make: Make) -> None:
    verdict = against(make, lost(12), GOOD)
    assert (verdict.outcome, verdict.failed) == ("passed", False)
    assert verdict.rows[0].passing_margin < 0
    assert "points were gained" in words.sentences(verdict)[0]


def test_equal_scores_of_few_problems_show_nothing(make: Make) -> None:
    """Also if all completions are wrong on both sides."""
    for scores in (GOOD, [[False, False]] * PROBLEMS):
        verdict = against(make, scores, scores)
        assert (verdict.outcome, verdict.failed) == ("inconclusive", False)
        (row,) = verdict.rows
        assert row.comparison.difference.low is None
        assert row.problems_needed == 72
        assert row.passing_margin == pytest.approx(1 - 0.025 ** (1 / 40))
        assert "each of 40 problems changed by 0, no spread" in words.sentences(verdict)[0]


def test_equal_scores_of_the_same_weights_have_lost_nothing(make: Make) -> None:
    config = make(problems=1)
    answer(config, "before", [[True, False]], weights="same")
    answer(config, "after", [[True, False]], weights="same")
    verdict = judged(config)
    assert verdict.outcome == "passed"
    assert words.sentences(verdict) == ["set0: the same weights with the same scores; nothing was "
                                      "lost."]  # fmt: skip


def test_equal_scores_of_many_problems_pass(make: Make) -> None:
    verdict = against(make, GOOD * 2, GOOD * 2, problems=80)
    assert verdict.outcome == "passed"
    assert verdict.rows[0].passing_margin < 0.05


def test_one_problem_tells_nothing(make: Make) -> None:
    verdict = against(make, [[True, True]], [[False, False]], problems=1)
    assert verdict.outcome == "inconclusive"
    assert verdict.rows[0].loss_p == pytest.approx(1.05 / 2)
    assert verdict.rows[0].problems_needed is None


def test_a_loss_of_exactly_the_margin_is_inconclusive(make: Make) -> None:
    """Every problem loses the margin; or the interval's lower end is minus the margin."""
    half, full = [[True, False]] * PROBLEMS, [[True, True]] * PROBLEMS
    hit = against(make, full, half, margin=0.5)
    assert (hit.outcome, hit.rows[0].loss_p) == ("inconclusive", 1)
    small = against(make, GOOD, lost(12), name="other")
    low = small.rows[0].comparison.difference.low
    assert low is not None
    exact = against(make, GOOD, lost(12), name="third", margin=-low)
    above = against(make, GOOD, lost(12), name="fourth", margin=-low + 1e-6)
    assert (exact.outcome, above.outcome) == ("inconclusive", "passed")


def test_one_gain_is_no_more_proof_than_no_change(make: Make) -> None:
    """The interval alone would exclude a loss of 1.5 points on 40 problems."""
    better = [*GOOD[:-1], [True, True]]
    verdict = against(make, GOOD, better, margin=0.015)
    low = verdict.rows[0].comparison.difference.low
    assert low is not None
    assert low > -0.015
    assert verdict.outcome == "inconclusive"
    assert (
        "only 1 of 40 problems changed, too few to believe +1.25 [" in words.sentences(verdict)[0]
    )


def test_inconclusive_may_fail(make: Make) -> None:
    verdict = against(make, GOOD, GOOD, inconclusive="fail")
    assert (verdict.outcome, verdict.failed) == ("inconclusive", True)
    assert "inconclusive, which fails" in words.headline(verdict)


def test_several_benchmarks_are_adjusted_together(make: Make) -> None:
    config = make(benchmarks=3)
    for number, problems in enumerate((5, 9, 0)):
        answer(config, "before", GOOD, benchmark=f"set{number}")
        answer(config, "after", lost(problems), benchmark=f"set{number}")
    verdict = judged(config)
    raw = {row.benchmark: row.loss_p for row in verdict.rows}
    assert {row.benchmark: row.loss_p_adjusted for row in verdict.rows} == holm(raw)
    assert [row.outcome for row in verdict.rows] == ["inconclusive", "regression", "inconclusive"]
    assert verdict.outcome == "regression"
    assert words.headline(verdict).endswith("on set1.")


def test_files_of_a_gate(make: Make) -> None:
    config = make(benchmarks=3)
    for number, problems in enumerate((0, 12, 40)):
        answer(config, "before", lost(40 - problems), benchmark=f"set{number}")
        answer(config, "after", [GOOD, GOOD, lost(40)][number], benchmark=f"set{number}")
    verdict = judged(config)
    folder = Path(config.store_url) / "gate"
    assert {path.name for path in folder.iterdir()} == {
        "gate.json", "gate.md", "junit.xml", MANIFEST,
    }  # fmt: skip
    suite = ElementTree.parse(folder / "junit.xml").find("testsuite")
    assert suite is not None
    assert [row.outcome for row in verdict.rows] == ["passed", "passed", "regression"]
    assert suite.attrib == {"name": "planted.gate", "tests": "3", "failures": "1"}
    assert [case.get("name") for case in suite] == ["set0", "set1", "set2"]
    assert [[child.tag for child in case] for case in suite] == [[], [], ["failure"]]
    text = (folder / "gate.md").read_text()
    assert text.startswith("## Gate: REGRESSION. ")
    assert "| set2 | " in text
    assert max(map(len, words.plain(verdict).split("\n\n")[0].splitlines())) <= 100


@pytest.mark.parametrize(("setting", "tag"), [("pass", "skipped"), ("fail", "failure")])
def test_inconclusive_as_a_test_case(make: Make, setting: str, tag: str) -> None:
    verdict = against(make, GOOD, GOOD, inconclusive=setting)
    suite = ElementTree.fromstring(words.junit(verdict)).find("testsuite")
    assert suite is not None
    assert [child.tag for case in suite for child in case] == [tag]
    assert suite.get("skipped") == ("1" if tag == "skipped" else None)


def test_the_table_fits_with_long_names_and_large_numbers(make: Make) -> None:
    verdict = against(make, GOOD, lost(12))
    side = verdict.rows[0].judged.model_copy(update={"truncated": 80_000, "unscored": 8_000})
    row = verdict.rows[0].model_copy(
        update={"benchmark": "a-benchmark-with-a-name-of-50-signs-in-one-word-ok", "judged": side}
    )
    text = words.plain(verdict.model_copy(update={"rows": [row]}))
    assert max(map(len, text.split("\n\n")[0].splitlines())) <= 100


def test_an_earlier_run_as_the_baseline(make: Make, tmp_path: Path) -> None:
    earlier = make("earlier")
    answer(earlier, "after", GOOD)
    config = make(baseline=str(tmp_path / "earlier"))
    answer(config, "before", lost(40))  # plays no part
    answer(config, "after", lost(12))
    verdict = judged(config)
    assert verdict.outcome == "regression"
    assert (verdict.baseline, verdict.baseline_checkpoint) == (str(tmp_path / "earlier"), "after")


def test_a_current_verdict_is_not_made_again(make: Make, tmp_path: Path) -> None:
    earlier = make("earlier")
    answer(earlier, "after", GOOD)
    config = make(baseline=str(tmp_path / "earlier"))
    answer(config, "after", lost(12))
    store = LocalStore(tmp_path / "run")
    first = gate.run(config, store)
    at = (tmp_path / "run/gate/gate.json").stat().st_mtime_ns
    assert gate.run(config, store) == first
    assert (tmp_path / "run/gate/gate.json").stat().st_mtime_ns == at
    gate.run(config, store, force=True)
    assert (tmp_path / "run/gate/gate.json").stat().st_mtime_ns > at
    answer(earlier, "after", lost(12), weights="new")  # another baseline is another comparison
    assert gate.run(config, store).fingerprint != first.fingerprint
    assert gate.load(store).outcome == "inconclusive"
    other = make(baseline=str(tmp_path / "earlier"), margin=0.2)
    assert gate.run(other, store).config["margin"] == 0.2


def test_every_difference_in_settings_is_named_at_once(make: Make, tmp_path: Path) -> None:
    earlier = make("earlier")
    answer(
        earlier, "after", [[True] * 3] * PROBLEMS, seed=7, n_samples=3, max_tokens=64,
        temperature=0.5, prompts="other", version="1", grader="0", dtype="bfloat16",
    )  # fmt: skip
    config = make(baseline=str(tmp_path / "earlier"))
    answer(config, "after", GOOD)
    with pytest.raises(ConfigError) as caught:
        judged(config)
    text = str(caught.value)
    for said in (
        "set0: prompts (sha256) is asked here and other in the baseline",
        "evaluate.seed is 0 here and 7 in the baseline",
        "evaluate.n_samples is 2 here and 3 in the baseline",
        "evaluate.max_tokens is 1024 here and 64 in the baseline",
        "evaluate.temperature is 1.0 here and 0.5 in the baseline",
        "evaluate.dtype is float32 here and bfloat16 in the baseline",
        "the baseline was evaluated by another version",
        "the baseline was graded by another version",
    ):
        assert said in text
    assert not (tmp_path / "run/gate").exists()


def test_a_baseline_that_holds_its_grades_itself(make: Make, tmp_path: Path) -> None:
    """As in older runs, which stored grades and completions in one output."""
    earlier = make("earlier")
    answer(earlier, "after", GOOD)
    made_older(earlier)
    config = make(baseline=str(tmp_path / "earlier"))
    answer(config, "after", lost(12))
    assert judged(config).outcome == "regression"


def test_other_problems_are_refused(make: Make, tmp_path: Path) -> None:
    earlier = make("earlier", problems=41)
    answer(earlier, "after", [[True, True], *GOOD])
    config = make(baseline=str(tmp_path / "earlier"))
    answer(config, "after", GOOD)
    with pytest.raises(ConfigError, match=r"set0: problems is 40 here and 41 in the baseline"):
        judged(config)


def test_another_grader_is_refused(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svdjobs.provenance import versions
    from svdjobs.runs import outputs

    earlier = make("earlier")
    older = {**versions(), "math-verify": "0.0.1", "torch": "1.0"}
    with monkeypatch.context() as patched:
        patched.setattr(outputs, "versions", lambda: older)
        answer(earlier, "after", GOOD)
    config = make(baseline=str(tmp_path / "earlier"))
    answer(config, "after", GOOD)
    with pytest.raises(ConfigError, match=r"grader: math-verify is .* here and 0\.0\.1 in the"):
        judged(config)


def test_another_engine_version_is_noted(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from svdjobs.provenance import versions
    from svdjobs.runs import outputs

    earlier = make("earlier")
    with monkeypatch.context() as patched:
        patched.setattr(outputs, "versions", lambda: {**versions(), "torch": "1.0"})
        answer(earlier, "after", GOOD)
    config = make(baseline=str(tmp_path / "earlier"))
    answer(config, "after", GOOD)
    (note,) = judged(config).notes
    assert note.startswith("torch: ")
    assert "1.0 in the baseline" in note


def test_a_baseline_s_records_are_escaped(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, newlines in its provenance reached standard output, and tags reached gate.md."""
    from svdjobs.provenance import versions
    from svdjobs.runs import outputs

    hostile = "1.0\n::error::forged\n\x1b[2J<script>alert(1)</script>![x](https://e.example/i.png)"
    earlier = make("earlier")
    with monkeypatch.context() as patched:
        patched.setattr(outputs, "versions", lambda: {**versions(), "torch": hostile})
        answer(earlier, "after", GOOD)
    config = make(baseline=str(tmp_path / "earlier"))
    answer(config, "after", GOOD)
    judged(config)
    store = LocalStore(Path(config.store_url))
    shown = gate.closing_words(store)
    (line,) = [line for line in shown.split("\n") if line.startswith("torch: ")]
    assert "1.0\\n::error::forged\\n\\x1b[2J<script>" in line
    assert not [line for line in shown.split("\n") if line.lstrip().startswith("::")]
    text = bytes(store.read("gate/gate.md")).decode()
    assert "&lt;script&gt;" in text
    assert not re.search(r"<script|(?<!\\)!\[|\]\(https|\x1b|^::", text, re.MULTILINE)


def test_missing_evaluations_of_both_sides_are_named(make: Make, tmp_path: Path) -> None:
    make("earlier", benchmarks=2)
    config = make(benchmarks=2, baseline=str(tmp_path / "earlier"))
    answer(config, "after", GOOD, benchmark="set0")
    with pytest.raises(IncompleteError) as caught:
        judged(config)
    text = str(caught.value)
    for place in ("earlier/results/after/set0", "earlier/results/after/set1",
                  "run/results/after/set1"):  # fmt: skip
        assert f"{tmp_path}/{place}" in text
    assert "run/results/after/set0" not in text


def test_no_baseline_run_at_all(make: Make, tmp_path: Path) -> None:
    config = make(baseline=str(tmp_path / "nowhere"))
    answer(config, "after", GOOD)
    with pytest.raises(IncompleteError, match="nowhere/results/after/set0"):
        judged(config)
    assert not (tmp_path / "nowhere").exists()


def test_a_missing_baseline_gives_a_warning_before_the_sweep(make: Make, tmp_path: Path) -> None:
    earlier = make("earlier", benchmarks=2)
    answer(earlier, "after", GOOD, benchmark="set0")
    config = make(benchmarks=2, baseline=str(tmp_path / "earlier"))
    assert f"{tmp_path}/earlier has no results/after/set1 yet" in gate.warning_before_sweep(config)
    answer(earlier, "after", GOOD, benchmark="set1")
    assert gate.warning_before_sweep(config) == ""
    assert gate.warning_before_sweep(make()) == ""
    assert gate.warning_before_sweep(make(baseline="s3://")).startswith(
        "gate.baseline s3:// cannot be read"
    )


def test_answers_to_other_settings_are_missing(make: Make) -> None:
    """As in the report: evaluations from before a change of the config do not count."""
    config = make()
    answer(config, "before", GOOD)
    answer(config, "after", GOOD, max_tokens=9)
    with pytest.raises(IncompleteError, match="run/results/after/set0"):
        judged(config)


def test_a_run_is_not_its_own_baseline(make: Make, tmp_path: Path) -> None:
    config = make(baseline=str(tmp_path / "run"))
    answer(config, "after", GOOD)
    with pytest.raises(ConfigError, match="is this run itself"):
        judged(config)


def test_no_section_and_another_run(make: Make, tmp_path: Path) -> None:
    config = make()
    store = LocalStore(tmp_path / "run")
    with pytest.raises(IncompleteError, match="no `gate` section"):
        gate.run(config.model_copy(update={"gate": None}), store)
    with pytest.raises(OutputError, match="holds another run"):
        gate.run(config.model_copy(update={"after": "e/f"}), store)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"evaluate": None}, "gate needs an `evaluate` section"),
        ({"gate": {"checkpoint": "alpha-9"}}, "it has before, after, alpha-0.0000"),
        ({"gate": {"checkpoint": "before"}}, "would be compared with itself"),
        ({"gate": {"margin": -0.1}}, "gate.margin"),
        ({"gate": {"marign": 0.1}}, "did you mean 'margin'"),
    ],
)
def test_a_gate_that_cannot_work_is_refused_at_once(
    make: Make, change: dict[str, Any], said: str
) -> None:
    document = {**make().model_dump(mode="json"), **change}
    with pytest.raises(ConfigError) as caught:
        parse_config(document, where="test")
    assert said in str(caught.value)
