"""One fine-tuning run, from tokenised rows to the best and the last adapter.

Set up, train, evaluate the hold-out, checkpoint, finish: `train` reads in that order. Knows a model that
already carries its adapter; it does not know where rows come from, what a job is, or who asked.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cloister.api import TrainConfig
from cloister.datasets.batching import plan_epoch
from cloister.errors import Conflict, Interrupted, InvalidInput, JobFailed
from cloister.models.adapter import adapter_state, require_movement, set_adapter_state
from cloister.models.loss import supervised_loss
from cloister.training.checkpoint import CheckpointStore
from cloister.training.fingerprint import rows_fingerprint, weights_fingerprint
from cloister.training.fused import fuse
from cloister.training.observer import Level, Observer, Window
from cloister.training.optimizer import load_optimizer, make_optimizer, optimizer_state
from cloister.training.outcome import TrainOutcome
from cloister.training.rows import RowSource, TokenRows, tokenise
from cloister.training.schedule import Schedule, plan_schedule

METRICS_EVERY = 5
"""Optimizer steps between two reports of the training loss."""


@dataclass
class _Reached:
    """How far the run is: all that changes from step to step, besides the tensors. Goes into checkpoints."""

    step: int = 0
    evaluated: int = 0
    saved: int = 0
    best_step: int = 0
    tokens: int = 0
    supervised_tokens: int = 0
    train_seconds: float = 0.0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    holdout_losses: list[tuple[int, float]] = field(default_factory=list)


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
) -> TrainOutcome:
    """Fine-tune the adapter that `model` carries; afterwards the model holds the last step's adapter.

    With the same rows, configuration and number of threads, a run on the CPU comes out the same to the
    last bit, however often it was cut off and resumed, and whether or not a hold-out was looked at.

    Args:
        model: a causal language model with a fresh adapter (`models.add_adapter`); only that trains.
        rows, holdout: what to learn from, and what to measure on while learning.
        checkpoints: where to keep them; None keeps none.
        resume: go on from the newest good checkpoint, where there is one.
        on_progress: stage (`tokenise`, `train`, `evaluate`), done, total.
        on_metrics: step and numbers by name, a few times a minute or oftener.
        on_notice: level (`info`, `warning`) and a sentence.
        should_stop: asked between steps and between hold-out batches.

    Raises:
        InvalidInput: rows that cannot be learned from, all named at once.
        Interrupted: `should_stop` said so; a checkpoint was written before.
        Conflict: the checkpoint is of another configuration or other rows.
        JobFailed: the loss is no finite number, a layer of the adapter never moved, or the base model in
            memory is not what it was before the run was cut off.
    """
    # Set up.
    started = clock()
    tell = Observer(on_progress, on_metrics, on_notice, should_stop)
    run = _Run(model, config, checkpoints, tell, clock)
    run.load_rows(rows, holdout, tokenizer)
    run.prepare()
    if resume:
        run.restore()
    before = run.reached.seconds
    total = run.schedule.total_steps
    on_progress("train", run.reached.step, total)

    try:
        while True:
            # Evaluate and checkpoint first: a run cut off between a step and its evaluation makes up for it.
            run.reached.seconds = before + clock() - started
            if run.evaluation_due():
                run.evaluate()
            if run.checkpoint_due():
                run.save()
            if run.reached.step == total:
                break
            if should_stop():
                raise _Stopped
            run.take_step()
            on_progress("train", run.reached.step, total)
    except _Stopped:
        run.reached.seconds = before + clock() - started
        run.interrupt()

    # Finish.
    run.reached.seconds = before + clock() - started
    return run.finish()


class _Run:
    """The parts of one run and the steps that `train` takes with them."""

    rows: TokenRows
    holdout: TokenRows | None
    schedule: Schedule
    optimizer: torch.optim.Optimizer
    best: Mapping[str, Tensor]

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        checkpoints: CheckpointStore | None,
        tell: Observer,
        clock: Callable[[], float],
    ) -> None:
        self.model, self.config, self.checkpoints = model, config, checkpoints
        self.tell, self.clock = tell, clock
        self.device = next(model.parameters()).device
        self.reached = _Reached()
        self._plan: tuple[int, list[list[int]]] = (-1, [])
        self._window = Window()

    # --- set up ---

    def load_rows(self, rows: RowSource, holdout: RowSource | None, tokenizer: Any) -> None:
        """Tokenise everything up front: a row that cannot be learned from stops the run before it starts."""
        if not len(rows):
            raise InvalidInput("There are no rows to train on.", where=rows.name)
        total = len(rows) + (len(holdout) if holdout else 0)
        limit = self.config.max_length
        self.rows = tokenise(
            rows, tokenizer, limit, on_progress=lambda done, _: self.tell.progress("tokenise", done, total)
        )
        self.lengths = self.rows.lengths.tolist()
        self.holdout = None
        if holdout is not None and len(holdout):
            self.holdout = tokenise(
                holdout,
                tokenizer,
                limit,
                on_progress=lambda done, _: self.tell.progress("tokenise", len(rows) + done, total),
            )
        else:
            self.tell.notice("warning", "There is no hold-out: the last step counts as the best.")

    def prepare(self) -> None:
        """Seed, fuse, and build optimizer and schedule."""
        config, model = self.config, self.model
        torch.manual_seed(config.seed)
        fuse(model)
        if config.gradient_checkpointing:
            inner: Any = getattr(model, "get_base_model", lambda: model)()
            inner.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            inner.enable_input_require_grads()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise JobFailed("The model carries no adapter that trains.")
        self.optimizer = make_optimizer(self.parameters, config, self.device)
        self.rows_print, self.weights_print = rows_fingerprint(self.rows), weights_fingerprint(model)
        self.steps_per_epoch = math.ceil(len(self.rows) / config.batch_size)
        self.schedule = plan_schedule(config, self.steps_per_epoch)
        self.best = {}
        model.train()

    def restore(self) -> None:
        """Take up the newest good checkpoint, if there is one."""
        found = (
            self.checkpoints.latest(lambda text: self.tell.notice("warning", text))
            if self.checkpoints
            else None
        )
        if found is None:
            return
        state = found.state
        if state["config"] != self.config.model_dump(mode="json") or state["rows"] != self.rows_print:
            raise Conflict(
                "The checkpoint is of another configuration or other rows.", remedy="Start a new run."
            )
        if state["weights"] != self.weights_print:
            raise JobFailed(
                "The base model in memory is not, bit for bit, the one that this run began with.",
                remedy="Resume it once more; if that fails too, have this machine's memory tested.",
            )
        set_adapter_state(self.model, found.groups["adapter"])
        trainer = dict(found.groups["trainer"])
        torch.set_rng_state(trainer.pop("rng.cpu"))
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(trainer.pop("rng.cuda"), self.device)
        load_optimizer(self.optimizer, trainer, state["optimizer"])
        self.reached = _Reached(**state["reached"])
        self.reached.holdout_losses = [(int(step), float(loss)) for step, loss in self.reached.holdout_losses]
        if self.reached.best_step:
            self.best = found.groups["adapter" if self.reached.best_step == found.step else "best"]
        self.tell.notice("info", f"Resumed after step {found.step} of {self.schedule.total_steps}.")

    # --- train ---

    def take_step(self) -> None:
        """One optimizer step over `batch_size` rows, `micro_batch_size` at a time.

        The loss is divided by the supervised tokens of the whole step, so the split does not matter.
        """
        started = self.clock()
        config, reached = self.config, self.reached
        batch = self._batch(reached.step)
        supervised = int(self.rows.supervised_counts[batch].sum())
        rate = self.schedule.rate(reached.step)
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        tokens = 0
        for start in range(0, len(batch), config.micro_batch_size):
            part = self.rows.batch(batch[start : start + config.micro_batch_size], self.device)
            loss = supervised_loss(self.model, part.input_ids, part.supervised).nats
            (loss / supervised).backward()  # type: ignore[no-untyped-call]
            nats += loss.detach()
            tokens += part.tokens
        norm = nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm, foreach=True)
        value = float(nats) / supervised
        if not (math.isfinite(value) and bool(torch.isfinite(norm))):
            raise JobFailed(
                f"The loss or its gradient is not a finite number at step {reached.step + 1}.",
                remedy="Lower the learning rate or max_grad_norm, or lengthen the warm-up.",
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

        reached.step += 1
        reached.tokens += tokens
        reached.supervised_tokens += supervised
        reached.losses.append(value)
        reached.train_seconds += self.clock() - started
        self._window.add(value, tokens, supervised, self.clock() - started)
        if reached.step % METRICS_EVERY == 0 or reached.step == self.schedule.total_steps:
            numbers = {"learning_rate": rate, "grad_norm": float(norm), **self._window.numbers()}
            self.tell.metrics(reached.step, numbers)
            self._window = Window()

    def _batch(self, step: int) -> list[int]:
        epoch, position = divmod(step, self.steps_per_epoch)
        if self._plan[0] != epoch:
            plan = plan_epoch(self.lengths, self.config.batch_size, self.config.seed, epoch)
            self._plan = (epoch, plan)
        return self._plan[1][position]

    # --- evaluate the hold-out ---

    def evaluation_due(self) -> bool:
        reached = self.reached
        return reached.evaluated < reached.step and self._due(self.config.eval_every)

    def evaluate(self) -> None:
        """The hold-out's loss; the best adapter so far is kept. Leaves no trace in the training itself."""
        reached = self.reached
        loss = None
        if self.holdout is not None:
            loss = self._holdout_loss(self.holdout)
            if not math.isfinite(loss):
                raise JobFailed(f"The hold-out loss is not a finite number after step {reached.step}.")
            self.tell.metrics(reached.step, {"holdout_loss": loss})
        lowest = min((past for _, past in reached.holdout_losses), default=math.inf)
        if loss is None or loss < lowest:
            reached.best_step = reached.step
            self.best = self._adapter()
        if loss is not None:
            reached.holdout_losses.append((reached.step, loss))
        reached.evaluated = reached.step

    def _holdout_loss(self, rows: TokenRows) -> float:
        batches = rows.by_length(self.config.micro_batch_size)
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        self.model.eval()
        try:
            with torch.no_grad(), torch.random.fork_rng(enabled=True):
                for number, indices in enumerate(batches):
                    if self.tell.should_stop():
                        raise _Stopped
                    part = rows.batch(indices, self.device)
                    nats += supervised_loss(self.model, part.input_ids, part.supervised).nats
                    self.tell.progress("evaluate", number + 1, len(batches))
        finally:
            self.model.train()
        return float(nats) / int(rows.supervised_counts.sum())

    # --- checkpoint ---

    def checkpoint_due(self) -> bool:
        reached = self.reached
        return (
            self.checkpoints is not None
            and reached.saved < reached.step
            and self._due(self.config.checkpoint_every)
        )

    def save(self) -> None:
        """Everything that the next step depends on, and the best adapter."""
        if self.checkpoints is None:
            return
        reached = self.reached
        self._require_movement()
        reached.saved = reached.step
        tensors, document = optimizer_state(self.optimizer)
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        groups: dict[str, Mapping[str, Tensor]] = {"adapter": self._adapter(), "trainer": tensors}
        if self.best and reached.best_step != reached.step:
            groups["best"] = self.best
        state = {
            "config": self.config.model_dump(mode="json"),
            "rows": self.rows_print,
            "weights": self.weights_print,
            "optimizer": document,
            "reached": dict(vars(reached)),
        }
        self.checkpoints.save(reached.step, groups, state)

    def interrupt(self) -> None:
        """Keep what there is and say so."""
        reached = self.reached
        if reached.step and reached.saved < reached.step:
            self.save()
        kept = self.checkpoints is not None and reached.step > 0
        raise Interrupted(
            f"The run was cut off after step {reached.step} of {self.schedule.total_steps}.",
            remedy="Resume it: it goes on from there." if kept else "Start it again.",
        )

    # --- finish ---

    def finish(self) -> TrainOutcome:
        self._require_movement()
        reached = self.reached
        last_epoch = reached.losses[-self.steps_per_epoch :]
        return TrainOutcome(
            steps=reached.step,
            train_loss=math.fsum(last_epoch) / len(last_epoch),
            holdout_loss=dict(reached.holdout_losses).get(reached.best_step),
            best_step=reached.best_step,
            tokens=reached.tokens,
            supervised_tokens=reached.supervised_tokens,
            tokens_per_s=reached.tokens / max(reached.train_seconds, 1e-9),
            seconds=reached.seconds,
            losses=reached.losses,
            holdout_losses=reached.holdout_losses,
            best=self.best,
            last=self._adapter(),
        )

    # --- helpers ---

    def _due(self, every: int) -> bool:
        step = self.reached.step
        return step > 0 and (step % (every or self.steps_per_epoch) == 0 or step == self.schedule.total_steps)

    def _adapter(self) -> dict[str, Tensor]:
        return {name: tensor.to("cpu", copy=True) for name, tensor in adapter_state(self.model).items()}

    def _require_movement(self) -> None:
        frozen = [
            name for name, p in self.model.named_parameters() if "lora_" in name and not p.requires_grad
        ]
        if frozen:
            raise JobFailed(f"{len(frozen)} tensors of the adapter no longer train.", where=frozen[0])
        require_movement(self.model)
