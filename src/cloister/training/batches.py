"""Which rows each optimizer step has, and how they go through the model: packed or padded, so many at a time.

The rows of a step depend on lengths, seed and step alone; how they are cut changes memory and speed, not the result.
The next step's batches are laid out in a thread while the model computes. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from cloister.datasets.batching import plan_epoch
from cloister.datasets.packing import first_fit_decreasing, share
from cloister.training.rows import Batch, TokenRows, padded_width

MEASURED_STEPS = 200
"""So many steps tell how much padding there is."""


class Batches:
    """The steps of one run, as one of its processes sees them.

    Args:
        rows: the training rows.
        batch_size: rows an optimizer step.
        seed: of their order.
        rank, size: this process, and how many share each step.
        device: where batches go.
    """

    def __init__(
        self, rows: TokenRows, batch_size: int, seed: int, *, rank: int, size: int, device: torch.device
    ) -> None:
        self._rows, self._batch_size, self._seed = rows, batch_size, seed
        self._rank, self._size, self._device = rank, size, device
        self._lengths: list[int] = rows.lengths.tolist()
        self._longest = max(self._lengths)
        self.steps_per_epoch = math.ceil(len(rows) / batch_size)
        self._plan: tuple[int, list[list[int]]] = (-1, [])
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: tuple[tuple[int, int, bool], Future[list[Batch]]] | None = None

    def indices(self, step: int) -> list[int]:
        """The rows of a step, for all processes together."""
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._plan[0] != epoch:
            self._plan = (epoch, plan_epoch(self._lengths, self._batch_size, self._seed, epoch))
        return self._plan[1][position]

    def of(self, step: int, micro_batch_size: int, packed: bool, *, last: bool = False) -> list[Batch]:
        """This process's micro-batches of a step; the next step's are begun, unless this is the `last`."""
        key = (step, micro_batch_size, packed)
        ready, self._ahead = self._ahead, None
        mine = self._mine(step)
        found = (
            ready[1].result()
            if ready is not None and ready[0] == key
            else self._laid_out(mine, micro_batch_size, packed)
        )
        if not last:
            following = self._mine(step + 1)
            future = self._thread.submit(self._laid_out, following, micro_batch_size, packed)
            self._ahead = ((step + 1, micro_batch_size, packed), future)
        return found

    def heaviest(self, micro_batch_size: int, packed: bool) -> Batch:
        """The largest micro-batch that may come. What a probe is made with."""
        count = min(micro_batch_size, self._batch_size)
        return self._rows.hardest(count, packed=packed, device=self._device)

    def padding(self, micro_batch_size: int) -> float:
        """Tokens that padded batches have for each one of the rows, over the first steps of the first epoch."""
        padded = real = 0
        for step in range(min(self.steps_per_epoch, MEASURED_STEPS)):
            for part in self._cut(self._mine(step), micro_batch_size, packed=False):
                lengths = [self._lengths[row] for row in part]
                padded += padded_width(max(lengths)) * len(lengths)
                real += sum(lengths)
        return padded / max(real, 1)

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _mine(self, step: int) -> list[int]:
        rows = self.indices(step)
        if self._size == 1:
            return rows
        return [rows[i] for i in share([self._lengths[row] for row in rows], self._size)[self._rank]]

    def _laid_out(self, rows: Sequence[int], micro_batch_size: int, packed: bool) -> list[Batch]:
        return [self._batch(part, packed) for part in self._cut(rows, micro_batch_size, packed)]

    def _cut(self, rows: Sequence[int], micro_batch_size: int, packed: bool) -> list[list[int]]:
        """A packed line holds as many tokens as `micro_batch_size` of the longest row: no more memory than padded."""
        if packed:
            bins = first_fit_decreasing(
                [self._lengths[row] for row in rows], micro_batch_size * self._longest
            )
            return [[rows[i] for i in sorted(each)] for each in bins]
        return [list(rows[at : at + micro_batch_size]) for at in range(0, len(rows), micro_batch_size)]

    def _batch(self, rows: Sequence[int], packed: bool) -> Batch:
        return self._rows.packed(rows, self._device) if packed else self._rows.batch(rows, self._device)
