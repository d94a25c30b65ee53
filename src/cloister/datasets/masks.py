"""Which tokens of a rendered conversation are the assistant's: by a template's own markers, or by rendering prefixes.

Knows templates and tokenizers, handed in; what of it is learnt, and which rows are refused, is `render`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cloister.datasets.chat_text import by_tools, special_ids, texts_of, token_ids
from cloister.datasets.conversation import conversation
from cloister.datasets.rows import Row

Turn = tuple[int, int]
"""A row and one of its turns, by their positions."""
_Masked = tuple[list[list[int]], list[list[bool]], dict[int, str]]
NOT_A_PREFIX = "does not begin with its own prompt in this chat template"
_DIFFERS = "has a turn that this chat template writes differently when more turns follow"
_NO_END = "has an answer that this chat template does not end with a special token"


def by_markers(rows: Sequence[Row], prompts: dict[Turn, list[int]], tokenizer: Any, template: str) -> _Masked:
    """Ids, masks and faults where the template itself marks what is generated.

    The end of turn is added where a template leaves it outside its markers.
    """
    ids: list[list[int]] = [[] for _ in rows]
    masks: list[list[bool]] = [[] for _ in rows]
    for tools, members in by_tools([conversation(row) for row in rows]):
        whole = tokenizer.apply_chat_template(
            [turns for _, turns in members],
            tools=tools,
            chat_template=template,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        for n, (r, _) in enumerate(members):
            ids[r], masks[r] = whole["input_ids"][n], list(map(bool, whole["assistant_masks"][n]))
    special = special_ids(tokenizer)
    faults: dict[int, str] = {}
    for (r, t), prompt in prompts.items():
        begin, row_ids, mask = len(prompt), ids[r], masks[r]
        if row_ids[:begin] != prompt:
            faults.setdefault(r, NOT_A_PREFIX)
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


def by_prefixes(
    rows: Sequence[Row], prompts: dict[Turn, list[int]], texts: list[str], tokenizer: Any, template: str
) -> _Masked:
    """Ids, masks and faults for any other template, which made `texts` of the rows.

    A turn reaches from its prompt to where the text ends when no turn follows; what stands behind its last
    special token (a newline) is not trained on. Some templates write the last turn otherwise (Qwen 3 puts an empty
    thought before it, Phi 3 the end of the text behind its end): there an earlier turn reaches to a token that ends the
    last one, if its text is in between.
    """
    inner = [(r, t) for r, t in prompts if t + 1 < len(rows[r].messages)]
    cut = texts_of([conversation(rows[r], t + 1) for r, t in inner], tokenizer, template, prompt=False)
    ends = dict(zip(inner, cut, strict=True))
    encoded = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=True
    )
    ids: list[list[int]] = encoded["input_ids"]
    masks = [[False] * len(row_ids) for row_ids in ids]
    special = special_ids(tokenizer)
    faults: dict[int, str] = {}
    for (r, t), prompt in prompts.items():
        begin, row_ids, offsets = len(prompt), ids[r], encoded["offset_mapping"][r]
        end_text = ends.get((r, t), texts[r])
        if row_ids[:begin] != prompt:
            faults.setdefault(r, NOT_A_PREFIX)
            continue
        end = begin
        if texts[r].startswith(end_text):
            while end < len(row_ids) and offsets[end][1] <= len(end_text):
                end += 1
        else:
            later = (prompts[r, n] for n in range(t + 1, len(rows[r].messages)) if (r, n) in prompts)
            stop = len(next(later, row_ids))
            alone = token_ids([end_text], tokenizer)[0]
            own = alone[begin:] if alone[:begin] == prompt else []
            closing = [token for token in own or alone if token in special]
            end = _closed(row_ids[begin:stop], closing if own else closing[-1:]) + begin
            said = texts[r][offsets[begin][0] : offsets[end - 1][1]] if end > begin else ""
            if rows[r].messages[t].content.strip() not in said or not said:
                faults.setdefault(r, _DIFFERS)
                continue
        while end > begin and row_ids[end - 1] not in special:
            end -= 1
        if end == begin:
            faults.setdefault(r, _NO_END)
        masks[r][begin:end] = [True] * (end - begin)
    return ids, masks, faults


def _closed(after: Sequence[int], closing: Sequence[int]) -> int:
    """How many tokens behind its prompt an answer has, its end included: to the last one of `closing`, which end it
    where no turn follows, that is there. 0 where none is."""
    return next((after.index(token) + 1 for token in reversed(closing) if token in after), 0)
