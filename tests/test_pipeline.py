"""The graph of stages is complete, and the files generated from it are up to date."""

from __future__ import annotations

from collections.abc import Mapping
from graphlib import TopologicalSorter
from importlib import import_module

import pytest

from svdjobs import pipeline
from svdjobs.config_file import parse_config
from svdjobs.pipeline import STAGES, SWEEP, Chain, Stage, Task
from svdjobs.runs import shards
from tests import from_pipeline


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_a_stage_is_a_module_and_a_task_gives_it_what_it_takes(stage: Stage) -> None:
    module = import_module(stage.module)
    assert getattr(module, "STAGE", stage.name) == stage.name
    assert callable(module.run)
    for task in (task for task in pipeline.tasks() if task.stage == stage.name):
        assert {*task.given, *([task.item] if task.item else [])} == set(stage.options)
        assert task.when in (None, stage.section, "variants")


def test_every_stage_has_its_place_on_a_cluster() -> None:
    assert {task.stage for task in pipeline.tasks()} == {stage.name for stage in STAGES}


def waits_for(tasks: tuple[Task | Chain, ...]) -> Mapping[str, set[str]]:
    return {task.name: set(task.after) for task in tasks}


def test_tasks_wait_for_tasks_beside_them_and_in_no_circle() -> None:
    for group in (SWEEP, *(one.tasks for one in SWEEP if isinstance(one, Chain))):
        graph = waits_for(group)
        assert set().union(*graph.values()) <= set(graph)
        assert len(list(TopologicalSorter(graph).static_order())) == len(group)


def test_one_machine_runs_no_stage_before_what_it_waits_for() -> None:
    order = [stage.name for stage in STAGES]
    stage_of = {task.name: task.stage for task in pipeline.tasks()}
    for task in pipeline.tasks():
        for other in task.after:
            if (before := stage_of.get(other)) and before != task.stage:
                assert order.index(before) < order.index(task.stage)


def test_plan_hands_on_what_tasks_fan_out_over() -> None:
    config = parse_config({"name": "x", "before": "a", "after": "b"}, where="")
    assert set(pipeline.fan_outs()) == set(shards.fan_outs(config, None))


def test_what_is_generated_is_current() -> None:
    dockerfile = from_pipeline.DOCKERFILE.read_text()
    for name in ("packages", "images", "environment"):
        made = getattr(from_pipeline, name)()
        assert from_pipeline.between(dockerfile, name, made) == dockerfile
    values = (from_pipeline.CHART / "values.yaml").read_text()
    assert from_pipeline.between(values, "stages", from_pipeline.values()) == values
    assert from_pipeline.between(values, "images", from_pipeline.image_values()) == values
    schema = (from_pipeline.CHART / "values.schema.json").read_text()
    assert from_pipeline.schema(schema) == schema
