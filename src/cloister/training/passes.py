"""Rows through the model: a step's gradient and the hold-out's loss, packed or padded, in bites that memory allows.

Where memory runs out it takes smaller bites and goes on; that changes rounding, not the result. Knows no optimizer,
no schedule and no checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from cloister.api import TrainConfig
from cloister.errors import InvalidInput
from cloister.models.loss import supervised_loss
from cloister.training.batches import Batches
from cloister.training.observer import Observer
from cloister.training.probe import packing_fault, ran_out, try_evaluation, try_step
from cloister.training.ranks import Ranks
from cloister.training.reached import Reached
from cloister.training.rows import TokenRows

WORTH_ON_CPU = 1.25
"""On a CPU laying rows out for attention costs about a tenth of a step: from so much padding on, packing pays."""


class Passes:
    """The passes of one run. How they are made is kept in `reached`: a resumed run makes them in the same way."""

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        config: TrainConfig,
        reached: Reached,
        tell: Observer,
        ranks: Ranks,
        device: torch.device,
    ) -> None:
        self._model, self._batches, self._config = model, batches, config
        self._reached, self._tell, self._ranks, self._device = reached, tell, ranks, device

    def probe(self, rows: TokenRows, holdout: TokenRows | None) -> None:
        """Settle how rows go through, and try the largest step and evaluation before anything counts.

        Raises:
            InvalidInput: rows are to be packed, and on this model that is not exact.
            MemoryError, torch.OutOfMemoryError, RuntimeError: not even one row fits.
        """
        reached, config = self._reached, self._config
        if config.gradient_checkpointing is True or reached.recompute:
            self._recompute()
        if reached.packed is None:  # not a run that is resumed
            reached.micro_batch_size = config.micro_batch_size
            fault = None if config.packing == "off" else self._not_packed(rows)
            if fault is not None and config.packing == "on":
                raise InvalidInput(
                    f"Rows cannot be packed on this model: {fault}.",
                    where="packing",
                    remedy="Use `packing: auto`.",
                )
            if fault is not None:
                self._tell.notice("info", f"Rows of like length go side by side, not packed: {fault}.")
            reached.packed = config.packing != "off" and fault is None
        while True:
            try:
                try_step(self._model, self._batches.heaviest(reached.micro_batch_size, bool(reached.packed)))
                if holdout is not None:
                    count = min(reached.micro_batch_size, len(holdout))
                    try_evaluation(self._model, holdout.hardest(count, packed=False, device=self._device))
                return
            except Exception as error:
                self._smaller(error)
            self._give_back()

    def _not_packed(self, rows: TokenRows) -> str | None:
        """Why rows are not packed; None where they are."""
        if self._config.packing == "auto" and self._device.type == "cpu":
            padding = self._batches.padding(self._reached.micro_batch_size)
            if padding < WORTH_ON_CPU:
                return f"with {padding - 1:.0%} of padding that is faster on a CPU"
        return packing_fault(self._model, rows, self._device)

    def gradients(self, step: int, supervised: int, *, last: bool) -> Tensor:
        """Adds this process's share of a step's gradient to the parameters; its loss in nats, [1].

        `supervised` are the tokens of the whole step, all processes', by which the gradient is divided.
        """
        while True:
            drawn = self._drawn()
            try:
                return self._added_up(step, supervised, last)
            except Exception as error:
                self._smaller(error)
            self._give_back()
            torch.set_rng_state(drawn[0])
            if drawn[1] is not None:
                torch.cuda.set_rng_state(drawn[1], self._device)

    def _added_up(self, step: int, supervised: int, last: bool) -> Tensor:
        """One attempt at it, with a frame of its own: the activations of one that failed go with that frame, and not
        only when the next one has made others."""
        reached = self._reached
        nats = torch.zeros(1, dtype=torch.float64, device=self._device)
        for part in self._batches.of(step, reached.micro_batch_size, bool(reached.packed), last=last):
            loss = supervised_loss(self._model, part.input_ids, part.supervised, borders=part.borders).nats
            if loss.requires_grad:  # it does not where nothing of a micro-batch is supervised
                (loss / supervised).backward()  # type: ignore[no-untyped-call]
            nats += loss.detach()
        return nats

    def _give_back(self) -> None:
        """Let go of what the allocator keeps of a failed pass. Outside of its `except`: an error holds the frames that
        it came through, and they their tensors."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _drawn(self) -> tuple[Tensor, Tensor | None]:
        """Where the random generators stand that dropout draws from: the CPU's, and the device's."""
        on_device = torch.cuda.get_rng_state(self._device) if self._device.type == "cuda" else None
        return torch.get_rng_state(), on_device

    def holdout_loss(self, rows: TokenRows) -> float | None:
        """Nats a supervised token, over all processes; None where it was asked to stop in between."""
        ranks = self._ranks
        # Memory may have run out in one process and not in another: all have to cut the rows alike.
        at_once = ranks.least(self._reached.micro_batch_size)
        batches: list[Sequence[int]] = list(rows.by_length(at_once))
        batches += [()] * (-len(batches) % ranks.size)  # as many rounds for each process
        nats = torch.zeros(1, dtype=torch.float64, device=self._device)
        self._model.eval()
        try:
            # Of this process's device alone: to fork that of every GPU would open each of them here.
            drawn_on = [self._device] if self._device.type == "cuda" else []
            with torch.no_grad(), torch.random.fork_rng(devices=drawn_on):
                for done in range(0, len(batches), ranks.size):
                    if self._tell.should_stop():
                        return None
                    nats += self._nats(rows, batches[done + ranks.rank])
                    self._tell.progress("evaluate", done + ranks.size, len(batches))
        finally:
            self._model.train()
        ranks.add([nats])
        return float(nats) / int(rows.supervised_counts.sum())

    def _nats(self, rows: TokenRows, indices: Sequence[int]) -> Tensor | float:
        """The loss of one hold-out batch; of its halves, where memory does not hold it."""
        if not indices:
            return 0.0
        try:
            part = rows.batch(indices, self._device)
            return supervised_loss(self._model, part.input_ids, part.supervised).nats
        except Exception as error:
            if not ran_out(error) or len(indices) == 1:
                raise
        half = len(indices) // 2
        return self._nats(rows, indices[:half]) + self._nats(rows, indices[half:])

    def _smaller(self, error: Exception) -> None:
        """After memory ran out: recompute activations where that may be, else half the rows at once.

        Raises the error again where it is another one, or nothing smaller is left.
        """
        reached, config = self._reached, self._config
        if not ran_out(error):
            raise error
        self._model.zero_grad(set_to_none=True)
        if config.gradient_checkpointing == "auto" and not reached.recompute:
            self._recompute()
            told = "activations are recomputed"
        elif min(reached.micro_batch_size, config.batch_size) > 1:
            reached.micro_batch_size = min(reached.micro_batch_size, config.batch_size) // 2
            told = f"{reached.micro_batch_size} rows go through the model at once"
        else:
            raise error
        self._tell.notice("warning", f"Memory ran out: {told} from here on. The result stays the same.")

    def _recompute(self) -> None:
        inner: Any = getattr(self._model, "get_base_model", lambda: self._model)()
        inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        inner.enable_input_require_grads()
        self._reached.recompute = True
