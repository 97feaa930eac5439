"""Prompts as token ids, with real tokenizers that are built and saved here."""

from __future__ import annotations

import hashlib
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from svdjobs.demo import prompt_of
from svdjobs.errors import BenchmarkError, CheckpointError
from svdjobs.evaluation import chat_template
from svdjobs.evaluation.engines.protocol import make_requests
from svdjobs.evaluation.prompts import (
    PLAIN_PROMPT,
    Prompt,
    check_context_length,
    load_tokenizer,
    make_prompts,
    prompts_sha256,
)
from svdjobs.records import Problem

CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHAT_WITHOUT_BOS = CHAT.removeprefix("{{ bos_token }}")
SPECIAL = ["<bos>", "<eos>", "<|user|>", "<|assistant|>"]
BOS = 0


@cache
def tokenizer(processor: str | None = None, chat_template: str | None = None) -> Any:
    """Byte-level, so it reads every text; `processor` is what it puts around a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator([PLAIN_PROMPT], trainer)
    if processor:
        inner.post_processor = processors.TemplateProcessing(
            single=processor, special_tokens=[("<bos>", 0), ("<eos>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<bos>", eos_token="<eos>", chat_template=chat_template
    )


def problem(text: str = "What is 1+1?", idx: int = 0) -> Problem:
    return Problem(idx=idx, problem=text, gold="2")


def ids(style: str, tokens: Any, text: str = "What is 1+1?") -> list[int]:
    return list(make_prompts([problem(text)], style, tokens)[0].ids)


def test_plain_is_the_text_the_demo_was_trained_on() -> None:
    (prompt,) = make_prompts([problem()], "plain", tokenizer())
    assert prompt.text == prompt_of("What is 1+1?")
    assert tokenizer().decode(prompt.ids) == prompt.text


@pytest.mark.parametrize("style", ["plain", "chat", "Q: {problem}\nA:", "<bos>{problem}"])
@pytest.mark.parametrize("processor", ["<bos> $A", "<bos> $A <eos>"])
@pytest.mark.parametrize("template", [CHAT, CHAT_WITHOUT_BOS])
def test_exactly_one_bos_where_the_tokenizer_adds_one(
    style: str, processor: str, template: str
) -> None:
    found = ids(style, tokenizer(processor, template))
    assert found[0] == BOS
    assert found.count(BOS) == 1
    assert found[-1] != 1  # a prompt that ends in end-of-text would be answered with nothing


def test_tokenizer_that_adds_no_bos_gets_none() -> None:
    assert BOS not in ids("plain", tokenizer(None, CHAT_WITHOUT_BOS))
    assert BOS not in ids("plain", tokenizer("$A <eos>"))
    assert BOS not in ids("chat", tokenizer(None, CHAT_WITHOUT_BOS))
    assert ids("chat", tokenizer(None, CHAT)).count(BOS) == 1  # the template has written it


def test_chat_prompts_are_those_of_transformers() -> None:
    tokens = tokenizer("<bos> $A", CHAT)
    (prompt,) = make_prompts([problem("é {x}")], "chat", tokens)
    message = {"role": "user", "content": PLAIN_PROMPT.replace("{problem}", "é {x}")}
    expected = tokens.apply_chat_template(
        [message], add_generation_prompt=True, return_dict=True
    )["input_ids"]  # fmt: skip
    assert list(prompt.ids) == list(expected)
    assert prompt.text.endswith(r"within \boxed{}.<eos><|assistant|>")


def test_chat_needs_a_template_that_works() -> None:
    with pytest.raises(CheckpointError, match=r"has no chat template\. Set evaluate\.prompt to"):
        ids("chat", tokenizer())
    failing = tokenizer(None, "{{ raise_exception('only for tools') }}")
    with pytest.raises(CheckpointError, match=r"with TemplateError: only for tools"):
        ids("chat", failing)
    with pytest.raises(CheckpointError, match="single user message with TemplateSyntaxError"):
        ids("chat", tokenizer(None, "{% for %}"))


EVERYTHING = (
    "{% for m in messages %}\n  {%- if loop.index0 > 0 %}{% break %}{% endif %}\n"
    "  {% generation %}<{{ m.role | upper }}>{% endgeneration %}{{ m | tojson(indent=2) }}\n"
    "{% endfor %}{{ strftime_now('%Y') }}{{ tools is none }}{{ documents is none }}\n"
    "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}{{ add_generation_prompt }}\n"
)


def test_chat_templates_get_all_variables_of_transformers() -> None:
    tokens = tokenizer(None, EVERYTHING)
    (prompt,) = make_prompts([problem("é <x>")], "chat", tokens)
    message = {"role": "user", "content": PLAIN_PROMPT.replace("{problem}", "é <x>")}
    assert prompt.text == tokens.apply_chat_template(
        [message], add_generation_prompt=True, tokenize=False
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            "takes more than 1 s",
        ),
        ("{{ 'x' * 9999999999 }}", "needs more than 1024 MiB"),
        ("{{ 'x' * 2000000 }}", "makes a prompt of 2,000,000 characters"),
        ("{{ ''.__class__.__mro__ }}", "with SecurityError: access to attribute"),
        ("{% include '/etc/passwd' %}", "fails on a single user message with TypeError"),
    ],
)
def test_chat_templates_have_limits(
    template: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chat_template, "SECONDS", 1)
    with pytest.raises(CheckpointError, match=r"^the chat template of .* Set evaluate\.") as caught:
        ids("chat", tokenizer(None, template))
    assert words in str(caught.value)


def test_a_chat_template_that_waits_is_refused_with_the_limit_on_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chat_template, "_WALL_CLOCK_SECONDS", 0.01)
    with pytest.raises(CheckpointError, match=r"takes more than 0\.01 s"):
        ids("chat", tokenizer(None, "{{ bos_token }}"))


def test_replacement_is_literal() -> None:
    template = r"{problem} {0} {{}} %s \boxed{} {problem}"
    (prompt,) = make_prompts([problem(r"{a} \frac{1}{2} {problem}")], template, tokenizer())
    text = r"{a} \frac{1}{2} {problem}"
    assert prompt.text == rf"{text} {{0}} {{{{}}}} %s \boxed{{}} {text}"


@given(st.text(min_size=1).filter(lambda text: not any(s in text for s in SPECIAL)))
def test_any_text_comes_back_after_one_bos(text: str) -> None:
    with_bos, without = tokenizer("<bos> $A"), tokenizer()
    found = ids("{problem}", with_bos, text)
    assert found == [BOS, *ids("{problem}", without, text)]
    assert with_bos.decode(found[1:]) == text


def test_no_problems() -> None:
    assert make_prompts([], "plain", tokenizer()) == []
    assert make_requests([], [], 4, 0) == []
    assert len(prompts_sha256([])) == 64
    check_context_length({}, 10, 100)


def test_prompt_without_a_token() -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    blind = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))
    with pytest.raises(BenchmarkError, match=r"problem 3: the tokenizer has no token"):
        make_prompts([problem("é", idx=3)], "{problem}", blind)


def test_hashes_are_of_the_token_ids() -> None:
    problems = [problem("one", 0), problem("two", 1)]
    plain = make_prompts(problems, "plain", tokenizer())
    for prompt in plain:
        written = json.dumps(list(prompt.ids), separators=(",", ":")).encode()
        assert prompt.sha256 == hashlib.sha256(written).hexdigest()
    with_bos = make_prompts(problems, "plain", tokenizer("<bos> $A"))
    assert [p.text for p in plain] == [p.text for p in with_bos]
    hashes = {prompts_sha256(p) for p in (plain, with_bos, plain[::-1], plain[:1])}
    assert len(hashes) == 4
    # The same ids cut elsewhere are other prompts.
    first, second = (Prompt(0, "", cut, "") for cut in ((1, 2, 3), (4,)))
    third, fourth = (Prompt(0, "", cut, "") for cut in ((1, 2), (3, 4)))
    assert prompts_sha256([first, second]) != prompts_sha256([third, fourth])


def test_requests_share_ids_and_have_seeds_of_their_own() -> None:
    problems = [problem("longer than the other", 0), problem("short", 1)]
    prompts = make_prompts(problems, "plain", tokenizer())
    requests = make_requests(problems, prompts, 3, seed=5)
    assert [(r.idx, r.sample_index) for r in requests] == [(i, k) for i in (1, 0) for k in range(3)]
    assert all(r.prompt_ids == prompts[r.idx].ids for r in requests)
    assert len({r.seed for r in requests}) == 6


@pytest.mark.parametrize(
    ("max_tokens", "words"),
    [
        (
            61,
            r"problem 4: its prompt of 40 tokens and max_tokens 61 .* context of 100; .* to 60 or",
        ),
        (75, r"problem 4: .*\(2 problems are too long, this is the longest\); lower .* to 60 or"),
    ],
)
def test_prompts_that_do_not_fit(max_tokens: int, words: str) -> None:
    lengths = {3: 30, 4: 40, 5: 20}
    check_context_length(lengths, 100, 60)
    check_context_length(lengths, None, 10_000)
    with pytest.raises(BenchmarkError, match=words):
        check_context_length(lengths, 100, max_tokens)
    with pytest.raises(BenchmarkError, match="no max_tokens fits: leave that problem out"):
        check_context_length(lengths, 40, 1)


@given(st.dictionaries(st.integers(0, 99), st.integers(1, 50), min_size=1), st.integers(1, 60))
def test_the_stated_max_tokens_is_the_largest_that_fits(
    lengths: dict[int, int], context: int
) -> None:
    room = context - max(lengths.values())
    with pytest.raises(BenchmarkError):
        check_context_length(lengths, context, max(room, 0) + 1)
    if room > 0:
        check_context_length(lengths, context, room)


def test_saved_tokenizer_is_the_same_and_its_truncation_is_not_applied(tmp_path: Path) -> None:
    tokens = tokenizer("<bos> $A", CHAT)
    tokens.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    document["truncation"] = {
        "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    loaded = load_tokenizer(str(tmp_path))
    assert loaded.pad_token is None
    for style in ("plain", "chat"):
        assert ids(style, loaded) == ids(style, tokens)


def test_folders_without_a_tokenizer(tmp_path: Path, chain: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="no tokenizer in"):
        load_tokenizer(str(tmp_path))
    shutil.copytree(chain["base"], tmp_path / "broken")
    (tmp_path / "broken" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="no tokenizer in"):
        load_tokenizer(str(tmp_path / "broken"))
