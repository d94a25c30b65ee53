"""Greedy answers for many prompts at once, equal to those of one prompt at a time.

Prompts go through in batches of like length, padded on the left and told apart by position, never by
token id; a batch shrinks as its rows end. Knows token ids only: no rows, no metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from cloister.evaluation.loss import stop_if


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
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> list[list[int]]:
    """The most likely continuation of each prompt, token by token.

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
    try:
        for start in range(0, len(order), batch_size):
            stop_if(should_stop)
            rows = order[start : start + batch_size]
            for row, answer in zip(
                rows, _continue(model, [prompts[i] for i in rows], max_new_tokens, stops), strict=True
            ):
                answers[row] = answer
            if on_progress is not None:
                on_progress(start + len(rows), len(order))
    finally:
        model.train(was_training)
    return answers


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


def _continue(
    model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: frozenset[int]
) -> list[list[int]]:
    """One batch. Rows that ended leave the batch once they are half of it."""
    from transformers import DynamicCache

    device = next(model.parameters()).device
    longest = max(map(len, prompts))
    ids = torch.zeros((len(prompts), longest), dtype=torch.long)
    mask = torch.zeros((len(prompts), longest), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    padded = not bool(mask.all())
    positions = (mask.cumsum(1) - 1).clamp_(min=0)
    cache = DynamicCache(config=model.config)
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
        ids = logits[:, -1].argmax(-1, keepdim=True)
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
