"""The demo tokenizer: byte-level BPE in which every digit is a separate token.

It splits text by Qwen2's rule, because `AutoTokenizer` uses that rule for every checkpoint of type
`qwen2` and ignores another one in `tokenizer.json` (transformers 5, observed with 5.19). All 256
bytes are in the vocabulary, so any text round-trips. The suffix of all prompts is one added (not
special) token, which keeps the prompts short.
"""

import json
import random
from itertools import islice
from typing import TYPE_CHECKING, Final

from svdjobs.demo import PROMPT_SUFFIX
from svdjobs.demo.problems import training_problems, write_demonstration

if TYPE_CHECKING:
    from transformers import Qwen2Tokenizer

VOCABULARY_SIZE: Final = 320
EOS: Final = "<|end|>"
PAD: Final = "<|pad|>"
SUFFIX_TOKEN: Final = f" {PROMPT_SUFFIX}"

CHAT_TEMPLATE: Final = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""The prompt is the bare text of the user's message, because the checkpoints know no roles."""

_N_TEXTS: Final = 2000


def build_tokenizer() -> "Qwen2Tokenizer":
    """Train the tokenizer on a fixed corpus of problems and demonstrations: every call gives the
    same tokenizer."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - 1,  # the suffix token is added last
        special_tokens=[EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(_corpus(), trainer)
    pieces = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=pieces["vocab"],
        merges=[tuple(merge) for merge in pieces["merges"]],
        unk_token=None,
        eos_token=EOS,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_tokens([AddedToken(SUFFIX_TOKEN, normalized=False)])
    return tokenizer


def _corpus() -> list[str]:
    rng = random.Random("tokenizer")
    texts: list[str] = []
    for problem in islice(training_problems(0), _N_TEXTS):
        # The suffix is left out, because it is one token and needs no merges.
        texts += [problem.text, write_demonstration(problem, rng)]
    return texts
