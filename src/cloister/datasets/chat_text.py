"""Conversations as a chat template writes them, and that text as token ids.

Knows templates and tokenizers of `transformers`, handed in; not what of a text is trained on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import chain
from typing import Any

from cloister.datasets.conversation import Conversation
from cloister.errors import InvalidInput

_OPEN_THOUGHT = re.compile(r"<(?:think|thinking|thought|reasoning)>\s*\Z", re.IGNORECASE)


def opened_thought(prompt: str) -> str:
    """The beginning of a thought that a template ends a prompt with (`<think>` and a line break, for DeepSeek R1), so
    that the answer goes on within it; empty where there is none."""
    found = _OPEN_THOUGHT.search(prompt)
    return found[0] if found else ""


def texts_of(
    conversations: Sequence[Conversation], tokenizer: Any, template: str, *, prompt: bool
) -> list[str]:
    """Each conversation as the template writes it; with `prompt` up to where an answer would begin.

    Raises InvalidInput where the template refuses one of them, saying nothing of it.
    """
    texts = [""] * len(conversations)
    try:
        for tools, members in by_tools(conversations):
            made = tokenizer.apply_chat_template(
                [turns for _, turns in members],
                tools=tools,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=prompt,
            )
            for (position, _), text in zip(members, made, strict=True):
                texts[position] = text
    except Exception as error:
        # A template may raise on purpose (no system turn, say); its text could quote the row.
        raise InvalidInput(
            f"the chat template refuses a row ({type(error).__name__})",
            where="chat template",
            remedy="Some templates take no system turn.",
        ) from None
    return texts


def by_tools(
    conversations: Sequence[Conversation],
) -> list[tuple[list[Any] | None, list[tuple[int, list[dict[str, Any]]]]]]:
    """Conversations with their positions, those of the same tools together: a call takes one list of tools."""
    groups: dict[str | None, list[tuple[int, list[dict[str, Any]]]]] = {}
    for position, each in enumerate(conversations):
        groups.setdefault(each.tools, []).append((position, each.turns))
    return [(None if tools is None else json.loads(tools), members) for tools, members in groups.items()]


def token_ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """Texts that a template wrote, as ids: nothing is put around them."""
    if not texts:
        return []
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def special_ids(tokenizer: Any) -> frozenset[int]:
    """The ids of all special tokens."""
    added = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset(chain(added, tokenizer.all_special_ids))


def special_texts(tokenizer: Any) -> re.Pattern[str] | None:
    """Finds any text that would become a special token. A row's content must hold none."""
    texts = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    texts = {text for text in texts if text}
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True)))) if texts else None
