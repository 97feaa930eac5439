"""`svdjobs ci run` on the real cluster: a regression fails, equal completions pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.live.namespaces import Namespace, manifests
from tests.live.node_image import submitted_with
from tests.live.sweeps import WORKFLOW

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

WORSE = """\
name: worse
before: demo:rl2
after: demo:base
alphas: []
decompose: {parts: 1, shards: 1}
evaluate:
  benchmarks: [{name: demo, limit: 100}]
  engine: transformers
  n_samples: 1
  max_tokens: 64
  batch_size: 100
  read: 0
gate: {margin: 0.01}
"""


def test_a_regression_is_exit_code_3_and_a_wider_margin_passes(
    image: str, make_namespace: Callable[..., Namespace], tmp_path: Path
) -> None:
    space = make_namespace("svdjobs-ci")
    config, into = tmp_path / "worse.yaml", tmp_path / "report"
    config.write_text(WORSE)
    page = tmp_path / "step.md"
    environment = {**space.site.environment, "GITHUB_STEP_SUMMARY": str(page), "GITHUB_SHA": "c0de"}
    space.site = space.site._replace(environment=environment)
    given = (*submitted_with(image), "--file", str(WORKFLOW))
    words = ("ci", "run", str(config), "--store", f"{space.url('')}{{name}}", *given)

    said = space.svdjobs(*words, "--into", str(into), code=3, timeout=300)
    assert "Gate: REGRESSION. after lost more than 1 point against before" in said
    assert "gate | Gate: REGRESSION" in said, "the end of the failed pod's log"
    (case,) = ElementTree.parse(into / "gate" / "junit.xml").iter("testcase")
    assert case.find("failure") is not None
    assert (into / "report" / "report.html").stat().st_size > 10_000
    assert page.read_text().startswith("## Gate: REGRESSION")
    assert (into / "summary.md").read_text() == page.read_text().removesuffix("\n")
    (workflow,) = space.objects("workflows")
    assert workflow["metadata"]["annotations"]["svdjobs.io/commit"] == "c0de"

    before = manifests(space.store("worse"))
    said = space.svdjobs(*words, "--set", "gate.margin=0.9", "--into", str(into), timeout=300)
    assert "Gate: passed." in said
    after = manifests(space.store("worse"))
    assert {key for key in after if after[key] != before.get(key)} == {"gate/manifest.json"}
