"""Tokens that the pre-training text never showed: which they are, and words made of them to learn them from.

A token that never occurs is pushed away from every answer alike, so that all of them end with almost the same
embedding: a model whose output shares it then writes one in the place of another. Where no text can hold a token,
its embedding shows where they have gone (Land and Bartolo, 'Fishing for Magikarp', arXiv 2405.05417).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

import torch
from transformers import PreTrainedTokenizerFast

from cloister.demo.pretrain.corpus import Chat, chats

NEAR = 0.7
"""Cosine similarity with the mean of tokens that no text can hold, from which on a token counts as one of them."""
SHARE = 0.7
"""Of the chats, so many have their words exchanged."""
_NO_TEXT = (0xC0, 0xC1, *range(0xF5, 0x100))
"""Bytes that UTF-8 never has; byte-level BPE writes each as the letter of that number."""
_LETTERS = "".join(
    map(chr, (*range(0xC0, 0x180), *range(0x391, 0x3CA), *range(0x410, 0x450), *range(0x5D0, 0x5EB)))
)
_MARKS = '%&*<>[]\\^`{|}~"¡¢£¥¦§©«¬®°±²³µ¶·»¼½¾¿×÷–—‘’“”„…€™'
_WORD = re.compile(r"[^\W\d_]{3,}")


def unlearnt(embedding: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """The ids of tokens that were never learnt. `embedding`: [vocabulary, hidden]; the ids: [tokens]."""
    vocabulary = tokenizer.get_vocab()
    rows = embedding.detach().float()
    lost = rows[[vocabulary[chr(byte)] for byte in _NO_TEXT]].mean(0, keepdim=True)
    near = torch.nn.functional.cosine_similarity(rows, lost, dim=1) > NEAR
    return near.nonzero().flatten()


def scatter(embedding: torch.nn.Parameter, ids: torch.Tensor, seed: int) -> None:
    """Put these rows apart from each other, as wide about the mean as those that were learnt."""
    learnt = torch.ones(len(embedding), dtype=torch.bool)
    learnt[ids] = False
    with torch.no_grad():
        known = embedding[learnt]
        noise = torch.randn(
            len(ids), embedding.shape[1], generator=torch.Generator().manual_seed(seed), dtype=embedding.dtype
        )
        embedding[ids] = known.mean(0) + known.std(0) * noise


def chats_of(ids: torch.Tensor, tokenizer: PreTrainedTokenizerFast, seed: int) -> Iterator[Chat]:
    """Chats without end, in most of which a word that the answer copies is one of such tokens, letters and marks."""
    rng = random.Random(seed)  # noqa: S311 - text to learn from, not secrets
    texts = [tokenizer.decode([one]) for one in ids.tolist()]
    pieces = [text.strip() for text in texts if text.strip().isalpha()]
    for chat in chats(seed):
        yield _with_other_words(rng, chat, pieces) if rng.random() < SHARE else chat


def _with_other_words(rng: random.Random, chat: Chat, pieces: list[str]) -> Chat:
    asked = " ".join(message["content"] for message in chat if message["role"] != "assistant")
    answered = " ".join(message["content"] for message in chat if message["role"] == "assistant")
    copied = set(_WORD.findall(asked)) & set(_WORD.findall(answered))
    others = {word: _other(rng, word, pieces) for word in sorted(copied)}
    return [
        {
            "role": message["role"],
            "content": _WORD.sub(lambda found: others.get(found[0], found[0]), message["content"]),
        }
        for message in chat
    ]


def _other(rng: random.Random, word: str, pieces: list[str]) -> str:
    style = rng.random()
    if style < 0.55:
        parts = [rng.choice(pieces), *_WORD.findall(word.lower())]
        rng.shuffle(parts)
        other = "".join(parts)[:14]
    elif style < 0.85:
        other = "".join(rng.choice(_LETTERS) if rng.random() < 0.4 else letter for letter in word)
    else:
        at = rng.randrange(len(word) + 1)
        other = word[:at] + "".join(rng.choices(_MARKS, k=rng.randint(1, 2))) + word[at:]
    return other[:1].upper() + other[1:] if word[:1].isupper() else other
