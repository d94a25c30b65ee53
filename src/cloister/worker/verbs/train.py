"""The verb `train`: dataset and base model in, an adapter object out.

Opens what was granted, runs the recipe, stores its outcome. Knows nothing of how training works.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from cloister.api import JobDocument, TrainConfig
from cloister.errors import CloisterError, InvalidInput
from cloister.models.adapter import (
    add_adapter,
    read_adapter,
    read_adapter_config,
    save_adapter,
    set_adapter_state,
)
from cloister.models.load import load_base
from cloister.training.checkpoint import CheckpointStore
from cloister.training.outcome import WentWrong
from cloister.training.ranks import Ranks, device_of
from cloister.training.recipe import train
from cloister.training.rows import RowSource
from cloister.vault import ObjectReader
from cloister.worker.bounded import bound_to_what_is_free
from cloister.worker.ranks import gang
from cloister.worker.verbs import measuring, opening

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Fine-tune; returns what the authority keeps of it. Of a run that went wrong and had come to something before,
    that is stored all the same: `failure` then says what went wrong."""
    config = TrainConfig.model_validate(job.config)
    if config.processes == 1:
        return _run(job, config, emit, Ranks())
    with gang(job, config.processes, on_fault=lambda error: _end(emit, error)) as ranks:
        return _run(job, config, emit, ranks)


def take_part(job: JobDocument, ranks: Ranks) -> None:
    """Fine-tune as one of the other processes, which say and store nothing."""
    config = TrainConfig.model_validate(job.config)
    with ExitStack() as stack:
        given = _open(job, config, ranks, stack)
        try:
            train(
                given.model,
                given.tokenizer,
                given.rows,
                config,
                given.checkpoints,
                holdout=given.holdout,
                resume=job.resume,
                ranks=ranks,
            )
        except WentWrong as wrong:
            if wrong.kept is None:
                raise
        _peaks(job, ranks)


def _end(emit: Emitter, error: CloisterError) -> None:
    """End this process at once, and say why: it may be waiting for one that is gone."""
    from cloister.worker.__main__ import failure_of

    emit.failure(failure_of(error))
    os._exit(error.exit_code)


def _peaks(job: JobDocument, ranks: Ranks) -> list[int]:
    """The most memory that each process has held, in bytes by rank."""
    return [int(peak) for peak in ranks.gather(torch.tensor([measuring.peak_bytes(job.device)]))]


@dataclass(frozen=True)
class _Given:
    model: Any
    tokenizer: Any
    rows: RowSource
    holdout: RowSource
    checkpoints: CheckpointStore


