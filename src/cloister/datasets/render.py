"""A row as token ids and a mask of what is trained on, by the tokenizer's own chat template.

Knows templates and tokenizers (any fast Hugging Face one, handed in); it does not know torch or models.
Supervised are the assistant's tokens, end of turn included, of every assistant turn, and nothing else.
What the model is asked at inference (`prompt_ids`) is by construction the beginning of what it was
trained on: a template or an answer for which that does not hold is refused, not repaired.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from cloister.datasets.rows import Message, Row
from cloister.errors import InvalidInput

SHOWN = 20
"""So many refused rows are named in the message; the rest are counted."""

LISTED = 1000
"""So many are listed by rule in the error's values."""

_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Rendered:
    """One row. `supervised[i]` says whether `input_ids[i]` is to be predicted from what precedes it.

    The first `prompt_length` tokens are what `prompt_ids` gives.
    """

    input_ids: list[int]
    supervised: list[bool]
    prompt_length: int


def render(row: Row, tokenizer: Any, *, template: str | None = None) -> Rendered:
    """One row rendered; see `render_all`, which is faster for many."""
    return render_all([row], tokenizer, template=template)[0]


def render_all(
    rows: Sequence[Row],
    tokenizer: Any,
    *,
    template: str | None = None,
    max_length: int | None = None,
    numbers: Sequence[int] | None = None,
) -> list[Rendered]:
    """Render rows, all or none.

    Args:
        tokenizer: a fast tokenizer of `transformers`.
        template: a chat template in place of the tokenizer's own.
        max_length: the most tokens a row may have.
        numbers: the rows' numbers in their dataset, for messages (their positions by default).

    Raises:
        InvalidInput: there is no chat template, or rows cannot be rendered so that prompts stay prompts,
            have no supervised token, or are too long; all of them are told at once, by number; `values`
            has the first numbers (`rows`) and the counts (`counts`) by rule.
    """
    template = _template(tokenizer, template)
    refused: list[tuple[int, str]] = []
    rendered = _render(rows, tokenizer, template)
    done: list[Rendered] = []
    for position, item in enumerate(rendered):
        number = numbers[position] if numbers is not None else position
        if isinstance(item, str):
            refused.append((number, item))
        elif not any(item.supervised):
            refused.append((number, "has no supervised token"))
        elif max_length is not None and len(item.input_ids) > max_length:
            refused.append((number, f"is longer than {max_length} tokens"))
        else:
            done.append(item)
    if refused:
        raise _refusal(refused, len(rows))
    return done


def prompt_ids(row: Row, tokenizer: Any, *, template: str | None = None) -> list[int]:
    """What the model is asked: every turn but the last, and the template's generation prompt."""
    return prompt_ids_all([row], tokenizer, template=template)[0]


def prompt_ids_all(rows: Sequence[Row], tokenizer: Any, *, template: str | None = None) -> list[list[int]]:
    """`prompt_ids` of many rows at once."""
    template = _template(tokenizer, template)
    texts = _texts([row.prompt for row in rows], tokenizer, template, prompt=True)
    return _token_ids(texts, tokenizer)


def _template(tokenizer: Any, template: str | None) -> str:
    if not getattr(tokenizer, "is_fast", False):
        raise InvalidInput("a fast tokenizer (tokenizer.json) is needed")
    try:
        return str(tokenizer.get_chat_template(template))
    except ValueError:
        raise InvalidInput(
            "the tokenizer has no chat template", where="tokenizer_config.json", remedy="Give one."
        ) from None


def _render(rows: Sequence[Row], tokenizer: Any, template: str) -> list[Rendered | str]:
    """Each row, or what is wrong with it."""
    if not rows:
        return []
    turns = [
        (r, t) for r, row in enumerate(rows) for t, m in enumerate(row.messages) if m.role == "assistant"
    ]
    before = _texts([rows[r].messages[:t] for r, t in turns], tokenizer, template, prompt=True)
    prompts = dict(zip(turns, _token_ids(before, tokenizer), strict=True))
    if _MARKERS.search(template):
        ids, masks, faults = _by_markers(rows, prompts, tokenizer, template)
    else:
        ids, masks, faults = _by_prefixes(rows, prompts, tokenizer, template)
    text_of_token = _special_texts(tokenizer)
    bos = tokenizer.bos_token_id
    results: list[Rendered | str] = []
    for r, row in enumerate(rows):
        if text_of_token is not None and any(text_of_token.search(m.content) for m in row.messages):
            results.append("has text that the tokenizer reads as a special token")
        elif bos is not None and ids[r][:2] == [bos, bos]:
            results.append("begins with more than one beginning-of-sequence token")
        elif r in faults:
            results.append(faults[r])
        else:
            results.append(Rendered(ids[r], masks[r], len(prompts[r, len(row.messages) - 1])))
    return results


