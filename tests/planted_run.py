"""A run whose weights are measured and whose evaluations are planted: for large reports.

The checkpoints are real, small and random. Completions, grades, likelihoods and the map are written
as an evaluation would write them, with differences that are known.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from svdjobs.config import SweepConfig
from svdjobs.config_file import parse_config
from svdjobs.evaluation import likelihoods, mapping
from svdjobs.evaluation.benchmarks.load import Benchmark, load_benchmark
from svdjobs.evaluation.generation import COMPLETIONS, ENGINE, PROMPTS
from svdjobs.evaluation.grades import GRADES, SUMMARY, key_of
from svdjobs.evaluation.output_keys import evaluation_keys, variant_fingerprint
from svdjobs.evaluation.summary import summarise
from svdjobs.records import Completion, Grade, Likelihood, Manifest, MapCell, Outcome
from svdjobs.runs import layout
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.runs.outputs import OutputKey, begin, content_print
from svdjobs.stages import blend, decompose, metrics, plan, rotations
from svdjobs.storage.local import LocalStore
from svdjobs.storage.objects import write_lines
from svdjobs.variant_config import MapConfig
from tests.checkpoints import make_checkpoint

FAMILIES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TEXT = "so we add the two sides and find that $x^2 + y^2 = r^2$ holds for all of them"
WORDS = TEXT.split()
SPREAD = {"before": 0.5}
"""Standard deviation of the log weight of a completion; of an alpha (1 − alpha)/50."""


def planted_run(
    folder: Path,
    *,
    layers: int = 30,
    benchmarks: Sequence[str] = ("gsm8k", "math500", "aime24", "minerva"),
    problems: int = 500,
    samples: int = 16,
    tokens: int = 100,
    with_map: bool = True,
) -> SweepConfig:
    """Write the run below `folder` and return its config; the report is not made."""
    config = _config(folder, layers, benchmarks, problems, samples)
    if not with_map:
        config = config.model_copy(update={"map": None})
    store = LocalStore(config.store_url)
    plan.run(config, store)
    decompose.run(config, store)
    blend.run(config, store)
    rotations.run(config, store)
    metrics.run(config, store)
    for section in config.benchmarks:
        _Evaluations(config, store, load_benchmark(section), tokens).write()
    return config


def _config(
    folder: Path, layers: int, benchmarks: Sequence[str], problems: int, samples: int
) -> SweepConfig:
    model: dict[str, Any] = {
        "num_hidden_layers": layers, "hidden_size": 64, "intermediate_size": 160,
        "num_key_value_heads": 2,
    }  # fmt: skip
    sources = {
        name: str(make_checkpoint(folder / name, updates=updates, **model))
        for updates, name in enumerate(("before", "rl1", "after"))
    }
    for name in benchmarks:
        lines = (
            {"problem": f"In {name}, what is $\\frac{{{i}}}{{2}}$ of {i + 2}?", "answer": str(i)}
            for i in range(problems)
        )
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    document = {
        "name": "planted",
        "before": sources["before"],
        "after": sources["after"],
        "store": str(folder / "run"),
        "alphas": [0, 0.2, 0.4, 0.6, 0.8, 1],
        "evaluate": {
            "benchmarks": [{"name": n, "data": str(folder / f"{n}.jsonl")} for n in benchmarks],
            "n_samples": samples, "engine": "transformers", "dtype": "float32", "sampled": "all",
            "max_tokens": 64, "second_grader": "off",
        },
        "rotations": {"rl1": sources["rl1"]},
        "metrics": {"heads": False},
        "map": {"nulls": 1},
    }  # fmt: skip
    return parse_config(document, where="a planted run")


class _Evaluations:
    """Writes what the evaluation of all checkpoints on one benchmark leaves."""

    def __init__(
        self, config: SweepConfig, store: LocalStore, benchmark: Benchmark, tokens: int
    ) -> None:
        self._config, self._store, self._benchmark = config, store, benchmark
        self._tokens = tokens
        self._ids = layout.evaluated_ids(config)
        self._checkpoints = RunCheckpoints(config)
        keys = evaluation_keys(self._checkpoints, config.evaluation, store, self._ids, [benchmark])
        self._keys = {checkpoint_id: key for (checkpoint_id, _), key in keys.items()}
        self._places = [
            (problem.idx, sample)
            for problem in benchmark.problems
            for sample in range(config.evaluation.n_samples)
        ]

    def write(self) -> None:
        after = self._results("after")
        reference = self._likelihoods("after", after)
        for checkpoint_id in self._ids:
            if checkpoint_id != "after":
                self._results(checkpoint_id)
                self._likelihoods(checkpoint_id, after)
        if self._config.map:
            self._map(self._config.map, reference)

    def _strength(self, checkpoint_id: str) -> float:
        """Share of correct completions of a problem of mean difficulty."""
        alpha = _alpha(checkpoint_id)
        return (
            0.5 if alpha is None and checkpoint_id == "before" else 0.7 - 0.02 * (1 - (alpha or 0))
        )

    def _completions(self, checkpoint_id: str) -> Iterator[tuple[Completion, Grade]]:
        name = self._benchmark.name
        for idx, sample in self._places:
            # The same numbers for every checkpoint: their answers differ as far as they do.
            rng = random.Random(f"{name} {idx} {sample}")
            hard = random.Random(f"{name} {idx}").gauss(0, 0.2)
            chance = self._strength(checkpoint_id) + hard
            drawn = rng.random()
            correct = drawn < chance
            outcome = Outcome.CORRECT if correct else Outcome.WRONG
            if not correct and drawn > 0.98:
                outcome = Outcome.TRUNCATED
            count = rng.randrange(self._tokens // 2, 3 * self._tokens // 2)
            ids = [rng.randrange(50_000) for _ in range(count)]
            words = " ".join(WORDS[i % len(WORDS)] for i in ids)
            answer = str(idx) if correct else str(idx + 1)
            ids[-1] = 0 if correct else 1
            yield (
                Completion(
                    idx=idx, sample_index=sample, seed=idx * 100 + sample,
                    text=f"{words}. So \\boxed{{{answer}}}",
                    finish_reason="length" if outcome is Outcome.TRUNCATED else "stop",
                    completion_tokens=count, token_ids=tuple(ids),
                ),
                Grade(
                    idx=idx, sample_index=sample, outcome=outcome, answer=answer,
                    boxed=True, answer_class=int(correct),
                ),
            )  # fmt: skip

    def _results(self, checkpoint_id: str) -> Manifest:
        pairs = list(self._completions(checkpoint_id))
        completions, grades = [c for c, _ in pairs], [g for _, g in pairs]
        prefix = layout.results_prefix(checkpoint_id, self._benchmark.name)
        results = begin(self._store, prefix, self._keys[checkpoint_id])
        lines = [c.model_dump_json() for c in completions]
        results.add(write_lines(self._store, results.key(COMPLETIONS), lines))
        results.write_json(ENGINE, [])
        results.write_json(PROMPTS, {"prompts_sha256": "0" * 64})
        manifest = results.commit()
        prefix = layout.grades_prefix(checkpoint_id, self._benchmark.name)
        output = begin(self._store, prefix, key_of(manifest))
        summary = summarise(
            checkpoint_id, self._benchmark, "0" * 64, manifest.config, completions, grades, [], []
        )
        output.add(
            write_lines(self._store, output.key(GRADES), [g.model_dump_json() for g in grades])
        )
        output.write_json(SUMMARY, summary.model_dump(mode="json"))
        output.commit()
        return manifest

    def _logs(self, checkpoint_id: str) -> Iterator[Likelihood]:
        alpha = _alpha(checkpoint_id)
        spread = SPREAD.get(checkpoint_id, 0.0 if alpha is None else (1 - alpha) / 50)
        for completion, grade in self._completions("after"):
            count = len(completion.token_ids)
            rng = random.Random(f"{completion.idx} {completion.sample_index}")
            logs = [-0.1 * rng.random() for _ in range(count)]
            own = random.Random(f"{checkpoint_id} {completion.idx} {completion.sample_index}")
            # Wrong answers become likelier with the distance from after.
            shift = spread * (own.gauss(0, 1) + (-0.1 if grade.outcome is Outcome.CORRECT else 0.2))
            logs[0] += shift - spread**2 / 2
            yield Likelihood(
                idx=completion.idx, sample_index=completion.sample_index, log_probabilities=logs
            )

    def _likelihoods(self, checkpoint_id: str, after: Manifest) -> Manifest:
        evaluate = self._config.evaluation
        key = OutputKey(
            "likelihoods",
            likelihoods.VERSION,
            {
                "per_problem": evaluate.read_per_problem, "temperature": evaluate.read_temperature,
                "engine": evaluate.engine, "dtype": evaluate.dtype,
            },
            {
                "checkpoint": self._keys[checkpoint_id].inputs["checkpoint"],
                "traces": next(f.sha256 for f in after.files if f.key == COMPLETIONS),
            },
        )  # fmt: skip
        prefix = layout.likelihoods_prefix(checkpoint_id, self._benchmark.name)
        output = begin(self._store, prefix, key)
        names = [likelihoods.ROWS, *([likelihoods.AGAIN] if checkpoint_id == "after" else [])]
        for name in names:
            lines = [row.model_dump_json() for row in self._logs(checkpoint_id)]
            output.add(write_lines(self._store, output.key(name), lines))
        return output.commit()

    def _map(self, map_config: MapConfig, of_after: Manifest) -> None:
        key = OutputKey(
            "map",
            mapping.VERSION,
            {**map_config.settings(), "engine": "transformers", "dtype": "float32"},
            {
                "weights": variant_fingerprint(self._checkpoints, self._store, map_config),
                "likelihoods": content_print(of_after),
            },
        )
        output = begin(self._store, layout.map_prefix(self._benchmark.name), key)
        right = [g.outcome is Outcome.CORRECT for _, g in self._completions("after")]
        lines = [cell.model_dump_json() for cell in self._cells(right)]
        output.add(write_lines(self._store, output.key(mapping.CELLS), lines))
        output.commit()

    def _cells(self, right: Sequence[bool]) -> Iterator[MapCell]:
        """A hump in the middle layers, strongest in down_proj and v_proj."""
        layers = max(_layer(t.name) for t in self._checkpoints_plan()) + 1
        for layer in range(layers):
            for place, family in enumerate(FAMILIES):
                hump = math.exp(-((layer - layers / 2) ** 2) / (layers**2 / 20))
                size = 0.02 * hump * (2 if family in ("down_proj", "v_proj") else 0.5)
                full = f"{'self_attn' if place < 4 else 'mlp'}.{family}"
                yield self._cell(layer, full, size, right, None)
                yield self._cell(layer, full, 0.0, right, 0)
        yield self._cell(None, "all", 0.1, right, None)

    def _checkpoints_plan(self) -> Any:
        return layout.load_plan(self._store, self._config, stage="test").selected

    def _cell(
        self, layer: int | None, family: str, size: float, right: Sequence[bool], null: int | None
    ) -> MapCell:
        rng = random.Random(f"{layer} {family} {null}")
        noise = [0.01 * rng.gauss(0, 1) for _ in right]
        logs = [n + (-size if good else 2 * size) for n, good in zip(noise, right, strict=True)]
        return MapCell(
            layer=layer, family=family, null=null, change=0.01, log_ratios=logs,
            divergences=[log**2 / 2 for log in logs],
        )  # fmt: skip


def _alpha(checkpoint_id: str) -> float | None:
    return (
        float(checkpoint_id.removeprefix("alpha-")) if checkpoint_id.startswith("alpha-") else None
    )


def _layer(name: str) -> int:
    return int(name.split(".")[2])
