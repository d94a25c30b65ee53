"""Looking at the hold-out in the middle of a run leaves no trace in it."""

from __future__ import annotations

import tiny
from cloister.api import LoraConfig


def test_the_trajectory_is_the_same() -> None:
    lora = LoraConfig(rank=4, alpha=8, dropout=0.1)  # dropout draws random numbers, which must stay in step
    runs = [
        tiny.fine_tune(
            tiny.config(lora=lora, eval_every=every), made=tiny.adapted(lora=lora), holdout=holdout
        )
        for every, holdout in ((0, 0), (1, 16), (5, 7))
    ]
    for other in runs[1:]:
        assert other.losses == runs[0].losses
        assert tiny.same_adapter(other.last, runs[0].last)
