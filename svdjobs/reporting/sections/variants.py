"""The variants: the rule of each, and how far it is from after."""

from __future__ import annotations

from collections.abc import Iterator

from svdjobs.records import Interval
from svdjobs.reporting.data import Content, Row, Section, Table, number
from svdjobs.variant_config import VariantConfig


def rule_in_words(spec: VariantConfig) -> str:
    """The keys of a variant as its config gives them: `before: values, layers: 1 2`."""
    given = spec.model_dump(mode="json", exclude_defaults=True)
    return ", ".join(
        f"{key}: {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in given.items()
    )


def _tables(content: Content) -> Iterator[Table]:
    if not content.changes:
        return
    rows = []
    for name, change in content.changes.items():
        rule = rule_in_words(content.config.variants[name])
        rows.append(
            [
                name,
                rule,
                number(change.matrices),
                number(change.change, ".3g"),
                number(change.defect, ".2g"),
            ]
        )
    yield Table(
        "variants",
        "The variants, and how far each is from after",
        "`change` is ‖W′ − W‖/‖W‖ over the matrices that the rule changes. `defect` is the largest "
        "‖QᵀQ − 1‖ of a basis with vectors of both checkpoints, before it was projected to the "
        "nearest orthonormal one. What the variants score is in the table of readings.",
        ["variant", "rule", "matrices", "change", "defect"],
        rows,
    )


def _numbers(content: Content) -> Iterator[Row]:
    for name, change in content.changes.items():
        yield "-", name, "change_of_weights", Interval(value=change.change)


SECTION = Section(24, "Variants", tables=_tables, numbers=_numbers)
