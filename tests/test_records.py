"""Records of every format that svdjobs has written are read; those of later ones are refused."""

from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from svdjobs.errors import DamagedError, FormatError
from svdjobs.records import Record, RotationRow, SideMetrics
from svdjobs.storage.objects import record_in

ROW_OF_FORMAT_1 = (
    '{"name":"model.layers.1.mlp.down_proj.weight","layer":1,"family":"mlp.down_proj",'
    '"shape":[64,176],"rank":64,"metrics":{"nss":0.02,"touchable_share":0.03,'
    '"stable_rank_base":9.5,"stable_rank_rl2":9.25,"mse_vh":0.004,"mse_top_vh":0.001,"mse_u":1e-17,'
    '"mse_top_u":0.002,"angle_max_vh":0.5,"angle_rms_vh":0.25,"angle_max_u":0.125,'
    '"angle_rms_u":0.0625,"update_norm":0.3},"null":{"nss":0.01,"mse_u":null,"haar_mse":0.0001,'
    '"nss_formula":0.015,"touchable_formula":0.0057},"trivial_side":"u"}'
)


def test_rows_of_rotations_are_read_as_they_were_first_written() -> None:
    row = record_in(RotationRow, ROW_OF_FORMAT_1, "a row")
    assert row.metrics.nss == 0.02
    assert row.metrics.stable_rank_rl2 == 9.25
    assert row.metrics.u == SideMetrics(mse=1e-17, mse_top=0.002, angle_max=0.125, angle_rms=0.0625)
    assert row.metrics.side("vh") == SideMetrics(
        mse=0.004, mse_top=0.001, angle_max=0.5, angle_rms=0.25
    )
    assert row.null.u.mse is None
    assert row.null.vh == SideMetrics()
    assert (row.null.haar_mse, row.null.nss_formula) == (0.0001, 0.015)
    assert row.null.touchable_formula == 0.0057


def test_a_row_says_its_format_and_comes_back() -> None:
    row = record_in(RotationRow, ROW_OF_FORMAT_1, "a row")
    document = json.loads(row.model_dump_json())
    assert document["format"] == 2
    assert document["metrics"]["u"]["angle_rms"] == 0.0625
    assert record_in(RotationRow, document, "a row") == row
    assert record_in(RotationRow, row.model_dump(mode="json"), "a row") == row


class _Inner(Record):
    FORMAT = 2
    MIGRATIONS: ClassVar[Any] = {1: lambda old: {"b": old["a"]}}

    b: int


class _Outer(Record):
    FORMAT = 3
    MIGRATIONS: ClassVar[Any] = {
        1: lambda old: {"two": old["one"]},
        2: lambda old: {"three": old["two"]},
    }

    three: list[_Inner]


@pytest.mark.parametrize(
    "document",
    [
        {"one": [{"a": 5}]},
        {"format": 1, "one": [{"a": 5}]},
        {"format": 2, "two": [{"format": 2, "b": 5}]},
        {"format": 3, "three": [{"a": 5}]},
    ],
)
def test_every_migration_is_taken_in_turn_also_inside(document: dict[str, Any]) -> None:
    outer = record_in(_Outer, document, "a test")
    assert outer == _Outer(three=[_Inner(b=5)])
    assert json.loads(outer.model_dump_json()) == {
        "format": 3,
        "three": [{"format": 2, "b": 5}],
    }


def test_new_records_are_not_migrated() -> None:
    with pytest.raises(ValueError, match="three"):
        _Outer.model_validate({"one": [{"a": 5}]})


def test_a_later_format_is_refused_and_nothing_is_written_over_it() -> None:
    document = {"format": 9, "three": []}
    words = r"newer svdjobs has written this _Outer \(format 9; this version reads up to 3\)"
    with pytest.raises(FormatError, match=words):
        record_in(_Outer, document, "a test")


@pytest.mark.parametrize("stored", [0, -1, "2", None, [1]])
def test_a_format_that_is_none_is_damage(stored: Any) -> None:
    with pytest.raises(DamagedError, match="format"):
        record_in(_Outer, {"format": stored, "three": []}, "a test")
