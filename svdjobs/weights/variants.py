"""Variants: `after`, with one rule for a part of its matrices (config section `variants`)."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from svdjobs.checkpoint.matrices import Sizes
from svdjobs.checkpoint.selection import layer_and_family
from svdjobs.errors import ConfigError
from svdjobs.progress import say
from svdjobs.records import TensorPlan, VariantChange
from svdjobs.runs.checkpoints import RunCheckpoints
from svdjobs.variant_config import PartConfig, VariantConfig
from svdjobs.weights.blended import Sources, StoredTensor, stored_tensors
from svdjobs.weights.heads import heads_of

if TYPE_CHECKING:
    import torch

_ALL = slice(None)
_ATTENTION = re.compile(r"(^|[._ ])(attn|attention|self_attn|self_attention)(\.|$)|[qkvo]_proj$")
PROJECTED = 1e-9
"""‖QᵀQ − 1‖_F above which a basis was not orthonormal to rounding."""


class Area(NamedTuple):
    """Rows and columns of a matrix: slices, each of which is a part of the area."""

    rows: tuple[slice, ...] = (_ALL,)
    columns: tuple[slice, ...] = (_ALL,)

    @property
    def whole(self) -> bool:
        """Whether it is the whole matrix."""
        return self == Area()

    def mask(self, w_MN: torch.Tensor) -> torch.Tensor:
        """True at the elements of a matrix that are in the area."""
        import torch

        inside = torch.zeros(w_MN.shape, dtype=torch.bool)
        for rows in self.rows:
            for columns in self.columns:
                inside[rows, columns] = True
        return inside


def areas(
    part: PartConfig, selected: Sequence[TensorPlan], config: Mapping[str, Any], where: str
) -> dict[str, Area]:
    """The matrices of a part, by name, and which of their rows and columns belong to it.

    `selected` are the matrices that are blended, `config` is that of the checkpoint; `where` names
    the section in errors.

    Raises:
        ConfigError: a key of the part matches nothing, the part is empty, or its heads are not
            rows and columns of its matrices.
    """
    places = {t.name: layer_and_family(t.name) for t in selected}
    layers = {layer for layer, _ in places.values()}
    families = {family for _, family in places.values()}
    include, exclude = (
        [_pattern(pattern, where) for pattern in patterns]
        for patterns in (part.include, part.exclude)
    )
    for key, found, known in (
        (
            "layers",
            [n for n in part.layers if n not in layers],
            f"; its layers are {_span(layers)}",
        ),
        (
            "families",
            [f for f in part.families if not any(_of(family, f) for family in families)],
            f"; its families are {', '.join(sorted(families))}",
        ),
        ("include", [p.pattern for p in include if not any(map(p.search, places))], ""),
        ("exclude", [p.pattern for p in exclude if not any(map(p.search, places))], ""),
    ):
        if found:
            raise ConfigError(
                f"{where}.{key}: {found[0]!r} matches none of the {len(places)} blended "
                f"matrices{known}."
            )
    chosen = [
        tensor
        for tensor in selected
        if (not part.layers or places[tensor.name][0] in part.layers)
        and (not part.families or any(_of(places[tensor.name][1], f) for f in part.families))
        and (not include or any(p.search(tensor.name) for p in include))
        and not any(p.search(tensor.name) for p in exclude)
    ]
    sizes = Sizes.of(config)
    found_areas = {tensor.name: _area(tensor, part.heads, sizes, where) for tensor in chosen}
    made = {name: area for name, area in found_areas.items() if area is not None}
    if not made:
        raise ConfigError(f"{where} leaves no matrix: its keys match none together.")
    return made


def check_directions(
    spec: VariantConfig, selected: Sequence[TensorPlan], names: Collection[str], where: str
) -> None:
    """Check that the directions of a variant are some of those of a matrix.

    Raises:
        ConfigError: they are none of any matrix in `names`.
    """
    if not spec.directions:
        return
    most = max(min(tensor.shape) for tensor in selected if tensor.name in names)
    if not range(most)[slice(*spec.directions)]:
        raise ConfigError(
            f"{where}.directions: {list(spec.directions)} are none of the {most} directions of its "
            f"largest matrix."
        )


def _of(family: str, wanted: str) -> bool:
    return family == wanted or family.endswith(f".{wanted}")


def _span(numbers: Collection[int | None]) -> str:
    known = sorted({number for number in numbers if number is not None})
    return f"{known[0]} to {known[-1]}" if known else "without numbers"


def _pattern(source: str, where: str) -> re.Pattern[str]:
    try:
        return re.compile(source)
    except re.error as error:
        raise ConfigError(f"{where}: {source!r} is not a regular expression: {error}") from None


def _area(tensor: TensorPlan, heads: Sequence[int], sizes: Sizes, where: str) -> Area | None:
    """The area of the heads in a matrix; None if it is not one of an attention.

    Raises:
        ConfigError: there is no such head, or the matrix has not the sizes of the config.
    """
    if not heads:
        return Area()
    if bad := [head for head in heads if not 0 <= head < sizes.heads]:
        raise ConfigError(f"{where}.heads: {bad[0]}, but the checkpoint has {sizes.heads} heads.")
    if not _ATTENTION.search(layer_and_family(tensor.name)[1]):
        return None
    if (own := heads_of(tensor.name, tensor.shape, sizes)) is None:
        raise ConfigError(
            f"{where}.heads: {tensor.name} {list(tensor.shape)} has not the heads that the config "
            f"gives ({sizes.heads} of {sizes.head}, {sizes.kv_heads} for keys and values); leave "
            f"it out with `exclude`, or give no heads."
        )
    shared = sizes.heads // own.total
    places = tuple(own.place(head) for head in sorted({head // shared for head in heads}))
    return Area(columns=places) if own.columns else Area(rows=places)


@dataclass(eq=False)
class Variant:
    """The weights of one variant, computed when they are asked for."""

    spec: VariantConfig
    label: str
    checkpoints: RunCheckpoints
    sources: Sources
    only: Collection[str] | None = None
    """Names of the matrices that it may change; None: all that its spec names."""
    changes: dict[str, float] = field(default_factory=dict)
    """‖W′ − W‖_F of each matrix that has been computed."""
    norms: dict[str, float] = field(default_factory=dict)
    """‖W‖_F of the same matrices."""
    defects: dict[str, float] = field(default_factory=dict)
    """‖QᵀQ − 1‖_F of mixed bases before they were projected."""

    def __post_init__(self) -> None:
        selected = self.sources.plan.selected
        if self.only is not None:
            selected = [tensor for tensor in selected if tensor.name in self.only]
        self._areas = areas(self.spec, selected, self.sources.bases.config, self.label)
        self._stored = stored_tensors(self.sources)
        self.touched = {
            stored.name
            for stored in self._stored
            if any(tensor.name in self._areas for tensor in stored.holds)
        }
        """Names of the stored tensors that differ from after's."""

    def tensors(self, names: Collection[str]) -> Iterator[tuple[str, torch.Tensor]]:
        """The stored tensors with these names. Say so if mixed bases had to be projected."""
        for stored in self._stored:
            if stored.name in names:
                w = self.sources.bases.read(stored.name)
                yield stored.name, self._changed(stored, w) if stored.name in self.touched else w
        if largest := max(self.defects.values(), default=0.0):
            say(
                f"{self.label}: the mixed bases of {len(self.defects)} matrices are projected to "
                f"orthonormal ones; ‖QᵀQ − 1‖ was up to {largest:.2g}"
            )

    def _changed(self, stored: StoredTensor, w: torch.Tensor) -> torch.Tensor:
        import torch

        flat = w.to(torch.float32).reshape(-1).clone()
        for tensor in stored.chosen:
            if (area := self._areas.get(tensor.name)) is None:
                continue
            piece = self.sources.matrices.pieces.get(tensor.name)
            own_MN = piece.of(flat) if piece else flat.view(tensor.shape)
            own_MN = own_MN.clone()
            new_MN = self._in_area(tensor, own_MN, area)
            difference = new_MN.to(torch.float64) - own_MN.to(torch.float64)
            self.changes[tensor.name] = float(difference.norm())
            self.norms[tensor.name] = float(own_MN.to(torch.float64).norm())
            if piece:
                piece.put(flat, new_MN)
            else:
                flat.view(tensor.shape).copy_(new_MN)
        return flat.reshape(stored.shape)

    def _in_area(self, tensor: TensorPlan, own_MN: torch.Tensor, area: Area) -> torch.Tensor:
        """The matrix by the rule in an area, and as it is elsewhere. A random change has the norm
        there that taking the same thing from before would have there."""
        import torch

        made_MN = self._matrix(self.spec, tensor, own_MN).to(torch.float32)
        if area.whole:
            return made_MN
        inside = area.mask(own_MN)
        if self.spec.random is not None:
            rule = self.spec.model_copy(update={"random": None, "before": self.spec.random})
            wanted_MN = self._matrix(rule, tensor, own_MN).to(torch.float64) - own_MN
            change_MN = made_MN.to(torch.float64) - own_MN
            size = float(change_MN[inside].norm())
            scale = float(wanted_MN[inside].norm()) / size if size else 0.0
            made_MN = (own_MN + scale * change_MN).to(torch.float32)
        return torch.where(inside, made_MN, own_MN)

    def _matrix(self, spec: VariantConfig, tensor: TensorPlan, w_MN: torch.Tensor) -> torch.Tensor:
        """The matrix by the rule, everywhere."""
        from svdjobs.kernels import blend, variants

        name = tensor.name
        directions = slice(*spec.directions) if spec.directions else _ALL
        if spec.alpha is not None:
            return self._blended(name, w_MN, spec.alpha, directions)
        if spec.before == "values":
            return self._blended(name, w_MN, 0.0, directions)
        if spec.random == "values":
            s_K, values_K = self.sources.factors.s(name), self.sources.values.s(name)
            norm = float((values_K - s_K)[directions].norm())
            r_K = variants.noise_ratio(s_K, norm, directions, self._seed(name))
            d_MN = blend.signal(w_MN, s_K, self.sources.factors.basis(name), r_K)
            return blend.blend(w_MN, d_MN, 0.0)
        config = self.checkpoints.config
        before_MN = self.checkpoints.matrices(config.before).view.read(name)
        if spec.before == "matrix":
            return before_MN
        if spec.before is not None:
            swapped = variants.swap_vectors(w_MN, before_MN, spec.before, directions)
            if swapped.defect > PROJECTED and spec is self.spec:
                self.defects[name] = swapped.defect
            return swapped.w_MN
        if spec.random == "vectors":
            return variants.rotate_randomly(w_MN, before_MN, directions, self._seed(name))
        if spec.random == "matrix":
            return variants.noise(w_MN, before_MN, self._seed(name))
        if spec.keep_update is not None:
            return before_MN.double() + variants.leading_update(w_MN, before_MN, spec.keep_update)
        if spec.drop_update is not None:
            return w_MN.double() - variants.leading_update(w_MN, before_MN, spec.drop_update)
        assert spec.extrapolate is not None  # the config has exactly one rule
        return w_MN.double() + spec.extrapolate * (w_MN.double() - before_MN.double())

    def _blended(
        self, name: str, w_MN: torch.Tensor, alpha: float, directions: slice
    ) -> torch.Tensor:
        import torch

        from svdjobs.kernels import blend

        s_K, values_K = self.sources.factors.s(name), self.sources.values.s(name)
        r_K = blend.blend_ratio(values_K, s_K).r_K
        only_K = torch.zeros_like(r_K)
        only_K[directions] = r_K[directions]
        d_MN = blend.signal(w_MN, s_K, self.sources.factors.basis(name), only_K)
        return blend.blend(w_MN, d_MN, alpha)

    def _seed(self, name: str) -> int:
        from svdjobs.fingerprint import derived_seed

        return derived_seed(self.spec.seed, name)

    @property
    def relative_change(self) -> float:
        """‖W′ − W‖/‖W‖ over the matrices that have been computed."""
        total = math.hypot(*self.norms.values())
        return math.hypot(*self.changes.values()) / total if total else 0.0

    def change(self) -> VariantChange:
        """How far the variant is from after; computes the matrices that have not been yet."""
        missing = {
            stored.name
            for stored in self._stored
            if any(t.name in self._areas and t.name not in self.changes for t in stored.holds)
        }
        for _ in self.tensors(missing):
            pass
        defect = max(self.defects.values(), default=None)
        return VariantChange(matrices=len(self._areas), change=self.relative_change, defect=defect)
