"""Rows as token ids in memory: tokenised once, checked all at once, handed out as padded or packed batches.

Padding stands on the right and is known by its position: attention is causal, so no real token ever sees
it, and no padded position is supervised. Long plain texts become several rows, windows of them. Knows no model and no
optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloister.api import LossOn
from cloister.datasets.render import Rendered, render_all
from cloister.datasets.rows import Row
from cloister.errors import InvalidInput
from cloister.models.borders import Borders

CHUNK = 512
"""Rows that are rendered at once."""

WIDTH_STEP = 8
"""Batches are padded to a multiple of so many tokens: few shapes, so few kernels to prepare."""

SHOWN = 20
"""How many row numbers of one rule a refusal names before it only counts."""


@dataclass(frozen=True)
class RowSource:
    """Some rows of a dataset: `rows[i]` for each i of `indices`; messages name a row by that i."""

    rows: Any
    indices: Sequence[int]
    name: str = "the dataset"

    def __len__(self) -> int:
        return len(self.indices)

    def row(self, position: int) -> Row:
        """The row at `position` among the chosen ones."""
        row: Row = self.rows[int(self.indices[position])]
        return row


@dataclass(frozen=True)
class Batch:
    """Rows side by side, each from the left; or with `borders` end to end in one line.

    `input_ids` [rows, length] int64, `supervised` of the same shape, bool. `tokens` counts no padding.
    """

    input_ids: Tensor
    supervised: Tensor
    tokens: int
    borders: Borders | None = None


@dataclass(frozen=True, eq=False)
class TokenRows:
    """Every row's ids in one array, row i between `offsets[i]` and `offsets[i + 1]`."""

    input_ids: NDArray[np.int32]
    supervised: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    supervised_counts: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.lengths)

    @classmethod
    def of(cls, rows: Sequence[tuple[Sequence[int], Sequence[bool]]]) -> TokenRows:
        """From each row's ids and mask."""
        return cls._joined([_arrays(ids, mask) for ids, mask in rows])

    @classmethod
    def _joined(cls, rows: Sequence[tuple[NDArray[np.int32], NDArray[np.bool_]]]) -> TokenRows:
        lengths = np.array([len(ids) for ids, _ in rows], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        input_ids = np.empty(int(offsets[-1]), dtype=np.int32)
        supervised = np.empty(int(offsets[-1]), dtype=np.bool_)
        counts = np.empty(len(rows), dtype=np.int64)
        for i, (ids, mask) in enumerate(rows):
            place = slice(int(offsets[i]), int(offsets[i + 1]))
            input_ids[place], supervised[place] = ids, mask
            counts[i] = np.count_nonzero(supervised[place][1:])  # the first token of a row is never predicted
        return cls(input_ids, supervised, offsets, lengths, counts)

    def batch(self, indices: Sequence[int], device: torch.device | str = "cpu") -> Batch:
        """The rows of `indices`, padded on the right to one width that holds the longest of them."""
        width = padded_width(int(self.lengths[list(indices)].max()))
        ids = np.zeros((len(indices), width), dtype=np.int64)
        mask = np.zeros((len(indices), width), dtype=np.bool_)
        tokens = 0
        for slot, i in enumerate(indices):
            length, place = int(self.lengths[i]), slice(int(self.offsets[i]), int(self.offsets[i + 1]))
            ids[slot, :length], mask[slot, :length] = self.input_ids[place], self.supervised[place]
            tokens += length
        return Batch(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device), tokens)

    def packed(self, indices: Sequence[int], device: torch.device | str = "cpu") -> Batch:
        """The rows of `indices` end to end, one line without padding. No row's first token is supervised."""
        places = [slice(int(self.offsets[i]), int(self.offsets[i + 1])) for i in indices]
        ids = np.concatenate([self.input_ids[place] for place in places]).astype(np.int64)
        mask = np.concatenate([self.supervised[place] for place in places])
        lengths = tuple(int(self.lengths[i]) for i in indices)
        mask[np.cumsum((0, *lengths[:-1]))] = False
        return Batch(
            torch.from_numpy(ids)[None].to(device),
            torch.from_numpy(mask)[None].to(device),
            len(ids),
            Borders.of(lengths, device),
        )

    def by_length(self, batch_size: int) -> list[list[int]]:
        """All rows in batches of like length, longest first, always in the same order."""
        order = np.argsort(-self.lengths, kind="stable").tolist()
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def tokenise(
    source: RowSource,
    tokenizer: Any,
    max_length: int,
    *,
    loss_on: LossOn = "assistant",
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenRows:
    """Render every row with the tokenizer's chat template; plain texts as they are, in windows of `max_length`.

    A text's windows share one token each, the last of one being the first of the next: so every token but the text's
    first is predicted, once.

    Raises:
        InvalidInput: rows that are too long, have nothing to learn from, or do not render; all of them in
            one message, by number, without content. No conversation is ever cut, and nothing is left out.
    """
    rendered: list[tuple[NDArray[np.int32], NDArray[np.bool_]]] = []
    refused: dict[str, list[int]] = {}
    for start in range(0, len(source), CHUNK):
        positions = range(start, min(start + CHUNK, len(source)))
        numbers = [int(source.indices[position]) for position in positions]
        rows = [source.row(position) for position in positions]
        try:
            items = render_all(rows, tokenizer, loss_on=loss_on, max_length=max_length, numbers=numbers)
        except InvalidInput as error:
            if "rows" not in error.values:
                raise
            for rule, bad in error.values["rows"].items():
                refused.setdefault(rule, []).extend(bad)
            continue
        for row, item in zip(rows, items, strict=True):
            rendered.extend(_pieces(item, max_length) if not row.messages else [_whole(item)])
        if on_progress is not None:
            on_progress(positions.stop, len(source))
    if refused:
        count = sum(map(len, refused.values()))
        told = "; ".join(f"{rule}: {_numbers(bad)}" for rule, bad in refused.items())
        raise InvalidInput(
            f"{count} of {len(source)} rows cannot be used ({told}).",
            where=source.name,
            remedy="Raise max_length, or mend those rows: nothing is truncated or left out silently.",
            values={"rows": refused},
        )
    return TokenRows._joined(rendered)


def padded_width(longest: int) -> int:
    """How wide a padded batch is whose longest row has so many tokens."""
    return -(-longest // WIDTH_STEP) * WIDTH_STEP


def _arrays(ids: Sequence[int], mask: Sequence[bool]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    return np.array(ids, dtype=np.int32), np.array(mask, dtype=np.bool_)


def _whole(item: Rendered) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    return _arrays(item.input_ids, item.supervised)


def _pieces(item: Rendered, max_length: int) -> list[tuple[NDArray[np.int32], NDArray[np.bool_]]]:
    ids, mask = _whole(item)
    step = max_length - 1
    return [
        (ids[at : at + max_length], mask[at : at + max_length]) for at in range(0, max(1, len(ids) - 1), step)
    ]


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN]))
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"{'row' if len(numbers) == 1 else 'rows'} {shown}{more}"
