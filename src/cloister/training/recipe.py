"""One fine-tuning run, from tokenised rows to the best and the last adapter.

Set up, train, evaluate the hold-out, checkpoint, finish: `train` reads in that order. Knows a model that
already carries its adapter; it does not know where rows come from, what a job is, or who asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from cloister.api import TrainConfig
from cloister.errors import Diverged, Interrupted, InvalidInput, JobFailed
from cloister.models.adapter import adapter_state, begun_with, require_movement, set_adapter_state
from cloister.models.loss import liger_loss
from cloister.training.batches import Batches
from cloister.training.before import Before
from cloister.training.checkpoint import CheckpointStore
from cloister.training.fused import fuse
from cloister.training.keeping import Adapter, Keeping
from cloister.training.observer import Level, Observer, Window
from cloister.training.optimizer import AdapterOptimizer
from cloister.training.outcome import TrainOutcome, WentWrong, outcome_of
from cloister.training.passes import Passes
from cloister.training.ranks import Ranks, require_alike
from cloister.training.reached import Reached
from cloister.training.rows import RowSource, TokenRows, tokenise
from cloister.training.schedule import Schedule, due, plan_schedule

METRICS_EVERY = 5
"""Optimizer steps between two reports of the training loss."""
KEPT_AFTER_S = 900.0
"""Where checkpoints come so often an epoch, one comes so long after the last: an epoch may take a day."""


class _Stopped(Exception):
    """Asked to stop in the middle of an evaluation."""


def train(
    model: nn.Module,
    tokenizer: Any,
    rows: RowSource,
    config: TrainConfig,
    checkpoints: CheckpointStore | None = None,
    *,
    holdout: RowSource | None = None,
    resume: bool = False,
    on_progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
    on_metrics: Callable[[int, dict[str, float]], None] = lambda step, values: None,
    on_notice: Callable[[Level, str], None] = lambda level, message: None,
    should_stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
    ranks: Ranks = Ranks(),  # noqa: B008 - it has no state
) -> TrainOutcome:
    """Fine-tune the adapter that `model` carries; afterwards the model holds the last step's adapter.

    With the same rows, configuration and number of threads, a run on the CPU comes out the same to the
    last bit, however often it was cut off and resumed, and whether or not a hold-out was looked at. How rows go
    through the model (packed or padded, few or many at once, in one process or several) changes rounding alone.

    Args:
        model: a causal language model with a fresh adapter (`models.add_adapter`); only that trains.
        rows, holdout: what to learn from, and what to measure on while learning.
        checkpoints: where to keep them; None keeps none.
        resume: go on from the newest good checkpoint, where there is one.
        on_progress: stage (`tokenise`, `train`, `evaluate`), done, total.
        on_metrics: step and numbers by name, a few times a minute or oftener.
        on_notice: level (`info`, `warning`) and a sentence.
        should_stop: asked between steps and between hold-out batches.
        ranks: the processes that share each step's rows, each with the same arguments; the first one's callbacks
            count, and it alone writes checkpoints.

    Raises:
        InvalidInput: rows that cannot be learned from, all named at once.
        Interrupted: `should_stop` said so; a checkpoint was written before.
        Conflict: the checkpoint is of another configuration or other rows.
        WentWrong: the loss is no finite number or grew far above where it began. It has the best adapter from before,
            where there is one, and the model then holds that.
        JobFailed: a layer of the adapter never moved, or the base model in memory is not what it was before the run
            was cut off.
    """
    # Set up.
    started = clock()
    tell = Observer(on_progress, on_metrics, on_notice, lambda: ranks.told(should_stop()))
    run = _Run(model, config, checkpoints, tell, clock, ranks)
    run.load_rows(rows, holdout, tokenizer)
    run.prepare()
    if resume:
        run.restore()
    run.settle()
    before = run.reached.seconds
    total = run.schedule.total_steps
    on_progress("train", run.reached.step, total)

    try:
        run.look_first()
        while True:
            # Evaluate and checkpoint first: a run cut off between a step and its evaluation makes up for it.
            run.reached.seconds = before + clock() - started
            if run.evaluation_due():
                run.evaluate()
            if run.checkpoint_due():
                run.save()
            if run.reached.step == total or run.out_of_patience():
                break
            if tell.should_stop():
                raise _Stopped
            run.take_step()
            on_progress("train", run.reached.step, total)
    except _Stopped:
        run.reached.seconds = before + clock() - started
        run.interrupt()
    except Diverged as error:
        run.reached.seconds = before + clock() - started
        raise WentWrong(error, run.kept()) from None
    finally:
        run.batches.close()

    # Finish.
    run.reached.seconds = before + clock() - started
    return run.finish()


class _Run:
    """The parts of one run and the steps that `train` takes with them."""

    rows: TokenRows
    batches: Batches
    holdout: TokenRows | None
    schedule: Schedule
    optimizer: AdapterOptimizer
    best: Adapter
    keeping: Keeping | None

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        checkpoints: CheckpointStore | None,
        tell: Observer,
        clock: Callable[[], float],
        ranks: Ranks,
    ) -> None:
        self.model, self.config, self.checkpoints = model, config, checkpoints
        self.tell, self.clock, self.ranks = tell, clock, ranks
        self.device = next(model.parameters()).device
        self.reached = Reached()
        self._window = Window()

    # --- set up ---

    def load_rows(self, rows: RowSource, holdout: RowSource | None, tokenizer: Any) -> None:
        """Tokenise everything up front: a row that cannot be learned from stops the run before it starts."""
        if not len(rows):
            raise InvalidInput("There are no rows to train on.", where=rows.name)
        total = len(rows) + (len(holdout) if holdout else 0)
        limit, loss_on = self.config.max_length, self.config.loss_on
        self.rows = tokenise(
            rows,
            tokenizer,
            limit,
            loss_on=loss_on,
            on_progress=lambda done, _: self.tell.progress("tokenise", done, total),
        )
        self.holdout = None
        if holdout is not None and len(holdout):
            self.holdout = tokenise(
                holdout,
                tokenizer,
                limit,
                loss_on=loss_on,
                on_progress=lambda done, _: self.tell.progress("tokenise", len(rows) + done, total),
            )
        elif self.config.patience:
            raise InvalidInput(
                "Patience counts evaluations, and there is no hold-out to evaluate on.",
                where="patience",
                remedy="Import the dataset with a hold-out, or set `patience: 0`.",
            )
        else:
            self.tell.notice(
                "warning",
                "There is no hold-out: the last step counts as the best, and nothing is kept of a run that goes wrong.",
            )

    def prepare(self) -> None:
        """Seed, fuse, and build batches, optimizer and schedule."""
        config, model, ranks = self.config, self.model, self.ranks
        torch.manual_seed(config.seed + ranks.rank * 1_000_003)
        fuse(model)
        if self.device.type == "cuda" and liger_loss() is None:
            self.tell.notice("info", "Without liger-kernel and a C compiler the loss is computed in pieces.")
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise JobFailed("The model carries no adapter that trains.")
        self.optimizer = AdapterOptimizer(self.parameters, config, self.device)
        self.keeping = None
        if self.checkpoints is not None:
            self.keeping = Keeping(
                self.checkpoints, model, self.rows, config, self.optimizer, ranks, self.device
            )
        self.batches = Batches(
            self.rows, config.batch_size, config.seed, rank=ranks.rank, size=ranks.size, device=self.device
        )
        self.steps_per_epoch = self.batches.steps_per_epoch
        self.schedule = plan_schedule(config, self.steps_per_epoch)
        # What one GPU draws at random another kind draws otherwise: all begin with the first one's adapter.
        with torch.no_grad():
            ranks.share([parameter.detach() for parameter in self.parameters])
        self.best, self.before = {}, Before(wanted=self.holdout is not None)
        self.begun = begun_with(model)
        model.train()

    def restore(self) -> None:
        """Take up the newest good checkpoint, if there is one."""
        found = None
        if self.keeping is not None:
            found = self.keeping.restore(lambda text: self.tell.notice("warning", text))
        if found is not None:
            self.reached, self.best = found
            self.tell.notice(
                "info", f"Resumed after step {self.reached.step} of {self.schedule.total_steps}."
            )

    def settle(self) -> None:
        """How rows go through the model from here on; tried on the largest step before anything counts."""
        self._kept_at = self.reached.seconds
        self.passes = Passes(
            self.model, self.batches, self.config, self.reached, self.tell, self.ranks, self.device
        )
        self.passes.probe(self.rows, self.holdout)

    # --- train ---

    def take_step(self) -> None:
        """One optimizer step over `batch_size` rows, `micro_batch_size` at a time.

        The loss is divided by the supervised tokens of the whole step, so the split does not matter.
        """
        started = self.clock()
        config, reached = self.config, self.reached
        rows = self.batches.indices(reached.step)
        supervised = int(self.rows.supervised_counts[rows].sum())
        tokens = int(self.rows.lengths[rows].sum())
        rate = self.schedule.rate(reached.step)
        last = reached.step + 1 == self.schedule.total_steps
        self.optimizer.clear()
        nats = self.passes.gradients(reached.step, supervised, last=last)
        self.ranks.add([nats])
        self.ranks.add(self.optimizer.gradients())
        norm = self.optimizer.clip(config.max_grad_norm)
        value = float(nats) / supervised
        if not (math.isfinite(value) and bool(torch.isfinite(norm))):
            raise Diverged(
                f"The loss or its gradient is not a finite number at step {reached.step + 1}.",
                remedy="Lower the learning rate or max_grad_norm, or lengthen the warm-up.",
            )
        self.optimizer.step(rate)

        reached.step += 1
        reached.tokens += tokens
        reached.supervised_tokens += supervised
        reached.losses.append(value)
        if (how := reached.diverged(config.batch_size)) is not None:
            raise Diverged(how, remedy="Lower the learning rate, or lengthen the warm-up.")
        self.before.keep(reached.step, self._adapter)
        reached.train_seconds += self.clock() - started
        self._window.add(tokens, supervised, self.clock() - started)
        if reached.step % METRICS_EVERY == 0 or reached.step == self.schedule.total_steps:
            recent = reached.losses[-((reached.step - 1) % METRICS_EVERY + 1) :]  # the same for a resumed run
            numbers = {"learning_rate": rate, "grad_norm": float(norm), "loss": sum(recent) / len(recent)}
            self.tell.metrics(reached.step, {**numbers, **self._window.numbers()})
            self._window = Window()

    # --- evaluate the hold-out ---

    def look_first(self) -> None:
        """The hold-out's loss before anything is learnt: what all later ones are to be lower than."""
        reached = self.reached
        if self.holdout is None or reached.step or reached.holdout_start is not None:
            return
        loss = self.passes.holdout_loss(self.holdout)
        if loss is None:
            raise _Stopped
        if math.isfinite(loss):  # else the first step tells
            reached.holdout_start = loss
            self.tell.metrics(0, {"holdout_loss": loss})

    def evaluation_due(self) -> bool:
        reached = self.reached
        often = self.config.eval_every, self.config.evals_per_epoch
        return reached.evaluated < reached.step and self._due(*often)

    def evaluate(self) -> None:
        """The hold-out's loss; the best adapter so far is kept. Leaves no trace in the training itself."""
        reached = self.reached
        loss = None
        if self.holdout is not None:
            loss = self.passes.holdout_loss(self.holdout)
            if loss is None:
                raise _Stopped
            if not math.isfinite(loss):
                raise Diverged(
                    f"The hold-out loss is not a finite number after step {reached.step}.",
                    remedy="Lower the learning rate, or lengthen the warm-up.",
                )
            self.tell.metrics(reached.step, {"holdout_loss": loss})
        if reached.looked(reached.step, loss):
            self.best = self._adapter()
        reached.evaluated = reached.step

    def out_of_patience(self) -> bool:
        """Whether the hold-out loss has not become lower for as many evaluations as were allowed."""
        reached, patience = self.reached, self.config.patience
        if not patience or reached.evaluations_since_best() < patience:
            return False
        self.tell.notice(
            "info",
            f"Stopped after step {reached.step}: the hold-out loss was lowest after step {reached.best_step}.",
        )
        return True

    # --- checkpoint ---

    def checkpoint_due(self) -> bool:
        often = self.config.checkpoint_every, self.config.checkpoints_per_epoch
        unsaved = self.keeping is not None and self.reached.saved < self.reached.step
        return unsaved and (self._due(*often) or self._overdue())

    def save(self) -> None:
        """Everything that the next step depends on, and the best adapter."""
        if self.keeping is not None:
            self._require_movement()
            self.reached.saved, self._kept_at = self.reached.step, self.reached.seconds
            self.keeping.save(self.reached, self._adapter, self.best)

    def interrupt(self) -> None:
        """Keep what there is and say so."""
        reached = self.reached
        if reached.step and reached.saved < reached.step:
            self.save()
        kept = self.keeping is not None and reached.step > 0
        raise Interrupted(
            f"The run was cut off after step {reached.step} of {self.schedule.total_steps}.",
            remedy="Resume it: it goes on from there." if kept else "Start it again.",
        )

    # --- finish ---

    def finish(self) -> TrainOutcome:
        self._require_movement()
        if (risen := self.reached.risen(self.config.batch_size)) is not None:
            self.tell.notice("warning", risen)
        return self._outcome(self.reached.step, self._adapter())

    def kept(self) -> TrainOutcome | None:
        """What a run had come to before it went wrong; None where nothing is worth keeping. The model holds it then."""
        size = self.config.batch_size
        self.best = self.before.best(self.reached, size, self._holdout_loss_with, self.tell) or self.best
        if not self.reached.good(size):
            return None
        set_adapter_state(self.model, self.best)
        try:
            self._require_movement()
        except JobFailed:
            return None
        return self._outcome(self.reached.best_step, {})

    def _holdout_loss_with(self, adapter: Adapter) -> float | None:
        set_adapter_state(self.model, adapter)
        return None if self.holdout is None else self.passes.holdout_loss(self.holdout)

    def _outcome(self, end: int, last: Adapter) -> TrainOutcome:
        return outcome_of(self.reached, self.config, self.rows, self.steps_per_epoch, end, self.best, last)

    # --- helpers ---

    def _due(self, every: int, per_epoch: float) -> bool:
        step = self.reached.step
        last = step == self.schedule.total_steps
        return step > 0 and (last or due(step, every, per_epoch, self.steps_per_epoch))

    def _overdue(self) -> bool:
        """Whether a run that nobody told when to keep something has gone on for long without."""
        late = self.reached.seconds - self._kept_at >= KEPT_AFTER_S
        return not self.config.checkpoint_every and self.ranks.told(late)

    def _adapter(self) -> dict[str, Tensor]:
        return {name: tensor.to("cpu", copy=True) for name, tensor in adapter_state(self.model).items()}

    def _require_movement(self) -> None:
        require_alike(self.parameters, self.ranks)
        require_movement(self.model, self.begun)
