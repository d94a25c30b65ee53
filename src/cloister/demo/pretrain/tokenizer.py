"""The base model's tokenizer: byte-level BPE trained on the generated text, and its chat template.

Digits are tokens of their own, and only lower-case words swallow the space before them, so that a
name, code or number has the same tokens wherever it stands: that is what makes copying easy to learn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from cloister.demo.pretrain import words
from cloister.demo.pretrain.corpus import chats
from cloister.demo.pretrain.grammar import everyday, expand, intents

PAD, BOS, SYSTEM, USER, ASSISTANT, END = (
    "<|pad|>",
    "<|begin|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
SPECIALS = (PAD, BOS, SYSTEM, USER, ASSISTANT, END)

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{- '<|assistant|>' -}}
{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}
{%- elif message['role'] == 'system' -%}
{{- '<|system|>' + message['content'] + '<|end|>' -}}
{%- elif message['role'] == 'user' -%}
{{- '<|user|>' + message['content'] + '<|end|>' -}}
{%- else -%}
{{- raise_exception('A role is system, user or assistant.') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""

_PIECES = (
    r" ?\p{Ll}+| ?I(?![\p{L}\p{N}\-./_#])|\p{Lu}\p{Ll}+|\p{Lu}+|\p{L}|\p{N}|\p{M}+|'\p{Ll}+"
    r"| ?[^\s\p{L}\p{N}\p{M}]+|\s*[\r\n]|\s"
)


def _texts(seed: int, rows: int) -> Iterator[str]:
    """Texts to learn the vocabulary from: mostly sentences, so that few merges go to the made-up strings."""
    rng = random.Random(seed)  # noqa: S311 - text to learn from, not secrets
    plain = [
        words.THINGS,
        words.COLOURS,
        words.FOODS,
        words.ANIMALS,
        words.SPORTS,
        words.SUBJECTS,
        words.HOBBIES,
    ]
    banks = [*plain, words.JOBS, words.PEOPLE, words.SHOPS, words.NUMBERS]
    for chat in islice(chats(seed), rows // 3):
        yield from (message["content"] for message in chat)
        for _ in range(3):
            yield expand(rng, rng.choice(everyday()))
            yield " " + expand(rng, rng.choice(everyday())).lower()
            yield expand(rng, rng.choice(rng.choice(intents()).templates))
        yield f" {rng.choice(rng.choice(banks))} {rng.choice(rng.choice(banks))}"


def train_tokenizer(vocab_size: int, seed: int, rows: int = 60_000) -> PreTrainedTokenizerFast:
    """The tokenizer, with its chat template (which marks the assistant's tokens) set."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_texts(seed, rows), trainer)
    begin = backend.token_to_id(BOS)
    backend.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, begin)]
            ),
        ]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_max_length=1024,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
