"""Greedy answers for many prompts at once, equal to those of one prompt at a time.

Prompts go through in batches of like length, padded on the left and told apart by position, never by
token id; a batch shrinks as its rows end. What all prompts begin with (an instruction, examples) goes through the
model once. Knows token ids, and of text how a thought begins: no rows, no figures.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, Protocol

import torch
from torch import Tensor

from cloister.datasets.chat_text import opened_thought
from cloister.evaluation.loss import stop_if
from cloister.evaluation.metrics import thinks_on

SHARED_AT_LEAST = 32
"""Tokens that prompts have to begin with alike for these to go through the model by themselves."""
OPENING = 16
"""Tokens at the end of a prompt that a thought's opening takes at most, a letter a token."""


class HasEos(Protocol):
    """The one thing asked of a tokenizer here."""

    @property
    def eos_token_id(self) -> int | None: ...


@torch.no_grad()
def greedy(
    model: Any,
    tokenizer: HasEos,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_size: int,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, token by token; with a `temperature` a drawn one, by `seed`.

    Args:
        model: a causal language model of transformers; it is put into evaluation mode and back.
        prompts: token ids, each at least one long.
        max_new_tokens: where a row is cut off that does not end by itself.
        on_progress: called with (prompts answered, prompts) after each batch.
        should_stop: asked before each batch; on True, Interrupted is raised.

    Returns:
        Token ids in the order of the prompts, each with the token that ended it where one did.
    """
    stops = stop_ids(model, tokenizer)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]), reverse=True)
    answers: list[list[int]] = [[] for _ in prompts]
    was_training = model.training
    model.eval()
    draw = torch.Generator().manual_seed(seed)
    try:
        shared = _shared(model, prompts)
        for start in range(0, len(order), batch_size):
            stop_if(should_stop)
            rows = order[start : start + batch_size]
            chosen = [prompts[i] for i in rows]
            made = _continue(model, chosen, max_new_tokens, stops, shared, temperature, draw)
            for row, answer in zip(rows, made, strict=True):
                answers[row] = answer
            if on_progress is not None:
                on_progress(start + len(rows), len(order))
    finally:
        model.train(was_training)
    return answers


def ended(model: Any, tokenizer: HasEos, answers: Sequence[Sequence[int]]) -> list[bool]:
    """Of each answer, whether it ended by itself; else it was cut off."""
    stops = stop_ids(model, tokenizer)
    return [bool(answer) and answer[-1] in stops for answer in answers]


def texts(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> list[str]:
    """The answers to these prompts as text, for those who tell thoughts from what is said.

    Where a prompt ends within a thought that its template opened, the answer begins with that opening. One that the
    model ended by itself without ending the thought never was in it: it stands as it is.
    """
    done = ended(model, tokenizer, answers)
    found = []
    for prompt, text, whole in zip(prompts, decode(tokenizer, answers), done, strict=True):
        opening = opened_thought(
            tokenizer.decode(list(prompt[-OPENING:]), clean_up_tokenization_spaces=False)
        )
        within = bool(opening) and not (whole and thinks_on(opening + text))
        found.append(opening + text if within else text)
    return found


def decode(tokenizer: Any, answers: Sequence[Sequence[int]]) -> list[str]:
    """Answers as text, special tokens left out."""
    return [
        str(tokenizer.decode(list(answer), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        for answer in answers
    ]


def stop_ids(model: Any, tokenizer: HasEos) -> frozenset[int]:
    """The tokens that end an answer: the generation config's, the model config's and the tokenizer's."""
    found: set[int] = set()
    for value in (
        getattr(getattr(model, "generation_config", None), "eos_token_id", None),
        getattr(getattr(model, "config", None), "eos_token_id", None),
        tokenizer.eos_token_id,
    ):
        if isinstance(value, int):
            found.add(value)
        elif value is not None:
            found.update(int(v) for v in value)
    return frozenset(found)


def _shared(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[int, Any]:
    """How many tokens all prompts begin with alike, and the cache of these for one row; 0 and None where it does not
    pay, or where a layer looks back over so many tokens only: it counts padding in."""
    from transformers import DynamicCache

    config = getattr(model.config, "text_config", None) or model.config
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*prompts, strict=False))
    length = min(sum(1 for _ in alike), min(map(len, prompts)) - 1) if len(prompts) > 1 else 0
    slides = getattr(config, "sliding_window", None) or "full_attention" not in (
        getattr(config, "layer_types", None) or ["full_attention"]
    )
    if length < SHARED_AT_LEAST or slides:
        return 0, None
    device = next(model.parameters()).device
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([list(prompts[0][:length])], device=device)
    model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return length, cache


def _continue(
    model: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    stops: frozenset[int],
    shared: tuple[int, Any] = (0, None),
    temperature: float = 0.0,
    draw: torch.Generator | None = None,
) -> list[list[int]]:
    """One batch. Rows that ended leave the batch once they are half of it. Padding stands behind what is shared."""
    from transformers import DynamicCache

    device = next(model.parameters()).device
    known, cache = shared
    longest = max(map(len, prompts)) - known
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        rest = prompt[known:]
        ids[row, longest - len(rest) :] = torch.tensor(rest)
        mask[row, longest - len(rest) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    padded = not bool(mask.all())
    positions = known + (mask.cumsum(1) - 1).clamp_(min=0)
    if cache is None:
        cache = DynamicCache(config=model.config)
    else:
        cache = copy.deepcopy(cache)
        cache.batch_repeat_interleave(len(prompts))
        mask = torch.cat([mask.new_ones((len(prompts), known)), mask], 1)
    answers: list[list[int]] = [[] for _ in prompts]
    rows = list(range(len(prompts)))  # which answer each row of the batch continues; -1 once it has ended
    for _ in range(max_new_tokens):
        logits: Tensor = model(
            input_ids=ids,
            attention_mask=mask if padded else None,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        ids = _chosen(logits[:, -1], temperature, draw)
        for slot, token in enumerate(ids.flatten().tolist()):
            row = rows[slot]
            if row >= 0:
                answers[row].append(token)
                if token in stops:
                    rows[slot] = -1
        alive = [slot for slot, row in enumerate(rows) if row >= 0]
        if not alive:
            break
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones((len(rows), 1))], 1)
        if len(alive) <= len(rows) // 2:
            keep = torch.tensor(alive, device=device)
            cache.batch_select_indices(keep)
            ids, mask, positions = ids[keep], mask[keep], positions[keep]
            rows = [rows[slot] for slot in alive]
    return answers


def _chosen(logits: Tensor, temperature: float, draw: torch.Generator | None) -> Tensor:
    """The next token of each row [rows, 1]."""
    if not temperature:
        return logits.argmax(-1, keepdim=True)
    shares = torch.softmax(logits.float() / temperature, -1).cpu()
    return torch.multinomial(shares, 1, generator=draw).to(logits.device)
