"""A row as token ids and a mask of what is trained on, by the tokenizer's chat template.

Knows templates and tokenizers (any fast Hugging Face one, handed in); it does not know torch or models.
Supervised are the assistant's tokens, end of turn included, of every assistant turn, unless asked otherwise.
What the model is asked at inference (`prompt_ids`) is by construction the beginning of what it was
trained on: a template or an answer for which that does not hold is refused, not repaired.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from cloister.api import LossOn
from cloister.datasets.chat_text import opened_thought, special_texts, texts_of, token_ids
from cloister.datasets.conversation import conversation, tool_fault, turn_fault
from cloister.datasets.masks import NOT_A_PREFIX, by_markers, by_prefixes
from cloister.datasets.rows import Row
from cloister.errors import InvalidInput

SHOWN = 20
"""So many refused rows are named in the message; the rest are counted."""

BEGINNING = 64
"""So many tokens of a plain text, at most, are what a model is asked to go on from."""

LISTED = 1000
"""So many are listed by rule in the error's values."""

_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Rendered:
    """One row. `supervised[i]` says whether `input_ids[i]` is to be predicted from what precedes it.

    The first `prompt_length` tokens are what `prompt_ids` gives; of a plain text it is 0.
    """

    input_ids: list[int]
    supervised: list[bool]
    prompt_length: int


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a rendered row, all of it supervised or none."""

    text: str
    supervised: bool


def render(
    row: Row, tokenizer: Any, *, template: str | None = None, loss_on: LossOn = "assistant", number: int = 0
) -> Rendered:
    """One row rendered; see `render_all`, which is faster for many."""
    return render_all([row], tokenizer, template=template, loss_on=loss_on, numbers=[number])[0]


def spans(rendered: Rendered, tokenizer: Any) -> list[Span]:
    """A rendered row as text again, cut where its mask changes: what a person looks at.

    Together they are the text of the whole row, to the letter. A stretch is what the row's text gains by its tokens:
    decoded by itself it would lose the space that SentencePiece writes into its first token.
    """

    def text_of(tokens: list[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    found: list[Span] = []
    known, at = "", 0
    for supervised, run in groupby(rendered.supervised):
        begun, at = at, at + len(list(run))
        text = text_of(rendered.input_ids[:at])
        # A letter of several tokens that the mask cuts has no text of its own on either side.
        gained = text[len(known) :] if text.startswith(known) else text_of(rendered.input_ids[begun:at])
        found.append(Span(gained, supervised))
        known = text
    return found


def render_all(
    rows: Sequence[Row],
    tokenizer: Any,
    *,
    template: str | None = None,
    loss_on: LossOn = "assistant",
    max_length: int | None = None,
    numbers: Sequence[int] | None = None,
) -> list[Rendered]:
    """Render rows, all or none. A row of plain text is tokenised as the tokenizer does by itself, all of it supervised.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        template: a chat template in place of the tokenizer's own.
        loss_on: which tokens of a conversation are supervised.
        max_length: the most tokens a conversation may have; a plain text may have any number.
        numbers: the rows' numbers in their dataset, for messages (their positions by default).

    Raises:
        InvalidInput: there is no chat template, or rows cannot be rendered so that prompts stay prompts,
            have no supervised token, or are too long; all of them are told at once, by number; `values`
            has the first numbers (`rows`) and the counts (`counts`) by rule.
    """
    refused: list[tuple[int, str]] = []
    chats = [i for i, row in enumerate(rows) if row.messages]
    rendered: list[Rendered | str] = [""] * len(rows)
    if chats:
        found = _render([rows[i] for i in chats], tokenizer, _template(tokenizer, template), loss_on)
        for i, item in zip(chats, found, strict=True):
            rendered[i] = item if isinstance(item, str) else _learnt(item, loss_on)
    for i, item in _plain_texts(rows, tokenizer):
        rendered[i] = item
    done: list[Rendered] = []
    for position, item in enumerate(rendered):
        number = numbers[position] if numbers is not None else position
        if isinstance(item, str):
            refused.append((number, item))
        elif not any(item.supervised):
            refused.append((number, "has no supervised token"))
        elif max_length is not None and len(item.input_ids) > max_length and rows[position].messages:
            refused.append((number, f"is longer than {max_length} tokens"))
        else:
            done.append(item)
    if refused:
        raise _refusal(refused, len(rows))
    return done


def prompt_ids(row: Row, tokenizer: Any, *, template: str | None = None) -> list[int]:
    """What the model is asked: every turn but the last, and the template's generation prompt.

    Raises InvalidInput for a row of plain text, which asks nothing.
    """
    return prompt_ids_all([row], tokenizer, template=template)[0]


def prompt_ids_all(rows: Sequence[Row], tokenizer: Any, *, template: str | None = None) -> list[list[int]]:
    """`prompt_ids` of many rows at once."""
    if not all(row.messages for row in rows):
        raise InvalidInput("rows of plain text have no prompt that a model could be asked")
    template = _template(tokenizer, template)
    asked = [conversation(row, len(row.messages) - 1) for row in rows]
    return token_ids(texts_of(asked, tokenizer, template, prompt=True), tokenizer)


def asked_ids(rows: Sequence[Row], tokenizer: Any) -> list[list[int]]:
    """Something to go on from, for every row: a conversation's prompt, or the beginning of a plain text."""
    chats = [i for i, row in enumerate(rows) if row.messages]
    asked: list[list[int]] = [[] for _ in rows]
    for i, ids in zip(
        chats, prompt_ids_all([rows[i] for i in chats], tokenizer) if chats else [], strict=True
    ):
        asked[i] = ids
    for i, item in _plain_texts(rows, tokenizer):
        if not isinstance(item, str):
            asked[i] = item.input_ids[: max(1, min(BEGINNING, len(item.input_ids) // 2))]
    return asked


def _learnt(rendered: Rendered, loss_on: LossOn) -> Rendered:
    if loss_on == "assistant":
        return rendered
    if loss_on == "all":
        mask = [True] * len(rendered.supervised)
    else:
        begin = rendered.prompt_length
        mask = [False] * begin + rendered.supervised[begin:]
    return Rendered(rendered.input_ids, mask, rendered.prompt_length)


def _plain_texts(rows: Sequence[Row], tokenizer: Any) -> list[tuple[int, Rendered | str]]:
    """Rows without turns, by position: their text with what the tokenizer itself puts around a text."""
    plain = [i for i, row in enumerate(rows) if not row.messages]
    if not plain:
        return []
    encoded = tokenizer(
        [rows[i].text or "" for i in plain],
        add_special_tokens=True,
        return_attention_mask=False,
        verbose=False,
    )["input_ids"]
    special = special_texts(tokenizer)
    found: list[tuple[int, Rendered | str]] = []
    for i, ids in zip(plain, encoded, strict=True):
        if special is not None and special.search(rows[i].text or ""):
            found.append((i, _SPECIAL))
        else:
            found.append((i, Rendered(ids, [True] * len(ids) if len(ids) > 1 else [False] * len(ids), 0)))
    return found


def _template(tokenizer: Any, template: str | None) -> str:
    if not getattr(tokenizer, "is_fast", False):
        raise InvalidInput("a fast tokenizer (tokenizer.json) is needed")
    try:
        return str(tokenizer.get_chat_template(template))
    except ValueError:
        raise InvalidInput(
            "the tokenizer has no chat template", where="tokenizer_config.json", remedy="Give one."
        ) from None


def _render(rows: Sequence[Row], tokenizer: Any, template: str, loss_on: LossOn) -> list[Rendered | str]:
    """Each conversation, or what is wrong with it."""
    results: list[Rendered | str] = [""] * len(rows)
    kept: list[int] = []
    for r, row in enumerate(rows):
        fault = tool_fault(row, lambda given: texts_of([given], tokenizer, template, prompt=False)[0])
        if fault is None:
            kept.append(r)
        else:
            results[r] = fault
    for r, item in zip(
        kept, _render_kept([rows[r] for r in kept], tokenizer, template, loss_on), strict=True
    ):
        results[r] = item
    return results


def _render_kept(rows: Sequence[Row], tokenizer: Any, template: str, loss_on: LossOn) -> list[Rendered | str]:
    if not rows:
        return []
    turns = [
        (r, t)
        for r, row in enumerate(rows)
        for t, m in enumerate(row.messages)
        if m.role == "assistant" and (loss_on != "last" or t == len(row.messages) - 1)
    ]
    before = texts_of([conversation(rows[r], t) for r, t in turns], tokenizer, template, prompt=True)
    prompts = dict(zip(turns, token_ids(before, tokenizer), strict=True))
    texts = texts_of(list(map(conversation, rows)), tokenizer, template, prompt=False)
    if _MARKERS.search(template):
        ids, masks, faults = by_markers(rows, prompts, tokenizer, template)
    else:
        ids, masks, faults = by_prefixes(rows, prompts, texts, tokenizer, template)
    for (r, _), text in zip(turns, before, strict=True):
        if faults.get(r) == NOT_A_PREFIX and opened_thought(text):
            faults[r] = _NO_THOUGHT
    text_of_token = special_texts(tokenizer)
    bos = tokenizer.bos_token_id
    learnt: list[set[int]] = [set() for _ in rows]
    for r, t in turns:
        learnt[r].add(t)
    results: list[Rendered | str] = []
    for r, row in enumerate(rows):
        if text_of_token is not None and any(text_of_token.search(text) for text in _content(row)):
            results.append(_SPECIAL)
        elif bos is not None and ids[r][:2] == [bos, bos]:
            results.append("begins with more than one beginning-of-sequence token")
        elif fault := faults.get(r) or turn_fault(row, texts[r], learnt[r]):
            results.append(fault)
        else:
            results.append(Rendered(ids[r], masks[r], len(prompts[r, len(row.messages) - 1])))
    return results


def _content(row: Row) -> Iterator[str]:
    """What of a conversation a template writes."""
    for message in row.messages:
        yield message.content
        for call in message.tool_calls:
            yield call.name
            yield call.arguments
    if row.tools is not None:
        yield row.tools


_NO_THOUGHT = "is written without the thought that this chat template opens in every prompt"
_SPECIAL = "has text that the tokenizer reads as a special token"


def _refusal(refused: Sequence[tuple[int, str]], total: int) -> InvalidInput:
    by_rule: dict[str, list[int]] = {}
    for number, rule in refused:
        by_rule.setdefault(rule, []).append(number)
    told = "; ".join(
        f"{rule}: row{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers[:SHOWN]))}"
        + (f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else "")
        for rule, numbers in by_rule.items()
    )
    return InvalidInput(
        f"{len(refused)} of {total} rows cannot be rendered ({told})",
        where="chat template",
        remedy="Leave these rows out, shorten them, learn the last turn alone (loss on last), or use another template.",
        values={
            "rows": {rule: numbers[:LISTED] for rule, numbers in by_rule.items()},
            "counts": {rule: len(numbers) for rule, numbers in by_rule.items()},
        },
    )
