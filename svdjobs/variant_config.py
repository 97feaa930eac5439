"""The config sections of variants and of the map: a part of the weights, and what is done to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from svdjobs.settings import Settings


class PartConfig(Settings):
    """A part of the blended matrices. Each key leaves fewer of them; without keys it is all."""

    include: tuple[str, ...] = ()
    """Regular expressions; the matrices that any of them matches."""
    exclude: tuple[str, ...] = ()
    """Regular expressions; a matrix that any of them matches is left out."""
    layers: tuple[int, ...] = ()
    """Numbers of layers, from 0."""
    families: tuple[str, ...] = ()
    """Module families, e.g. self_attn.q_proj or q_proj."""
    heads: tuple[int, ...] = ()
    """Attention heads, from 0: the rows of q, k and v, and the columns of o, that belong to them.
    Key-value heads that several heads share belong to each of these."""


class VariantConfig(PartConfig):
    """Weights that are no blend of all matrices: `after`, changed by one rule in a part of its
    matrices. Rules: alpha, before, keep_update, drop_update, extrapolate, random; give one."""

    alpha: float | None = None
    """Blend the part at this alpha."""
    before: Literal["values", "u", "v", "vectors", "matrix"] | None = None
    """Take this from `before`: the singular values, the left or right singular vectors, both, or
    the matrix itself."""
    keep_update: int | None = Field(default=None, ge=0)
    """Keep this many leading singular directions of the update W_after − W_before."""
    drop_update: int | None = Field(default=None, ge=0)
    """Drop this many leading singular directions of the update."""
    extrapolate: float | None = None
    """W_after + this times the update; -1 is `before`."""
    random: Literal["values", "vectors", "matrix"] | None = None
    """A random change of the same norm as that of `before: …`: Gaussian noise in the singular
    values, a rotation of both bases, or Gaussian noise in the matrix."""
    seed: int = 0
    """Seed of a random change. A list of seeds makes a variant of each."""
    directions: tuple[int | None, ...] = ()
    """Only singular directions in [from, to), as in a slice: [0, 64] the leading, [-64, null] the
    trailing ones. For the rules alpha, before and random, except matrix."""

    @model_validator(mode="after")
    def _one_rule(self) -> VariantConfig:
        rules = self.rules()
        if len(rules) != 1:
            raise ValueError(
                f"give exactly one of {', '.join(_RULES)}; found {', '.join(rules) or 'none'}"
            )
        if self.directions:
            if len(self.directions) != 2:
                raise ValueError("directions are [from, to), e.g. [0, 64] or [-64, null]")
            if rules[0] not in ("alpha", "before", "random") or "matrix" in (
                self.before,
                self.random,
            ):
                raise ValueError(
                    "directions need the rule alpha, or before or random of values, u, v or vectors"
                )
        return self

    def settings(self) -> dict[str, Any]:
        """The section for an output key."""
        return {**self.model_dump(mode="json"), **_norm(self, self.random)}

    def rules(self) -> list[str]:
        """The rules that are given."""
        return [rule for rule in _RULES if getattr(self, rule) is not None]


_RULES = ("alpha", "before", "keep_update", "drop_update", "extrapolate", "random")


class MapConfig(PartConfig):
    """A map of where the change sits: one variant for each layer and module family, in which this
    part alone is rewound to `before`."""

    rewind: Literal["matrix", "values", "vectors"] = "matrix"
    """What is taken from `before`. With `by` rewind, give none: each of them has a column."""
    by: Literal["family", "head", "rewind"] = "family"
    """The columns; the rows are layers. family: a column for each module family. head: for each
    attention head (its rows of q, k and v, and its columns of o). rewind: for what is taken from
    `before`: the singular values, the singular vectors, or all."""
    nulls: int = Field(default=3, ge=0)
    """Random changes of the same size to compare each cell with."""

    @model_validator(mode="after")
    def _columns(self) -> MapConfig:
        if self.by == "rewind" and self.rewind != "matrix":
            raise ValueError("with `by` rewind, give no `rewind`: each has a column")
        if self.by == "head" and self.families:
            raise ValueError(
                "with `by` head, give no `families`: a head has rows and columns in q, k, v and o"
            )
        return self

    def settings(self) -> dict[str, Any]:
        """The section for an output key. Outputs made before there was `by` stay current."""
        found = {**self.model_dump(mode="json"), **_norm(self, self.nulls)}
        return {key: value for key, value in found.items() if (key, value) != ("by", "family")}


def _norm(part: PartConfig, random: object) -> dict[str, str]:
    """Marks random changes of heads, which had the norm of whole matrices in version 1."""
    return {"norm": "of the heads"} if part.heads and random else {}


def one_per_seed(value: Any) -> Any:
    """The variants of a config, with one of its own for each seed in a list."""
    if not isinstance(value, Mapping):
        return value
    variants = {}
    for name, spec in value.items():
        seeds = spec.get("seed") if isinstance(spec, Mapping) else None
        if isinstance(seeds, (list, tuple)):
            for number, seed in enumerate(seeds):
                variants[f"{name}-{number}"] = {**spec, "seed": seed}
        else:
            variants[name] = spec
    return variants
