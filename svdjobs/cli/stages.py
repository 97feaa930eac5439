"""`svdjobs sweep`, and one command per stage; all read the same config file."""

from __future__ import annotations

from pathlib import Path

import click

from svdjobs.cli.options import (
    Given,
    config_options,
    index_options,
    tell,
    tell_json,
    whole_or_unit,
)
from svdjobs.errors import EXIT_OK, EXIT_REGRESSION, EXIT_USAGE, ConfigError


@click.command()
@config_options
def sweep(given: Given, force: bool) -> int:
    """Run a whole sweep on this machine and print its report.

    Finished outputs are skipped, so the same command resumes an interrupted sweep. Exit code 3: the
    config's gate finds a regression.
    """
    config, store = given.opened()
    from svdjobs import local
    from svdjobs.stages import gate as judging
    from svdjobs.stages import report

    local.sweep(config, force=force)
    tell(report.closing_words(config, store))
    verdict = local.judge(config, force=force)
    if verdict is None:
        return EXIT_OK
    tell(f"\n{judging.closing_words(store)}")
    return EXIT_REGRESSION if verdict.failed else EXIT_OK


@click.command()
@click.option(
    "--units-dir",
    type=click.Path(path_type=Path),
    help="For a cluster: also hash the checkpoints, keep the hub's benchmarks in the store, and "
    "write the shard ids of each fan-out to this folder as JSON; a Workflow reads them.",
)
@click.option(
    "--pilot",
    "pilot_url",
    metavar="URL",
    help="The store of a smaller run of this sweep: estimate answer lengths, time and the smallest "
    "change that the sweep shows from it.",
)
@click.option(
    "--gpu",
    metavar="NAME",
    help="Estimate the time on this GPU, e.g. H100. Default: as in the pilot, or this machine.",
)
@click.option(
    "--effect",
    type=click.FloatRange(0, 100, min_open=True),
    metavar="POINTS",
    help="Say how many completions or problems a change of accuracy by so many points needs.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, for scripts.")
@config_options
def plan(
    given: Given,
    force: bool,
    as_json: bool,
    units_dir: Path | None,
    pilot_url: str | None,
    gpu: str | None,
    effect: float | None,
) -> None:
    """Print what a sweep will do and cost, from the checkpoints' headers.

    With an `evaluate` section, load the benchmarks and tokenise every prompt.
    """
    config, store = given.opened()
    from svdjobs.evaluation import amounts, speeds
    from svdjobs.evaluation.benchmarks import of_run
    from svdjobs.runs import leases, shards
    from svdjobs.stages import plan as stage
    from svdjobs.standalone import planning
    from svdjobs.storage.open import open_store

    if gpu and gpu not in speeds.GPUS:
        raise ConfigError(f"--gpu {gpu}: known are {', '.join(sorted(speeds.GPUS))}.")
    asked = amounts.Questions(
        open_store(pilot_url) if pilot_url else None, gpu, effect / 100 if effect else None
    )
    made = stage.run(config, store, force=force)
    if units_dir is not None:
        of_run.keep(config, store)
    lines = planning.lines(config, store, made, asked if any(asked) else None)
    if as_json:
        tell_json(planning.document(made, list(lines)))
    for line in () if as_json else lines:
        tell(line)
    if units_dir is not None:
        stage.hash_checkpoints(config, store)
        leases.forget(store)
        shards.write_fan_outs(shards.fan_outs(config, made), units_dir)


@click.command()
@click.option("--source", "slugs", multiple=True, help="Only this hub checkpoint (repeatable).")
@index_options
@config_options
def fetch(given: Given, force: bool, slugs: tuple[str, ...], index: tuple[int, int] | None) -> None:
    """Copy the hub's checkpoints into the run's store, once for all pods of a cluster."""
    config, store = given.opened()
    from svdjobs.runs import shards
    from svdjobs.runs.checkpoints import hub_sources
    from svdjobs.stages import fetch as stage

    chosen = list(slugs) or None
    if index is not None:
        whole_or_unit(index, force)
        chosen = shards.items_at_index(hub_sources(config), *index)
    stage.run(config, store, slugs=chosen, force=force)


