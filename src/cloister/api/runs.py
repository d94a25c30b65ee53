"""Fine-tunings: the frozen settings of one, how it is asked for, how it went.

What one would take beforehand is in `plans`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from cloister.api.evaluations import EvaluateConfig
from cloister.api.jobs import Job
from cloister.api.rendering import LossOn, TemplateName
from cloister.api.words import LARGEST, Document, Name, Seed


class LoraConfig(Document):
    """The adapter: rank, scale and dropout; on every linear layer.

    `alpha / rank` multiplies B·A; with `rslora` (rank-stabilised) it is `alpha / sqrt(rank)`, which keeps high ranks
    learning. `dora` trains the length of each output row of a weight apart from its direction: nearer to full
    fine-tuning at low ranks, slower, served merged like any other.
    """

    rank: int = Field(default=16, ge=1, le=512)
    alpha: float = Field(default=32.0, gt=0, allow_inf_nan=False)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    rslora: bool = False
    dora: bool = False


class TrainConfig(Document):
    """One fine-tuning run, frozen. Counts of rows are of the training split.

    `batch_size` is rows an optimizer step; `micro_batch_size` how many of them go through the model at
    once (same result, less memory). `max_length` is in tokens: longer conversations refuse the run, longer plain
    texts are read in windows of so many. Intervals `eval_every` and `checkpoint_every` are in optimizer steps; where
    they are 0, `evals_per_epoch` and `checkpoints_per_epoch` say how often, spread evenly over each epoch; a checkpoint
    comes then a quarter of an hour after the last one, too.

    `max_rows` is how many rows of the training side are learnt, drawn by `seed`, the fewer among the more; 0 all.

    `template`: `auto` and `model` are the base model's own chat template; ours have to fit its tokenizer.
    `packing` lays the rows of a step end to end, no padding between them and none seeing another: `auto` where a
    probe finds that exact (on a CPU also only where there is much to pad), `on` refuses where it is not, `off` pads
    rows of like length side by side.
    `patience` ends a run after so many evaluations in a row without a lower hold-out loss; 0 never.
    `optimizer` `auto` is 8-bit paged AdamW on a GPU, AdamW elsewhere. `gradient_checkpointing` `auto` recomputes
    activations only where the probe runs out of memory without. `processes` share each step's rows, one a device, in
    one sandbox; they start once that many are free.
    """

    method: Literal["qlora", "lora"] = "qlora"
    lora: LoraConfig = LoraConfig()
    epochs: float = Field(default=3.0, gt=0, le=1000)
    max_steps: int | None = Field(default=None, ge=1, le=LARGEST)
    learning_rate: float = Field(default=2e-4, gt=0, le=1)
    lr_scheduler: Literal["cosine", "linear", "constant"] = "cosine"
    warmup_ratio: float = Field(default=0.05, ge=0, lt=1)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    max_grad_norm: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = "auto"
    batch_size: int = Field(default=16, ge=1, le=LARGEST)
    micro_batch_size: int = Field(default=16, ge=1, le=LARGEST)
    max_length: int = Field(default=1024, ge=8, le=LARGEST)
    max_rows: int = Field(default=0, ge=0, le=LARGEST)
    loss_on: LossOn = "assistant"
    template: TemplateName = "auto"
    packing: Literal["auto", "on", "off"] = "auto"
    gradient_checkpointing: bool | Literal["auto"] = "auto"
    processes: int = Field(default=1, ge=1, le=64)
    patience: int = Field(default=0, ge=0, le=LARGEST)
    eval_every: int = Field(default=0, ge=0, le=LARGEST)
    evals_per_epoch: float = Field(default=1.0, gt=0, le=LARGEST)
    checkpoint_every: int = Field(default=0, ge=0, le=LARGEST)
    checkpoints_per_epoch: float = Field(default=1.0, gt=0, le=LARGEST)
    seed: Seed = 0

    @model_validator(mode="after")
    def _one_of_both(self) -> TrainConfig:
        for steps, share in (
            ("eval_every", "evals_per_epoch"),
            ("checkpoint_every", "checkpoints_per_epoch"),
        ):
            if getattr(self, steps) and getattr(self, share) != 1.0:
                raise ValueError(f"{steps} or {share}, not both: leave {steps} at 0, or {share} at 1")
        return self

    @classmethod
    def frozen(cls, document: Mapping[str, Any]) -> TrainConfig:
        """As it was frozen whole, perhaps by a version that knew fewer settings: what it does not name is as it was
        done before it could be named. That is the default, but for packing, of which there was none."""
        return cls.model_validate({"packing": "off", **document})


class RunRequest(Document):
    """A fine-tuning to start. Datasets and bases by name or id; `holdout` overrides the split.

    With `from_run` it goes on with what that run has learnt: the same base, and an adapter of the same form.
    With `rebase_of` it repeats that run, and is refused where its data have a newer version by now.
    What has the higher priority starts first; among equals people take turns.
    """

    name: Name
    dataset: str
    base: str
    holdout: str | None = None
    from_run: str | None = None
    rebase_of: str | None = None
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig | None = EvaluateConfig()
    priority: int = Field(default=0, ge=-10, le=10)


class Run(BaseModel):
    """One fine-tuning: its jobs, and what came of it. `from_run` is the id of the run that it went on from.

    A run whose numbers went wrong has a `train_job` that failed, and an `adapter` where there was a good one before.
    """

    run_id: str
    name: str
    dataset: str
    base: str
    holdout: str | None
    train: TrainConfig
    evaluate: EvaluateConfig | None
    created_at: datetime
    created_by: str
    train_job: Job
    evaluate_job: Job | None = None
    adapter: str | None = None
    evaluation: dict[str, Any] | None = None
    from_run: str | None = None


class CurvePoint(BaseModel):
    """Numbers of one optimizer step, by name (`loss`, `holdout_loss`, `learning_rate`, `tokens_per_s`)."""

    step: int
    values: dict[str, float]


class Curve(BaseModel):
    """How a run went, step by step. `thinned`: there are more points than these."""

    run_id: str
    name: str
    points: list[CurvePoint]
    thinned: bool = False
