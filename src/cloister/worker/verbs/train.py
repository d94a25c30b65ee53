"""The verb `train`: dataset and base model in, an adapter object out.

Opens what was granted, runs the recipe, stores its outcome. Knows nothing of how training works.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch

from cloister.api import JobDocument, TrainConfig
from cloister.models.adapter import add_adapter, save_adapter, set_adapter_state
from cloister.models.load import load_base
from cloister.training.checkpoint import CheckpointStore
from cloister.training.recipe import train
from cloister.training.rows import RowSource
from cloister.worker.verbs import measuring, opening

if TYPE_CHECKING:
    from cloister.worker.emit import Emitter


def run(job: JobDocument, emit: Emitter) -> dict[str, Any]:
    """Fine-tune; returns what the authority keeps of it."""
    config = TrainConfig.model_validate(job.config)
    measuring.prepare_torch(job)
    with ExitStack() as stack:
        dataset = stack.enter_context(opening.open_dataset(job, "dataset"))
        base = stack.enter_context(opening.open_object(job, "base"))
        holdout = measuring.open_holdout(job, dataset, stack)
        rows = RowSource(dataset, dataset.indices("train"), "the dataset")
        writer = opening.open_writer(job)
        assert job.output is not None
        checkpoints = CheckpointStore(
            Path(job.output.path) / "checkpoints",
            object_id=writer.object_id,
            kind=writer.kind,
            version=writer.version,
            key=opening.key_of(job.output),
        )
        emit.progress("load", 0, 1)
        base.check(full=True)
        model, tokenizer = load_base(base, method=config.method, device=job.device)
        torch.manual_seed(config.seed)
        model = add_adapter(model, config.lora)
        emit.progress("load", 1, 1)

        outcome = train(
            model,
            tokenizer,
            rows,
            config,
            checkpoints,
            holdout=holdout,
            resume=job.resume,
            on_progress=emit.progress,
            on_metrics=emit.metrics,
            on_notice=emit.notice,
            should_stop=emit.should_stop,
        )

        emit.progress("store", 0, 1)
        for name, state in (("best", outcome.best), ("last", outcome.last)):
            set_adapter_state(model, state)
            save_adapter(model, writer, name)
        values = {
            "steps": outcome.steps,
            "train_loss": outcome.train_loss,
            "holdout_loss": outcome.holdout_loss,
            "best_step": outcome.best_step,
            "tokens": outcome.tokens,
            "supervised_tokens": outcome.supervised_tokens,
            "tokens_per_s": outcome.tokens_per_s,
            "seconds": outcome.seconds,
        }
        with writer.create("history.json") as file:
            history = {"losses": outcome.losses, "holdout_losses": outcome.holdout_losses, **values}
            file.write(msgspec.json.encode(history))
        opening.finish(
            writer,
            job,
            counts={
                "rows": len(rows),
                "holdout_rows": len(holdout),
                "steps": outcome.steps,
                "tokens": outcome.tokens,
                "supervised_tokens": outcome.supervised_tokens,
            },
            details={
                "method": config.method,
                "max_length": config.max_length,
                "rank": config.lora.rank,
                "train_loss": outcome.train_loss,
                "holdout_loss": outcome.holdout_loss,
                "best_step": outcome.best_step,
            },
        )
        checkpoints.remove()
        emit.progress("store", 1, 1)
        return values