@click.command()
@click.option(
    "--problems",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Problems of each benchmark that `after` answers once.",
)
@click.option("--by-part", is_flag=True, help="Also blend each layer and module family alone.")
@config_options
def forecast(given: Given, force: bool, problems: int, by_part: bool) -> None:
    """Say what a sweep can show, from a few completions, before it is paid for.

    Uses the engine transformers, and keeps the plan and the factors for the sweep.
    """
    config, store = given.opened()
    from svdjobs.standalone import forecast as standalone

    for found in standalone.run(config, store, problems=problems, by_part=by_part):
        for line in standalone.words(found, config):
            tell(line)


@click.command()
@click.option("--alpha", "alphas", multiple=True, help="Only this alpha, or its id (repeatable).")
@index_options
@config_options
def blend(
    given: Given, force: bool, alphas: tuple[str, ...], index: tuple[int, int] | None
) -> None:
    """Write the blended checkpoints."""
    config, store = given.opened()
    from svdjobs.runs import shards
    from svdjobs.stages import blend as stage

    chosen = sorted({shards.alpha_named(config, alpha) for alpha in alphas}) or None
    if index is not None:
        whole_or_unit(index, force)
        chosen = shards.items_at_index(config.alphas, *index)
    stage.run(config, store, alphas=chosen, force=force)


@click.command()
@config_options
def rotations(given: Given, force: bool) -> None:
    """Measure how the singular bases rotate from base to rl1 to rl2."""
    config, store = given.opened()
    from svdjobs.stages import rotations as stage

    stage.run(config, store, force=force)


@click.command()
@config_options
def metrics(given: Given, force: bool) -> None:
    """Measure how every matrix changed, beside random updates of the same norm."""
    config, store = given.opened()
    from svdjobs.stages import metrics as stage

    stage.run(config, store, force=force)


@click.command()
@click.option(
    "--copy-to", type=click.Path(path_type=Path), help="Also copy the report to this folder."
)
@config_options
def report(given: Given, force: bool, copy_to: Path | None) -> int:
    """Write report.html, report.md and junit.xml from the finished outputs.

    Exit code 2: an output that the config asks for is missing; the report names it.
    """
    config, store = given.opened()
    from svdjobs.stages import report as stage

    stage.run(config, store, force=force)
    if copy_to is not None:
        stage.copy(store, copy_to)
    tell(stage.closing_words(config, store))
    return EXIT_USAGE if stage.unfinished(config, store) else EXIT_OK


@click.command()
@click.option(
    "--copy-to", type=click.Path(path_type=Path), help="Also copy the verdict to this folder."
)
@config_options
def gate(given: Given, force: bool, copy_to: Path | None) -> int:
    """Compare accuracy with a baseline: did the checkpoint lose more than the margin?

    Exit code 3: it did, or the result is inconclusive and gate.inconclusive is fail. Exit code 2:
    results are missing, or both sides were evaluated with different settings.
    """
    config, store = given.opened()
    from svdjobs.runs import outputs
    from svdjobs.stages import gate as stage

    stage.run(config, store, force=force)
    if copy_to is not None:
        outputs.copy(store, stage.PREFIX, copy_to)
    tell(stage.closing_words(store))
    return EXIT_REGRESSION if stage.load(store).failed else EXIT_OK


@click.command("drop-weights")
@click.option("--alpha", required=True, help="The alpha, or its id.")
@config_options
def drop_weights(given: Given, force: bool, alpha: str) -> None:
    """Delete the weights of an evaluated alpha; its measurements stay.

    `svdjobs blend --force --alpha` makes the weights again.
    """
    config, store = given.opened()
    from svdjobs.runs import shards
    from svdjobs.stages import drop_weights as stage

    stage.run(config, store, alpha=shards.alpha_named(config, alpha))


COMMANDS = (sweep, plan, fetch, forecast, blend, rotations, metrics, report, gate, drop_weights)
