from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svdjobs.checkpoint.classic_pt import log_name


@pytest.mark.parametrize(
    ("tensor", "file"),
    [
        ("model.layers.0.mlp.up_proj.weight", "model__layers__0__mlp__up_proj__weight"),
        ("transformer/h_0.attn", "transformer_slash_h_0__attn"),
        ("lm_head.weight", "lm_head__weight"),
        ("W", "W"),
    ],
)
def test_usual_names_are_spelled_as_the_field_s_scripts_do(tensor: str, file: str) -> None:
    assert log_name(tensor) == file


@pytest.mark.parametrize(
    "names",
    [
        ("a.b.weight", "a__b.weight", "a__b__weight"), ("a._b", "a_.b", "a___b"),
        ("a/b", "a_slash_b"), ("a:b", "a b", "a_b", "a\x00b", "a\nb"), ("ä", "ö"), ("..", "____"),
        ("x" * 300, "x" * 301), ("", "."), ("a.b", "a__b.1" + "0" * 15),
    ],
)  # fmt: skip
def test_no_two_tensors_share_a_file(names: tuple[str, ...]) -> None:
    files = [log_name(name) for name in names]
    assert len(set(files)) == len(names)


@given(st.lists(st.text("a._/ \n", max_size=8) | st.text(st.characters(codec=None)), unique=True))
def test_names_of_any_kind_stay_apart_and_are_file_names(names: list[str]) -> None:
    files = [log_name(name) for name in names]
    assert len(set(files)) == len(names)
    assert all(re.fullmatch(r"[\w.+@=-]{0,217}", file, re.ASCII) for file in files)
    assert not {".", ".."} & set(files)
