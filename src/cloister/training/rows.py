"""Rows as token ids in memory: tokenised once, checked all at once, handed out as padded batches.

Padding stands on the right and is known by its position: attention is causal, so no real token ever sees
it, and no padded position is supervised. Knows no model and no optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cloister.datasets.render import render_all
from cloister.datasets.rows import Row
from cloister.errors import InvalidInput

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
    """Rows side by side, each from the left.

    `input_ids` [rows, length] int64, `supervised` of the same shape, bool.
    """

    input_ids: Tensor
    supervised: Tensor
    tokens: int


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
        width = -(-int(self.lengths[list(indices)].max()) // WIDTH_STEP) * WIDTH_STEP
        ids = np.zeros((len(indices), width), dtype=np.int64)
        mask = np.zeros((len(indices), width), dtype=np.bool_)
        tokens = 0
        for slot, i in enumerate(indices):
            length, place = int(self.lengths[i]), slice(int(self.offsets[i]), int(self.offsets[i + 1]))
            ids[slot, :length], mask[slot, :length] = self.input_ids[place], self.supervised[place]
            tokens += length
        return Batch(torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device), tokens)

    def by_length(self, batch_size: int) -> list[list[int]]:
        """All rows in batches of like length, longest first, always in the same order."""
        order = np.argsort(-self.lengths, kind="stable").tolist()
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def tokenise(
    source: RowSource,
    tokenizer: Any,
    max_length: int,
    *,
    on_progress: Callable[[int, int], None] | None = None,
) -> TokenRows:
    """Render every row with the tokenizer's chat template.

    Raises:
        InvalidInput: rows that are too long, have nothing to learn from, or do not render; all of them in
            one message, by number, without content. Nothing is ever cut or left out.
    """
    rendered: list[tuple[Sequence[int], Sequence[bool]]] = []
    refused: dict[str, list[int]] = {}
    for start in range(0, len(source), CHUNK):
        positions = range(start, min(start + CHUNK, len(source)))
        numbers = [int(source.indices[position]) for position in positions]
        rows = [source.row(position) for position in positions]
        try:
            items = render_all(rows, tokenizer, max_length=max_length, numbers=numbers)
        except InvalidInput as error:
            if "rows" not in error.values:
                raise
            for rule, bad in error.values["rows"].items():
                refused.setdefault(rule, []).extend(bad)
            continue
        rendered.extend((item.input_ids, item.supervised) for item in items)
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
    return TokenRows.of(rendered)


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN]))
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"{'row' if len(numbers) == 1 else 'rows'} {shown}{more}"