_Turn = tuple[int, int]
_Masked = tuple[list[list[int]], list[list[bool]], dict[int, str]]
_NOT_A_PREFIX = "does not begin with its own prompt in this chat template"
_NO_END = "has an answer that this chat template does not end with a special token"


def _by_markers(
    rows: Sequence[Row], prompts: dict[_Turn, list[int]], tokenizer: Any, template: str
) -> _Masked:
    """Ids, masks and faults where the template itself marks what is generated.

    The end of turn is added where a template leaves it outside its markers.
    """
    whole = tokenizer.apply_chat_template(
        _conversations(row.messages for row in rows),
        chat_template=template,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    ids: list[list[int]] = whole["input_ids"]
    masks = [list(map(bool, mask)) for mask in whole["assistant_masks"]]
    special = _special_ids(tokenizer)
    faults: dict[int, str] = {}
    for (r, t), prompt in prompts.items():
        begin, row_ids, mask = len(prompt), ids[r], masks[r]
        if row_ids[:begin] != prompt:
            faults.setdefault(r, _NOT_A_PREFIX)
            continue
        before = begin
        while before and mask[before - 1]:
            before -= 1
        mask[before:begin] = [False] * (begin - before)
        stop = len(prompts[r, t + 2]) if (r, t + 2) in prompts else len(mask)
        end = begin
        while end < stop and not mask[end]:
            end += 1
        while end < stop and mask[end]:
            end += 1
        if end < stop and row_ids[end - 1] not in special and row_ids[end] in special:
            mask[end] = True
            end += 1
        if not mask[end - 1] or row_ids[end - 1] not in special:
            faults.setdefault(r, _NO_END)
    return ids, masks, faults


def _by_prefixes(
    rows: Sequence[Row], prompts: dict[_Turn, list[int]], tokenizer: Any, template: str
) -> _Masked:
    """Ids, masks and faults for any other template.

    A turn reaches from its prompt to where the text ends when no turn follows; what stands behind its last
    special token (a newline) is not trained on.
    """
    texts = _texts([row.messages for row in rows], tokenizer, template, prompt=False)
    inner = [(r, t) for r, t in prompts if t + 1 < len(rows[r].messages)]
    cut = _texts([rows[r].messages[: t + 1] for r, t in inner], tokenizer, template, prompt=False)
    ends = dict(zip(inner, cut, strict=True))
    encoded = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=True
    )
    ids: list[list[int]] = encoded["input_ids"]
    masks = [[False] * len(row_ids) for row_ids in ids]
    special = _special_ids(tokenizer)
    faults: dict[int, str] = {}
    for (r, t), prompt in prompts.items():
        begin, row_ids, offsets = len(prompt), ids[r], encoded["offset_mapping"][r]
        end_text = ends.get((r, t), texts[r])
        if row_ids[:begin] != prompt:
            faults.setdefault(r, _NOT_A_PREFIX)
            continue
        if not texts[r].startswith(end_text):
            faults.setdefault(
                r, "has a turn that this chat template writes differently when more turns follow"
            )
            continue
        end = begin
        while end < len(row_ids) and offsets[end][1] <= len(end_text):
            end += 1
        while end > begin and row_ids[end - 1] not in special:
            end -= 1
        if end == begin:
            faults.setdefault(r, _NO_END)
        masks[r][begin:end] = [True] * (end - begin)
    return ids, masks, faults


def _texts(
    conversations: Sequence[Sequence[Message]], tokenizer: Any, template: str, *, prompt: bool
) -> list[str]:
    if not conversations:
        return []
    try:
        texts: list[str] = tokenizer.apply_chat_template(
            _conversations(conversations),
            chat_template=template,
            tokenize=False,
            add_generation_prompt=prompt,
        )
    except Exception as error:
        # A template may raise on purpose (no system turn, say); its text could quote the row.
        raise InvalidInput(
            f"the chat template refuses a row ({type(error).__name__})",
            where="chat template",
            remedy="Some templates take no system turn.",
        ) from None
    return texts


def _conversations(turns: Iterable[Sequence[Message]]) -> list[list[dict[str, str]]]:
    return [[{"role": m.role, "content": m.content} for m in messages] for messages in turns]


def _token_ids(texts: list[str], tokenizer: Any) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)[
        "input_ids"
    ]
    return ids


def _special_ids(tokenizer: Any) -> frozenset[int]:
    added = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
    return frozenset(chain(added, tokenizer.all_special_ids))


def _special_texts(tokenizer: Any) -> re.Pattern[str] | None:
    """Finds any text that would become a special token. A row's content must hold none."""
    texts = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    texts = {text for text in texts if text}
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True)))) if texts else None


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
        remedy="Leave these rows out, shorten them, or use another template.",
        values={
            "rows": {rule: numbers[:LISTED] for rule, numbers in by_rule.items()},
            "counts": {rule: len(numbers) for rule, numbers in by_rule.items()},
        },
    )
