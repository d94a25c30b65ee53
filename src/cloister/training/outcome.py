"""What a finished run says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class TrainOutcome:
    """What came of a run. Losses are nats a supervised token.

    `train_loss` is the mean of the last epoch's steps; `holdout_loss` that of the best step, None without
    a hold-out. `losses[i]` is the loss of step i + 1, `holdout_losses` pairs of step and loss. `best` and
    `last` are the adapter's tensors, on the CPU. `seconds` counts all attempts, evaluation included;
    `tokens_per_s` counts training alone. `packed` says whether rows lay end to end; `longest` is the longest row
    in tokens, `epoch_rows` and `epoch_tokens` are what one pass over all of them has; a text's windows count as rows.
    `fell_back` says whether memory ran out on the way, so that its peak tells nothing of the settings.
    """

    steps: int
    train_loss: float
    holdout_loss: float | None
    best_step: int
    tokens: int
    supervised_tokens: int
    tokens_per_s: float
    seconds: float
    losses: list[float]
    holdout_losses: list[tuple[int, float]]
    best: Mapping[str, Tensor]
    last: Mapping[str, Tensor]
    packed: bool = False
    longest: int = 0
    epoch_rows: int = 0
    epoch_tokens: int = 0
    fell_back: bool = False
