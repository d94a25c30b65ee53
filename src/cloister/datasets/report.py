"""What there is to know of a dataset before anybody trains on it, in one pass and bounded memory.

Numbers only: no text, no label's name. Knows rows, tokenizers as they come, and the counters; not who reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cloister.api import DatasetReport, LabelFigures, LossOn, NearFigures, PersonalFigures, RepeatFigures
from cloister.datasets.duplicates import COMPARED, NearFinder, RepeatCounter
from cloister.datasets.figures import Lengths
from cloister.datasets.reader import DatasetReader
from cloister.datasets.rows import Row
from cloister.datasets.sides import sided_rows
from cloister.datasets.split import HOLDOUT
from cloister.errors import InvalidInput

if TYPE_CHECKING:
    from cloister.datasets.personal.replacing import RowRewriter

BATCH = 256
BATCH_CHARACTERS = 1 << 20
NAMED = 10
"""So many row numbers are told of each thing that is wrong."""
SHOWN_LABELS = 100
MOST_TURNS = 20


class Tokens:
    """Counts tokens as training would render the rows, and the rows that it would not take, by rule."""

    def __init__(
        self, tokenizer: Any, *, max_length: int | None = None, loss_on: LossOn = "assistant"
    ) -> None:
        self._tokenizer = tokenizer
        self._loss_on = loss_on
        self._max_length = max_length
        self.lengths = Lengths()
        self.supervised = 0
        self.lost: Counter[str] = Counter()
        self.first: dict[str, list[int]] = {}

    def add(self, numbers: Sequence[int], rows: Sequence[Row]) -> None:
        """Take in some rows with their numbers."""
        plain = [n for n, row in enumerate(rows) if row.text is not None]
        if plain:
            texts = [rows[n].text or "" for n in plain]
            encoded = self._tokenizer(texts, add_special_tokens=True, return_attention_mask=False)[
                "input_ids"
            ]
            for ids in encoded:
                self._count(len(ids), len(ids))
        turned = [n for n, row in enumerate(rows) if row.text is None]
        self._render([numbers[n] for n in turned], [rows[n] for n in turned])

    def _render(self, numbers: list[int], rows: list[Row]) -> None:
        if not rows:
            return
        from cloister.datasets.render import render_all

        try:
            rendered = render_all(rows, self._tokenizer, loss_on=self._loss_on, numbers=numbers)
        except InvalidInput as error:
            refused: dict[str, list[int]] = error.values.get("rows", {})
            bad = {number for found in refused.values() for number in found}
            if bad:
                for rule, found in refused.items():
                    for number in found:
                        self._lose(rule, number)
                left = [(number, row) for number, row in zip(numbers, rows, strict=True) if number not in bad]
                self._render([number for number, _ in left], [row for _, row in left])
            elif error.where != "chat template":
                raise  # about the tokenizer, not about a row
            elif len(rows) == 1:
                self._lose("is refused by the chat template", numbers[0])
            else:
                half = len(rows) // 2
                self._render(numbers[:half], rows[:half])
                self._render(numbers[half:], rows[half:])
            return
        for number, one in zip(numbers, rendered, strict=True):
            length = len(one.input_ids)
            self._count(length, sum(one.supervised))
            if self._max_length is not None and length > self._max_length:
                self._lose(f"is longer than {self._max_length} tokens", number)

    def _count(self, length: int, supervised: int) -> None:
        self.lengths.add(length)
        self.supervised += supervised

    def _lose(self, rule: str, number: int) -> None:
        self.lost[rule] += 1
        first = self.first.setdefault(rule, [])
        if len(first) < NAMED:
            first.append(number)


def report_on(
    dataset: DatasetReader,
    *,
    tokens: Tokens | None = None,
    personal: RowRewriter | None = None,
    personal_every: int = 1,
    quality: bool = True,
    progress: Callable[[int, int], None],
) -> DatasetReport:
    """Read every row once.

    Args:
        tokens: counts tokens, where a tokenizer is at hand.
        personal: counts personal data, in every `personal_every`-th row.
        quality: whether duplicates, conflicts and lengths are looked for; without, only the other two.
        progress: gets rows done and rows in all; may raise to stop.
    """
    meta = dataset.meta
    characters, turns = Lengths(), Counter[int]()
    repeats, near = RepeatCounter(), NearFinder() if quality else None
    every = _strides(meta.train_rows, meta.holdout_rows)
    seen = [0, 0]
    empty: list[int] = []
    empties = with_system = with_tools = plain = looked_at = 0
    numbers: list[int] = []
    batch: list[Row] = []
    pending = 0
    for number, row, side in sided_rows(dataset):
        if number % BATCH == 0:
            progress(number, len(dataset))
        size = row.characters if quality or tokens is not None else 0
        if quality:
            characters.add(size)
            turns[min(len(row.messages), MOST_TURNS)] += 1
            with_system += any(message.role == "system" for message in row.messages)
            with_tools += any(message.tool_calls or message.role == "tool" for message in row.messages)
            plain += row.text is not None
            last = row.messages[-1] if row.messages else None
            if not row.answer.strip() and not (last is not None and last.tool_calls):
                empties += 1
                if len(empty) < NAMED:
                    empty.append(number)
            repeats.add(row, side)
            if near is not None and seen[side] % every[side] == 0:
                near.add(number, row, side)
            seen[side] += 1
        if personal is not None and number % personal_every == 0:
            personal(row)
            looked_at += 1
        if tokens is not None:
            numbers.append(number)
            batch.append(row)
            pending += size
            if len(batch) == BATCH or pending >= BATCH_CHARACTERS:
                tokens.add(numbers, batch)
                numbers, batch, pending = [], [], 0
    if tokens is not None:
        tokens.add(numbers, batch)
    progress(len(dataset), len(dataset))
    found = repeats.counts()
    alike = near.find() if near is not None else None
    labels = sorted(meta.labels.items(), key=lambda item: (-item[1], item[0]))
    return DatasetReport(
        rows=meta.rows,
        train_rows=meta.train_rows,
        holdout_rows=meta.holdout_rows,
        task=meta.task,
        characters=characters.figures(),
        turns=dict(sorted(turns.items())),
        with_system=with_system,
        with_tools=with_tools,
        plain_text=plain,
        labels=LabelFigures(distinct=len(labels), rows=[count for _, count in labels[:SHOWN_LABELS]])
        if labels
        else None,
        empty_answers=empties,
        first_empty=empty,
        repeats=RepeatFigures(
            one_in=found.one_in,
            duplicates=found.duplicates,
            conflicting_inputs=found.conflicting_inputs,
            conflicting_rows=found.conflicting_rows,
            leaked=found.leaked,
        )
        if quality
        else None,
        near=NearFigures(
            compared=alike.compared,
            similar=alike.similar,
            leaked=alike.leaked,
            first=list(alike.numbers[:NAMED]),
        )
        if alike is not None
        else None,
        tokens=tokens.lengths.figures() if tokens is not None else None,
        supervised_tokens=tokens.supervised if tokens is not None else 0,
        lost=dict(tokens.lost) if tokens is not None else {},
        first_lost=tokens.first if tokens is not None else {},
        personal=PersonalFigures(looked_at=looked_at, rows=personal.rows, found=personal.counts())
        if personal is not None
        else None,
    )


def _strides(train_rows: int, holdout_rows: int) -> tuple[int, int]:
    """Of each side's rows every how many-th is compared, so that both together are at most `COMPARED`."""
    holdout = max(1, -(-holdout_rows // (COMPARED // 2)))
    left = COMPARED - -(-holdout_rows // holdout)
    strides = [1, 1]
    strides[HOLDOUT], strides[1 - HOLDOUT] = holdout, max(1, -(-train_rows // left))
    return strides[0], strides[1]
