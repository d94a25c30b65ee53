"""Tokenizers in SentencePiece's form (Llama 2's, Mistral's): a space belongs to the token after it, none is lost."""

from __future__ import annotations

from itertools import chain

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from cloister.datasets import Message, Row, render
from cloister.datasets.render import prompt_ids, spans

TEXTS = [
    "Well, thanks. And now? Name a tree: the birch, the cedar, the walnut.",
    "[INST] How are you? [/INST] Be brief. The heron stands in the reeds  twice.",
    "a b c d e f g h i j k l m n o p q r s t u v w x y z 0 1 2 3 4 5 6 7 8 9 ( ) \" ' - { } : !",
] * 20
SPECIAL = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{number:02X}>" for number in range(256)]

INST = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
MARKED = INST.replace(
    "{% else %} {{ m['content'] }}{{ eos_token }}",
    "{% else %}{% generation %} {{ m['content'] }}{{ eos_token }}{% endgeneration %}",
)


def llama_2() -> Tokenizer:
    """BPE with bytes to fall back on; the space is put before everything and taken off again when decoding."""
    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")  # so that no merge crosses a space
    raw.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL + BYTES))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.pre_tokenizer = pre_tokenizers.Split(Regex("(?<=[^▁])(?=▁)"), "isolated")
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return raw


def unigram() -> Tokenizer:
    raw = Tokenizer(models.Unigram())
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    raw.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=200, special_tokens=SPECIAL, unk_token="<unk>")
    )
    raw.decoder = decoders.Metaspace(prepend_scheme="first")
    return raw


@pytest.fixture(scope="module", params=[llama_2, unigram], ids=["llama-2", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=request.param(), unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def talk(*contents: str) -> Row:
    roles = ("user", "assistant") * (len(contents) // 2)
    return Row(tuple(Message(role, content) for role, content in zip(roles, contents, strict=True)))


ROWS = [
    talk("How are you?", "Well, thanks."),
    talk("How are you?", "Well, thanks.", "And now?", "The heron stands."),
    talk("Name a tree:", "(birch)"),
    talk("Name a tree:", "twice  the reeds", "a", "b"),
]


@pytest.mark.parametrize("template", [INST, MARKED], ids=["prefixes", "markers"])
@pytest.mark.parametrize("row", ROWS)
def test_masks_are_exact_and_no_space_is_lost(
    tokenizer: PreTrainedTokenizerFast, template: str, row: Row
) -> None:
    rendered = render(row, tokenizer, template=template)
    found = spans(rendered, tokenizer)
    answers = [message.content for message in row.messages if message.role == "assistant"]
    assert [span.text for span in found if span.supervised] == [f" {text}</s>" for text in answers]
    whole = tokenizer.decode(rendered.input_ids, clean_up_tokenization_spaces=False)
    assert "".join(span.text for span in found) == whole
    # Token by token: learnt are those that begin within an answer and its end, and no others.
    text = tokenizer.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in row.messages], chat_template=template, tokenize=False
    )
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert encoded["input_ids"] == rendered.input_ids
    at, places = 0, []
    for answer in answers:
        begin = text.index(f"[/INST] {answer}</s>", at) + len("[/INST]")
        at = begin + len(f" {answer}</s>")
        places.append(range(begin, at))
    inside = set(chain.from_iterable(places))
    begins = [begin if text[begin : begin + 1] else end for begin, end in encoded["offset_mapping"]]
    assert rendered.supervised == [begin in inside for begin in begins]
    assert prompt_ids(row, tokenizer, template=template) == rendered.input_ids[: rendered.prompt_length]
