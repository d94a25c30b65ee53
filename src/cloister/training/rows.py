"""Rows as token ids in memory: tokenised once, checked all at once, handed out as padded or packed batches.

They are kept once, at `planning.memory.BYTES_A_TOKEN`, also while they are made. Padding stands on the right and is
known by its position: attention is causal, so no real token ever sees it, and no padded position is supervised. Long
plain texts become several rows, windows of them. Knows no model and no optimizer.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
        growing = _Growing()
        for ids, mask in rows:
            growing.add(ids, mask)
        return growing.done()

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

    def hardest(self, count: int, *, packed: bool, device: torch.device | str = "cpu") -> Batch:
        """The largest batch of `count` rows that may come: each as long as the longest row, and as much of it learnt as
        of the row of which most is. What a probe is made with."""
        longest = int(self.lengths.argmax())
        made = (self.packed if packed else self.batch)([longest] * count, device)
        length, most = int(self.lengths[longest]), int(self.supervised_counts.max())
        learnt = torch.zeros_like(made.supervised)
        (learnt.view(count, length) if packed else learnt)[:, length - most : length] = True
        return replace(made, supervised=learnt)

    def by_length(self, batch_size: int) -> list[list[int]]:
        """All rows in batches of like length, longest first, always in the same order."""
        order = np.argsort(-self.lengths, kind="stable").tolist()
        return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


class _Growing:
    """Rows one after another in two blocks of memory that grow where they lie: no second copy of them is ever held."""

    def __init__(self) -> None:
        self._ids = array("i")
        self._mask = bytearray()
        self._lengths = array("q")
        self._counts = array("q")

    def add(self, ids: Sequence[int], mask: Sequence[bool]) -> None:
        self._ids.extend(ids)
        self._mask.extend(mask)
        self._lengths.append(len(ids))
        self._counts.append(sum(mask[1:]))  # the first token of a row is never predicted

    def done(self) -> TokenRows:
        """All of them. Nothing can be added any more."""
        lengths = np.array(self._lengths, dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        if not len(self._ids):
            return TokenRows(
                np.empty(0, np.int32),
                np.empty(0, np.bool_),
                offsets,
                lengths,
                np.array(self._counts, np.int64),
            )
        return TokenRows(
            np.frombuffer(self._ids, dtype=np.int32),
            np.frombuffer(self._mask, dtype=np.bool_),
            offsets,
            lengths,
            np.array(self._counts, dtype=np.int64),
        )


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
    rendered = _Growing()
    refused: dict[str, list[int]] = {}
    for start in range(0, len(source), CHUNK):
        positions = range(start, min(start + CHUNK, len(source)))
        numbers = [int(source.indices[position]) for position in positions]
        rows = [source.row(position) for position in positions]
        items = _rendered(rows, numbers, tokenizer, loss_on, max_length, refused)
        if len(items) < len(rows):
            continue
        for row, item in zip(rows, items, strict=True):
            if row.messages:
                rendered.add(item.input_ids, item.supervised)
            else:
                _add_windows(rendered, item, max_length)
        if on_progress is not None:
            on_progress(positions.stop, len(source))
    if refused:
        count = sum(map(len, refused.values()))
        told = "; ".join(f"{rule}: {_numbers(bad)}" for rule, bad in refused.items())
        raise InvalidInput(
            f"{count} of {len(source)} rows cannot be used ({told}).",
            where=source.name,
            remedy="Raise max_length, take another template, or mend those rows: nothing is cut or left out silently.",
            values={"rows": refused},
        )
    return rendered.done()


def _rendered(
    rows: Sequence[Row],
    numbers: Sequence[int],
    tokenizer: Any,
    loss_on: LossOn,
    max_length: int,
    refused: dict[str, list[int]],
) -> list[Rendered]:
    """The rows rendered; where some cannot be, not all of them, and these by rule in `refused`."""
    try:
        return render_all(rows, tokenizer, loss_on=loss_on, max_length=max_length, numbers=numbers)
    except InvalidInput as error:
        for rule, bad in error.values.get("rows", {}).items():
            refused.setdefault(rule, []).extend(bad)
        if "rows" in error.values:
            return []
        if error.where != "chat template":
            raise  # about the tokenizer, not about a row
    if len(rows) == 1:
        refused.setdefault("is refused by the chat template", []).append(numbers[0])
        return []
    half = len(rows) // 2  # which row it is a template does not say
    parts = (slice(0, half), slice(half, len(rows)))
    found = [_rendered(rows[part], numbers[part], tokenizer, loss_on, max_length, refused) for part in parts]
    return found[0] + found[1]


def padded_width(longest: int) -> int:
    """How wide a padded batch is whose longest row has so many tokens."""
    return -(-longest // WIDTH_STEP) * WIDTH_STEP


def _add_windows(rows: _Growing, item: Rendered, max_length: int) -> None:
    ids, mask = item.input_ids, item.supervised
    for at in range(0, max(1, len(ids) - 1), max_length - 1):
        rows.add(ids[at : at + max_length], mask[at : at + max_length])


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:SHOWN]))
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"{'row' if len(numbers) == 1 else 'rows'} {shown}{more}"
