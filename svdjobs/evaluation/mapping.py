"""The map: after's completions, read by variants in which one part is rewound to before.

A part is a layer and a module family. Beside each cell stand random changes of the same size.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from svdjobs.checkpoint.matrices import Sizes
from svdjobs.checkpoint.selection import layer_and_family, part_name
from svdjobs.config import SweepConfig
from svdjobs.errors import IncompleteError
from svdjobs.evaluation import likelihoods
from svdjobs.evaluation.benchmarks.load import Benchmark
from svdjobs.evaluation.generation import COMPLETIONS, completions_in
from svdjobs.evaluation.output_keys import variant_fingerprint, variant_print
from svdjobs.evaluation.session import Session
from svdjobs.progress import track
from svdjobs.records import Completion, Likelihood, Manifest, MapCell, TensorPlan
from svdjobs.runs import layout
from svdjobs.runs.outputs import (
    Output,
    OutputKey,
    begin,
    content_print,
    find_manifest,
    read_finished,
    readable_manifest,
)
from svdjobs.storage.objects import record_in, write_lines
from svdjobs.storage.store import Store
from svdjobs.variant_config import MapConfig, VariantConfig
from svdjobs.weights.variants import areas

VERSION = "1"
CELLS = "cells.jsonl"
JOURNAL = "cells.journal"
ALL = "all"
REWINDS: tuple[Literal["values", "vectors", "matrix"], ...] = ("values", "vectors", "matrix")


class Part(NamedTuple):
    """A part of the map, in a row and a column of it, or all parts together."""

    layer: int | None
    """The row; None for matrices without a number of a layer, and for all parts together."""
    column: str
    """A module family, `head 3`, or what is taken from before."""
    matrices: tuple[str, ...]
    heads: tuple[int, ...]
    rewind: Literal["matrix", "values", "vectors"]

    @property
    def name(self) -> str:
        """`layer 2 mlp.down_proj`."""
        return part_name(self.layer, self.column)


def parts(
    map_config: MapConfig, selected: Sequence[TensorPlan], config: Mapping[str, Any]
) -> list[Part]:
    """The parts of a map, by layer and column; then all of them together.

    Raises:
        ConfigError: a key of the section matches no matrix.
    """
    heads = map_config.heads
    if map_config.by == "head":
        heads = heads or tuple(range(Sizes.of(config).heads))
    whole = map_config.model_copy(update={"heads": heads})
    matrices: dict[int | None, dict[str, list[str]]] = {}
    for name in areas(whole, selected, config, "map"):
        layer, family = layer_and_family(name)
        matrices.setdefault(layer, {}).setdefault(family, []).append(name)
    found = []
    for layer in sorted(matrices, key=lambda number: -1 if number is None else number):
        families = matrices[layer]
        names = tuple(name for family in sorted(families) for name in families[family])
        if map_config.by == "head":
            found += [Part(layer, f"head {h}", names, (h,), map_config.rewind) for h in heads]
        elif map_config.by == "rewind":
            found += [Part(layer, rewind, names, heads, rewind) for rewind in REWINDS]
        else:
            found += [
                Part(layer, family, tuple(families[family]), heads, map_config.rewind)
                for family in sorted(families)
            ]
    names = tuple(dict.fromkeys(name for part in found for name in part.matrices))
    return [*found, Part(None, ALL, names, heads, map_config.rewind)]


def variants_of(map_config: MapConfig, part: Part) -> Iterator[tuple[int | None, VariantConfig]]:
    """The variants of a part: rewound, and with each random change. They are of its matrices only,
    which their configs do not name: a regular expression for each of a thousand would be slow."""
    yield None, VariantConfig(heads=part.heads, before=part.rewind)
    for number in range(map_config.nulls if part.column != ALL else 0):
        yield number, VariantConfig(heads=part.heads, random=part.rewind, seed=number)


def make(session: Session, benchmark: Benchmark, *, force: bool = False) -> None:
    """Write the map's cells on a benchmark, unless current ones exist.

    Each cell is written to a journal at once, so a killed run reads only the missing ones when it
    is resumed.
    """
    config, store = session.config, session.store
    of_after = likelihoods.current(store, "after", benchmark.name)
    completions_manifest = find_manifest(store, layout.results_prefix("after", benchmark.name))
    if config.map is None:
        return
    if of_after is None or completions_manifest is None:
        raise IncompleteError(likelihoods.nothing_to_read("the map", benchmark.name))
    key = OutputKey(
        stage="map",
        version=VERSION,
        config={
            **config.map.settings(),
            "engine": session.evaluate.engine,
            "dtype": session.evaluate.dtype,
        },
        inputs={
            "weights": variant_fingerprint(session.checkpoints, store, config.map),
            "likelihoods": content_print(of_after),
        },
    )
    output = begin(store, layout.map_prefix(benchmark.name), key, force=force)
    if output.finished:
        return
    rows = [r for r in likelihoods.load(store, "after", benchmark.name) if not r.unread]
    read = {(row.idx, row.sample_index): row for row in rows}
    prefix = layout.results_prefix("after", benchmark.name)
    drawn = completions_in(read_finished(store, prefix, COMPLETIONS, completions_manifest))
    completions = [c for c in drawn if (c.idx, c.sample_index) in read]
    # Completions of about one length need little padding.
    completions.sort(key=lambda c: (len(c.token_ids), c.idx, c.sample_index))
    _read_cells(session, config.map, benchmark, output, read, completions)
    output.commit()


def _read_cells(
    session: Session,
    map_config: MapConfig,
    benchmark: Benchmark,
    output: Output,
    of_after: Mapping[tuple[int, int], Likelihood],
    completions: Sequence[Completion],
) -> None:
    store = output.store
    selected = layout.load_plan(store, session.config, stage="evaluate").selected
    wanted = [
        (part, number, spec)
        for part in parts(map_config, selected, session.checkpoints.after.config)
        for number, spec in variants_of(map_config, part)
    ]
    prompts = {p.idx: p.ids for p in session.prompt_set("after").prompts[benchmark.name]}
    temperature = session.evaluate.read_temperature
    with (
        store.journal(output.key(JOURNAL)) as journal,
        track(f"map of {benchmark.name}", len(wanted)) as advance,
    ):
        lines = (record_in(MapCell, line, "a line of a journal") for line in journal.lines)
        cells = {(cell.layer, cell.family, cell.null): cell for cell in lines}
        advance(len(cells))
        for part, number, spec in wanted:
            if (part.layer, part.column, number) in cells:
                continue
            label = f"map: {part.name}" + ("" if number is None else f", null {number}")
            engine, variant = session.engine_holder.engine_with_variant(label, spec, part.matrices)
            found = likelihoods.read_together(engine, completions, prompts, temperature, label)
            cell = _cell(part, number, variant.change().change, of_after, found)
            journal.append(cell.model_dump_json())
            cells[part.layer, part.column, number] = cell
            advance(1, part.name)
    in_order = [cells[part.layer, part.column, number] for part, number, _ in wanted]
    output.add(write_lines(store, output.key(CELLS), [cell.model_dump_json() for cell in in_order]))
    store.delete(output.key(JOURNAL))


def _cell(
    part: Part,
    number: int | None,
    change: float,
    of_after: Mapping[tuple[int, int], Likelihood],
    found: Iterable[Likelihood],
) -> MapCell:
    ratios, divergences = {}, {}
    for row in found:
        key = row.idx, row.sample_index
        pairs = zip(row.log_probabilities, of_after[key].log_probabilities, strict=True)
        apart = [own - after for own, after in pairs]
        ratios[key] = math.fsum(apart)
        divergences[key] = math.fsum(math.expm1(d) - d for d in apart)
    return MapCell(
        layer=part.layer,
        family=part.column,
        null=number,
        change=change,
        log_ratios=[ratios[key] for key in sorted(of_after)],
        divergences=[divergences[key] for key in sorted(of_after)],
    )


def current(config: SweepConfig, store: Store, benchmark: str) -> Manifest | None:
    """Manifest of the map; None if it is missing, after's likelihoods have changed, or the config
    has another map."""
    of_after = likelihoods.current(store, "after", benchmark)
    manifest = readable_manifest(store, layout.map_prefix(benchmark))
    if config.map is None or manifest is None or of_after is None:
        return None
    weights = variant_print(config, store, config.map)
    if weights is not None and manifest.inputs["weights"] != weights:
        return None
    return manifest if manifest.inputs["likelihoods"] == content_print(of_after) else None


def load(config: SweepConfig, store: Store, benchmark: str) -> list[MapCell]:
    """The cells of the map; empty if it is missing or out of date."""
    if (manifest := current(config, store, benchmark)) is None:
        return []
    prefix = layout.map_prefix(benchmark)
    lines = read_finished(store, prefix, CELLS, manifest).splitlines()
    return [record_in(MapCell, line, f"a line of {prefix}/{CELLS}") for line in lines]