def _open(job: JobDocument, config: TrainConfig, ranks: Ranks, stack: ExitStack) -> _Given:
    """What the run was granted, opened, and the base with its adapter in memory."""
    threads = job.threads // ranks.size if job.threads else 0
    if ranks.size > 1:
        threads = max(1, threads or len(os.sched_getaffinity(0)) // ranks.size)
    measuring.prepare_torch(job.model_copy(update={"threads": threads}))
    if job.device == "cpu" and os.environ.get("CLOISTER_SANDBOX") == "bwrap":  # else it is not ours to bound
        bound_to_what_is_free(ranks.size)
    device: str = job.device
    if ranks.size > 1 and job.device == "cuda":
        device = str(device_of(ranks.rank, ranks.size, "nccl"))
    dataset = stack.enter_context(opening.open_dataset(job, "dataset"))
    base = stack.enter_context(opening.open_object(job, "base"))
    holdout = measuring.open_holdout(job, dataset, stack)
    assert job.output is not None
    out = job.output
    checkpoints = CheckpointStore(
        Path(out.path) / "checkpoints",
        object_id=out.object_id,
        kind=str(out.kind),
        version=out.version,
        key=opening.key_of(out),
    )
    if ranks.rank == 0:
        base.check(full=True)
    model, tokenizer = load_base(base, method=config.method, device=device)
    measuring.use_run_template(model, tokenizer, config.template)
    torch.manual_seed(config.seed)
    model = add_adapter(model, config.lora)
    if "adapter" in job.inputs:
        _go_on_from(model, stack.enter_context(opening.open_object(job, "adapter")), config)
    rows = RowSource(dataset, dataset.indices("train"), "the dataset")
    rows = measuring.nested(rows, config.max_rows, config.seed)
    return _Given(model, tokenizer, rows, holdout, checkpoints)


def _go_on_from(model: Any, earlier: ObjectReader, config: TrainConfig) -> None:
    """Begin with what an earlier run has learnt. Raises InvalidInput where its adapter is of another form."""
    was = read_adapter_config(earlier).lora()
    if was.model_copy(update={"dropout": config.lora.dropout}) != config.lora:
        raise InvalidInput(
            f"The earlier adapter has rank {was.rank}, alpha {was.alpha:g}, rslora {was.rslora}, dora {was.dora}, and "
            "a run that goes on from it has to have the same.",
            where="lora",
            remedy="Leave `lora` out: it is then the earlier run's.",
        )
    set_adapter_state(model, read_adapter(earlier, measuring.ADAPTER))


def _run(job: JobDocument, config: TrainConfig, emit: Emitter, ranks: Ranks) -> dict[str, Any]:
    with ExitStack() as stack:
        writer = opening.open_writer(job)
        emit.progress("load", 0, 1)
        given = _open(job, config, ranks, stack)
        emit.progress("load", 1, 1)
        if not job.resume and (both := measuring.asked_in_both(given.rows, given.holdout)):
            emit.notice(
                "warning",
                f"{both} of {len(given.holdout)} rows of {given.holdout.name} ask what is trained on, which is no "
                "test. `cloister dataset derive ONE --merge OTHER` splits both datasets anew.",
            )
        went_wrong = None
        try:
            outcome = train(
                given.model,
                given.tokenizer,
                given.rows,
                config,
                given.checkpoints,
                holdout=given.holdout,
                resume=job.resume,
                on_progress=emit.progress,
                on_metrics=emit.metrics,
                on_notice=emit.notice,
                should_stop=emit.should_stop,
                ranks=ranks,
            )
        except WentWrong as wrong:
            if wrong.kept is None:
                raise
            went_wrong, outcome = wrong, wrong.kept

        peaks = _peaks(job, ranks)

        emit.progress("store", 0, 1)
        for name, state in (("best", outcome.best), ("last", outcome.last)):
            if state:
                set_adapter_state(given.model, state)
                save_adapter(given.model, writer, name)
        values: dict[str, Any] = {
            "steps": outcome.steps,
            "train_loss": outcome.train_loss,
            "holdout_loss": outcome.holdout_loss,
            "holdout_start": outcome.holdout_start,
            "best_step": outcome.best_step,
            "tokens": outcome.tokens,
            "supervised_tokens": outcome.supervised_tokens,
            "tokens_per_s": outcome.tokens_per_s,
            "seconds": outcome.seconds,
            "longest": outcome.longest,
            "epoch_rows": outcome.epoch_rows,
            "epoch_tokens": outcome.epoch_tokens,
            "fell_back": outcome.fell_back,
            "peak_bytes": max(peaks),
            "processes": ranks.size,
            "devices": ranks.size if job.device == "cuda" else 1,
            "peak_bytes_by_process": peaks,
        }
        if went_wrong is not None:
            values["failure"] = {
                "code": went_wrong.code,
                "message": went_wrong.message,
                "remedy": went_wrong.remedy,
            }
        with writer.create("history.json") as file:
            history = {"losses": outcome.losses, "holdout_losses": outcome.holdout_losses, **values}
            file.write(msgspec.json.encode(history))
        opening.finish(
            writer,
            job,
            counts={
                "rows": len(given.rows),
                "holdout_rows": len(given.holdout),
                "steps": outcome.steps,
                "tokens": outcome.tokens,
                "supervised_tokens": outcome.supervised_tokens,
            },
            details={
                "method": config.method,
                "processes": ranks.size,
                "max_length": config.max_length,
                "max_rows": config.max_rows,
                "seed": config.seed,
                "template": config.template,
                "loss_on": config.loss_on,
                "packed": outcome.packed,
                "rank": config.lora.rank,
                "train_loss": outcome.train_loss,
                "holdout_loss": outcome.holdout_loss,
                "best_step": outcome.best_step,
                **({} if went_wrong is None else {"went_wrong": went_wrong.message}),
            },
        )
        given.checkpoints.remove()
        emit.progress("store", 1, 1)
        return values
