"""How two tokenizers differ, and how a tokenizer differs from a checkpoint's embedding.

Tokenizers of one family share most ids, so with the wrong one a prompt looks right but the model
reads other words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

_SHOWN = 4


class Differences(NamedTuple):
    """Differences between the two tokenizers; token lists are sorted."""

    other_id: list[str]
    """Tokens that both have, with different ids."""
    only_before: list[str]
    only_after: list[str]
    special: list[str]
    """One phrase for each special token that differs."""
    template: bool
    """Whether the chat templates differ."""

    def __bool__(self) -> bool:
        return any(self)

    @property
    def words(self) -> str:
        """The differences as text for a person."""
        parts = [
            _count(self.other_id, "token has another id", "tokens have other ids"),
            _count(self.only_before, "token only before has", "tokens only before has"),
            _count(self.only_after, "token only after has", "tokens only after has"),
            *self.special,
            "the chat templates are not the same" if self.template else "",
        ]
        return "; ".join(part for part in parts if part)


def differences(before: Any, after: Any) -> Differences:
    """How two tokenizers of transformers differ."""
    own, other = before.get_vocab(), after.get_vocab()
    return Differences(
        other_id=sorted(token for token in own.keys() & other.keys() if own[token] != other[token]),
        only_before=sorted(own.keys() - other.keys()),
        only_after=sorted(other.keys() - own.keys()),
        special=_special(before.special_tokens_map, after.special_tokens_map),
        template=before.chat_template != after.chat_template,
    )


def differing_tokens(before: Any, after: Any, used: Collection[int]) -> list[tuple[str, str]]:
    """(after's token, before's token) for each used id that the two map to different tokens."""
    own = {idx: token for token, idx in before.get_vocab().items()}
    return sorted(
        (token, own[idx])
        for token, idx in after.get_vocab().items()
        if idx in used and own.get(idx, token) != token
    )


def _special(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{kind} is {before.get(kind, 'none')} in before and {after.get(kind, 'none')} in after"
        for kind in sorted({*before, *after})
        if before.get(kind) != after.get(kind)
    ]


def _count(tokens: list[str], one: str, many: str) -> str:
    if not tokens:
        return ""
    some = ", ".join(repr(token) for token in tokens[:_SHOWN])
    more = ", …" if len(tokens) > _SHOWN else ""
    return f"{len(tokens):,} {one if len(tokens) == 1 else many} ({some}{more})"


def vocabulary_mismatches(tokenizer: Any, rows: int, where: str) -> list[str]:
    """Sentences on tokens without a row in an embedding of `rows` rows, and rows without a token.

    `where` names the checkpoint that has the embedding.
    """
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    ids = set(vocabulary.values())
    beyond = sorted(token for token, idx in vocabulary.items() if idx >= rows)
    blank = rows - sum(idx < rows for idx in ids)
    sentences = []
    if beyond:
        count = _count(beyond, "token lies", "tokens lie")
        sentences.append(
            f"{count} beyond {where}'s embedding of {rows:,} rows: a prompt that contains one is "
            f"refused, by vLLM as by transformers"
        )
    if blank:
        sentences.append(
            f"{where}'s embedding has {blank:,} of {rows:,} rows that are no token of the "
            f"tokenizer: an engine may draw them, and they add nothing to the text"
        )
    return sentences
