"""How a model that was not tuned is asked: with an instruction, with examples, with the examples nearest by BM25.

Examples are turns of the conversation before the question. As many as fit into the context, none cut. Knows rows and
token counts; it does not know which model answers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cloister.datasets.render import Rendered, prompt_ids_all, render_all
from cloister.datasets.rows import Message, Row
from cloister.errors import InvalidInput
from cloister.evaluation.metrics import spoken, words

FRAMES = ("Please answer this. {}", "{}\nThank you.", "I have the following for you: {}")
"""The same question in other words around it; none changes what is asked."""

Ids = list[int]


@dataclass(frozen=True)
class Prompts:
    """What is asked, a row each. `examples` is how many came before the question, on average over the rows."""

    rows: tuple[Row, ...]
    input_ids: list[Ids]
    examples: float
    instructed: bool

    @property
    def tokens(self) -> float:
        """The mean length of a prompt, in tokens."""
        return sum(map(len, self.input_ids)) / len(self.input_ids)


def plain(rows: Sequence[Row], tokenizer: Any) -> Prompts:
    """Each row asked as it stands, which is how a tuned model learnt it."""
    return Prompts(tuple(rows), prompt_ids_all(rows, tokenizer), 0.0, False)


def fitted(
    rows: Sequence[Row],
    tokenizer: Any,
    most_tokens: int,
    *,
    instruction: str | None,
    examples: Sequence[Sequence[Row]],
) -> Prompts:
    """Each row asked after its examples, the nearest of them last, and the instruction before all.

    Where a prompt would be longer than `most_tokens`, examples are left out from the front; the instruction is, for
    all rows, where it does not fit by itself.
    """
    if instruction is not None:
        bare = prompt_ids_all([asked(row, instruction, ()) for row in rows], tokenizer)
        if max(map(len, bare)) > most_tokens:
            instruction = None
    counts = [len(some) for some in examples]
    chosen: dict[int, tuple[Row, Ids]] = {}
    waiting = list(range(len(rows)))
    while waiting:
        tried = [asked(rows[i], instruction, examples[i][len(examples[i]) - counts[i] :]) for i in waiting]
        left = []
        for i, row, ids in zip(waiting, tried, prompt_ids_all(tried, tokenizer), strict=True):
            if len(ids) <= most_tokens or counts[i] == 0:
                chosen[i] = row, ids
            else:
                counts[i] -= 1
                left.append(i)
        waiting = left
    return Prompts(
        tuple(chosen[i][0] for i in range(len(rows))),
        [chosen[i][1] for i in range(len(rows))],
        sum(counts) / len(rows),
        instruction is not None,
    )


def alike_for_all(
    rows: Sequence[Row],
    tokenizer: Any,
    most_tokens: int,
    *,
    instruction: str | None,
    examples: Sequence[Row],
) -> Prompts:
    """The same examples before every row: as many as fit before the longest of them. Where none fits beside the
    instruction, they stand without it."""
    for told in dict.fromkeys((instruction, None)):
        for count in range(len(examples), 0, -1):
            shots = [examples[:count]] * len(rows)
            found = fitted(rows, tokenizer, most_tokens, instruction=told, examples=shots)
            if found.examples == count:
                return found
    return fitted(rows, tokenizer, most_tokens, instruction=instruction, examples=[()] * len(rows))


def framed(rows: Sequence[Row], frame: str) -> list[Row]:
    """The same rows with their last question put into a frame."""
    made = []
    for row in rows:
        last = max((i for i, turn in enumerate(row.prompt) if turn.role == "user"), default=None)
        turns = list(row.messages)
        if last is not None:
            turns[last] = Message("user", frame.format(turns[last].content))
        made.append(Row(tuple(turns), tools=row.tools))
    return made


def asked(row: Row, instruction: str | None, examples: Sequence[Row]) -> Row:
    """One row as it is asked: its system turns, the examples, its question; the instruction opens the first turn."""
    systems = [turn for turn in row.prompt if turn.role == "system"]
    shown = [turn for example in examples for turn in example.messages if turn.role != "system"]
    turns = [*systems, *shown, *(turn for turn in row.prompt if turn.role != "system")]
    if instruction is not None:
        for i, turn in enumerate(turns):
            if turn.role == "user":
                turns[i] = Message("user", f"{instruction}\n\n{turn.content}")
                break
    return Row((*turns, row.messages[-1]), tools=row.tools)


def expected(rows: Sequence[Row], tokenizer: Any) -> list[str]:
    """Each row's answer as a model is to write it: where it calls functions, in the words of the chat template.

    Errors: InvalidInput where the template cannot write one of these.
    """
    calling = [row for row in rows if row.messages[-1].tool_calls]
    found = iter(render_all(calling, tokenizer, loss_on="last") if calling else ())
    return [_written(next(found), tokenizer) if row.messages[-1].tool_calls else row.answer for row in rows]


def _written(rendered: Rendered, tokenizer: Any) -> str:
    answer = zip(rendered.input_ids, rendered.supervised, strict=True)
    learnt = [token for token, supervised in answer if supervised]
    return str(tokenizer.decode(learnt, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def spelt_out(examples: Sequence[Row], tokenizer: Any) -> list[Row]:
    """Examples that end with calls, with these as words: a call that nothing answers ends a conversation, for some
    templates. What the template cannot write stays as it is."""
    try:
        answers = expected(examples, tokenizer)
    except InvalidInput:
        return list(examples)
    return [
        Row(
            (*row.prompt, Message("assistant", spoken(answer))), row.label, tools=row.tools, groups=row.groups
        )
        if row.messages[-1].tool_calls
        else row
        for row, answer in zip(examples, answers, strict=True)
    ]


def few_shot(pool: Sequence[Row], count: int, seed: int) -> list[Row]:
    """A seeded choice of training rows, each label as often as every other (as far as `count` goes)."""
    draw = random.Random(seed)  # noqa: S311 - a choice of examples, no secret
    order = list(pool)
    draw.shuffle(order)
    by_label: dict[str | None, list[Row]] = {}
    for row in order:
        by_label.setdefault(row.label, []).append(row)
    chosen: list[Row] = []
    while by_label and len(chosen) < count:
        for label in list(by_label):
            chosen.append(by_label[label].pop())
            if not by_label[label]:
                del by_label[label]
    return chosen[:count]


class Retriever:
    """Training rows by the words of their questions, with BM25. The index lies in memory only."""

    def __init__(self, pool: Sequence[Row]) -> None:
        import bm25s

        self._pool = pool
        self._index = bm25s.BM25(backend="numpy")
        self._index.index([_terms(row) for row in pool], show_progress=False)

    def nearest(self, rows: Sequence[Row], count: int) -> list[list[Row]]:
        """Of each row the `count` nearest, the nearest last: it stands next to the question."""
        count = min(count, len(self._pool))
        found = []
        for row in rows:
            terms = _terms(row)
            scores = self._index.get_scores(terms) if terms else np.zeros(len(self._pool), np.float32)
            best = np.argsort(-scores, kind="stable")[:count]
            found.append([self._pool[int(i)] for i in best[::-1]])
        return found


def _terms(row: Row) -> list[str]:
    """A row's question as words. A question without any gets one that no other has."""
    return words(" ".join(turn.content for turn in row.prompt if turn.role != "system")) or ["\0"]
