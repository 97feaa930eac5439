"""Run a sweep on this machine for a CI job."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from svdjobs import local
from svdjobs.ci.fetch_results import bring_back
from svdjobs.ci.summary import Finding
from svdjobs.config import SweepConfig
from svdjobs.deadline import OutOfTime, deadline
from svdjobs.errors import EXIT_OK, EXIT_REGRESSION, EXIT_TIMED_OUT, EXIT_USAGE
from svdjobs.stages import gate, report
from svdjobs.storage.open import open_store


def job(
    config: SweepConfig, into: Path, timeout_seconds: int | None, *, write: Callable[[str], None]
) -> Finding:
    """Run a sweep for a CI job, copy its report and verdict to `into`, and return both."""
    store = open_store(config.store_url)
    try:
        with deadline(timeout_seconds):
            local.sweep(config)
            write(report.closing_words(config, store))
            missing = bring_back(store, into, [report.PREFIX]).missing
            verdict = local.judge(config)
    except OutOfTime:
        words = (
            f"The sweep did not end within the {timeout_seconds} s of --timeout. Finished outputs "
            f"are kept: the same command resumes the sweep."
        )
        write(words)
        return Finding(config.name, EXIT_TIMED_OUT, words=words)
    if verdict is not None:
        bring_back(store, into, [gate.PREFIX])
        write(f"\n{gate.closing_words(store)}")
    failed = EXIT_REGRESSION if verdict is not None and verdict.failed else EXIT_OK
    code = EXIT_USAGE if missing else failed
    places = [f"Report: {store.url}/report/report.html; here: {into}/report/report.html"]
    return Finding(config.name, code, gate=verdict, missing=missing, places=places)
