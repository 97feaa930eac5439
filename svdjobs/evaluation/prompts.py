r"""Prompts as token ids, tokenised once and shared by all checkpoints.

Three styles: `plain` is the problem and an instruction; `chat` is the same text as a user message
in the tokenizer's chat template; any other style is itself a template that contains {problem}.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any, NamedTuple

from svdjobs.errors import BenchmarkError, CheckpointError, first_line
from svdjobs.evaluation.chat_template import TemplateError, render_chat_template
from svdjobs.fingerprint import fingerprint
from svdjobs.records import Problem

PLAIN_PROMPT = r"{problem} Let's think step by step and output the final answer within \boxed{}."


class Prompt(NamedTuple):
    """The prompt of one problem."""

    idx: int
    """Index of the problem."""
    text: str
    ids: tuple[int, ...]
    sha256: str
    """sha256 of the token ids."""


def load_tokenizer(folder: str) -> Any:
    """The tokenizer in a checkpoint folder.

    Raises:
        CheckpointError: there is none, or transformers cannot load it.
    """
    if find_spec("torch") is None:  # a pod of plan: transformers would advise to install it
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    transformers.utils.logging.set_verbosity_error()
    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        said = first_line(error)
        raise CheckpointError(f"no tokenizer in {folder}: {said}") from None


def make_prompts(problems: Sequence[Problem], style: str, tokenizer: Any) -> list[Prompt]:
    """The prompt of each problem, in order.

    Raises:
        CheckpointError: `chat` with a tokenizer whose chat template is missing or fails.
        BenchmarkError: a prompt without a token.
    """
    if style == "chat":
        texts = _chats(problems, tokenizer)
    else:
        texts = [_fill(style, problem) for problem in problems]
    prompts = []
    for problem, text in zip(problems, texts, strict=True):
        ids = _token_ids(text, tokenizer)
        if not ids:
            raise BenchmarkError(
                f"problem {problem.idx}: the tokenizer has no token for anything in its prompt "
                f"({text!r:.60}); give the tokenizer the checkpoint was trained with."
            )
        prompts.append(Prompt(problem.idx, text, ids, fingerprint(ids)))
    return prompts


def prompts_sha256(prompts: Sequence[Prompt]) -> str:
    """sha256 of the token ids of a whole benchmark: equal if two checkpoints got equal prompts."""
    return fingerprint([prompt.ids for prompt in prompts])


def _fill(style: str, problem: Problem) -> str:
    """Replace {problem} literally, so that other braces in a template or problem mean nothing."""
    template = PLAIN_PROMPT if style == "plain" else style
    return template.replace("{problem}", problem.problem)


def _chats(problems: Sequence[Problem], tokenizer: Any) -> list[str]:
    """Each problem as a user message in the chat template, rendered in a sandboxed process."""
    if not tokenizer.chat_template:
        raise CheckpointError(
            f"evaluate.prompt is `chat`, but the tokenizer {tokenizer.name_or_path} has no chat "
            f"template. Set evaluate.prompt to `plain`, or `tokenizer` to a checkpoint that has "
            f"one."
        )
    try:
        return render_chat_template(
            tokenizer.get_chat_template(),
            tokenizer.special_tokens_map,
            [_fill("plain", problem) for problem in problems],
        )
    except TemplateError as error:
        raise CheckpointError(
            f"the chat template of the tokenizer {tokenizer.name_or_path} {error}. Set "
            f"evaluate.prompt to `plain`."
        ) from None


def _token_ids(text: str, tokenizer: Any) -> tuple[int, ...]:
    """Token ids, starting once with what the tokenizer puts in front of a text (a BOS).

    A chat template may already have written it. What some tokenizers put at the end (an end-of-text
    token) is left out, since the completion follows there.
    """
    bare = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
    full = tuple(tokenizer(text, add_special_tokens=True)["input_ids"])
    starts = range(len(full) - len(bare) + 1)
    start = next((i for i in starts if full[i : i + len(bare)] == bare), None)
    if start is None:
        raise CheckpointError(
            f"the tokenizer {tokenizer.name_or_path} changes the tokens of a text when it adds its "
            f"special tokens, so its BOS cannot be told from the text. Set `tokenizer` to a "
            f"checkpoint with a tokenizer.json."
        )
    opening = full[:start]
    return bare if bare[:start] == opening else opening + bare


def check_context_length(
    lengths: Mapping[int, int],
    context: int | None,
    max_tokens: int,
    *,
    benchmark: str = "",
    checkpoint: str = "the checkpoint",
) -> None:
    """Make sure that each prompt (token count by problem idx) and max_tokens fit the context.

    Raises:
        BenchmarkError: a prompt does not fit; names the longest prompt and the largest max_tokens
            that fits all.
    """
    if context is None or not lengths:
        return
    idx = max(lengths, key=lambda i: lengths[i])
    room = context - lengths[idx]
    if max_tokens <= room:
        return
    count = sum(length + max_tokens > context for length in lengths.values())
    more = f" ({count} problems are too long, this is the longest)" if count > 1 else ""
    do = (
        f"lower evaluate.max_tokens to {room} or less"
        if room > 0
        else "no max_tokens fits: leave that problem out, or use a shorter evaluate.prompt"
    )
    where = f"benchmark {benchmark}, problem {idx}" if benchmark else f"problem {idx}"
    raise BenchmarkError(
        f"{where}: its prompt of {lengths[idx]} tokens and max_tokens {max_tokens} do not "
        f"fit {checkpoint}'s context of {context}{more}; {do}."
    )
