"""How long a run takes, by the operations that it needs and the rate at which this machine was seen to do them.

Operations are those of matrix products: two a parameter and token forward, two back to the inputs, none for the
frozen weights' gradients; attention besides (Kaplan et al., arXiv 2001.08361, section 2.1).
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cloister.api import EvaluateConfig, TrainConfig
from cloister.planning.lengths import Lengths
from cloister.planning.shape import ModelShape

GPU_TERAFLOPS = {
    "GB200": 2500.0, "B200": 2250.0, "GH200": 989.0, "H200": 989.0, "H100": 989.0, "H20": 148.0, "A100": 312.0,
    "A800": 312.0, "L40S": 362.0, "L40": 181.0, "L4": 121.0, "A40": 150.0, "A30": 165.0, "A10": 125.0,
    "RTX 6000 Ada": 364.0, "RTX A6000": 155.0, "RTX 4090": 165.0, "RTX 5090": 210.0, "RTX 3090": 71.0,
}  # fmt: skip
"""Dense bfloat16 with float32 sums, 10^12 operations a second, from the makers' data sheets."""

UTILISATION = 0.3
"""Of that, on a first guess."""

MAKING = 4.0
"""Answers are made token by token, with all weights read for each."""
FRAMES, ALONE = 3, 5
"""Of an evaluation's table: a question is put in so many other words, and so many are asked alone, for the latency."""


@dataclass(frozen=True)
class Seen:
    """What a finished run did on one device: operations, and the seconds that they took."""

    operations: float
    seconds: float


def steps_of(config: TrainConfig, rows: int) -> int:
    """Optimizer steps of the whole run, as the schedule counts them."""
    an_epoch = math.ceil(rows / config.batch_size)
    total = max(1, math.ceil(config.epochs * an_epoch - 1e-9))
    return total if config.max_steps is None else min(total, config.max_steps)


def looks_of(config: TrainConfig, rows: int) -> int:
    """How often the whole run looks at its hold-out after a step; always after the last one."""
    steps, an_epoch = steps_of(config, rows), max(1, math.ceil(rows / config.batch_size))
    looks = steps / config.eval_every if config.eval_every else steps * config.evals_per_epoch / an_epoch
    return math.ceil(min(steps, looks) - 1e-9)


def tokens_of(config: TrainConfig, lengths: Lengths) -> float:
    """Tokens that the whole run learns on, each as often as it comes."""
    passes = steps_of(config, lengths.rows) * config.batch_size / max(1, lengths.rows)
    return min(passes, config.epochs) * lengths.tokens


def operations_a_token(shape: ModelShape, config: TrainConfig, mean: float, supervised_share: float) -> float:
    """Of learning on one token, in rows of `mean` tokens."""
    adapter = shape.adapter_parameters(config.lora.rank, dora=config.lora.dora)
    attention = 2 * shape.layers * shape.heads * shape.head_dim * mean
    forward = 2 * shape.linear_parameters + 2 * adapter + attention
    forwards = 2 if config.gradient_checkpointing is True else 1
    backward = 2 * shape.linear_parameters + 4 * adapter + 2 * attention
    return forwards * forward + backward + supervised_share * 4 * shape.vocabulary * shape.hidden


def training_operations(shape: ModelShape, config: TrainConfig, lengths: Lengths) -> float:
    """Of all steps, hold-out aside."""
    mean = lengths.tokens / max(1, lengths.rows)
    return tokens_of(config, lengths) * operations_a_token(shape, config, mean, lengths.supervised_share)


def forward_operations(shape: ModelShape, lengths: Lengths) -> float:
    """Of one look at every row, nothing learned."""
    mean = lengths.tokens / max(1, lengths.rows)
    attention = 2 * shape.layers * shape.heads * shape.head_dim * mean
    head = lengths.supervised_share * 2 * shape.vocabulary * shape.hidden
    return lengths.tokens * (2 * shape.linear_parameters + attention + head)


def evaluation_operations(
    shape: ModelShape, train: Lengths, holdout: Lengths, config: EvaluateConfig
) -> float:
    """Of measuring base and tuned model on the hold-out, with the table where `config` has one: losses and answers.

    A token that is made costs `MAKING` times one that is read. A larger model is not counted: nobody has named it yet.
    """
    rows = min(config.max_rows or holdout.rows, holdout.rows)
    those = holdout.of(rows)
    mean = those.tokens / max(1, rows)
    answer = max(1.0, those.supervised_share * mean)
    question = mean - answer
    made = answer if config.max_new_tokens is None else min(float(config.max_new_tokens), answer)
    read, answers = 2 * rows * question, 2 * rows * made
    if config.table is not None:
        table = config.table
        patient = table.untuned_tokens or 2 * answer
        example = train.tokens / max(1, train.rows)
        prompts = [
            question,
            *(question + count * example for count in (table.few_shot, table.retrieve) if count),
        ]
        again = min(table.alike_rows, rows) * (table.repeat + FRAMES)
        read += sum((rows + ALONE) * length for length in prompts) + again * question * (len(prompts) + 1)
        answers += (rows + ALONE) * patient * len(prompts) + again * (patient * len(prompts) + made)
    one = 2 * shape.linear_parameters + 2 * shape.layers * shape.heads * shape.head_dim * mean
    head = 2 * shape.vocabulary * shape.hidden
    return 2 * forward_operations(shape, those) + read * one + answers * MAKING * (one + head)


def rate_seen(past: Sequence[Seen]) -> tuple[float, float, float] | None:
    """Operations a second of finished runs: the median, the slowest, the fastest; None without any."""
    rates = [seen.operations / seen.seconds for seen in past if seen.operations > 0 and seen.seconds > 0]
    return (statistics.median(rates), min(rates), max(rates)) if rates else None


def rate_guessed(gpu: str | None, cores: int) -> float:
    """Operations a second, before anything ran here: by the GPU's name, or some 20 billion a core."""
    if gpu is None:
        return cores * 20e9
    for name, teraflops in GPU_TERAFLOPS.items():
        if re.search(rf"\b{name}\b", gpu, re.IGNORECASE):  # an RTX A1000 is no A100
            return teraflops * 1e12 * UTILISATION
    return 100e12 * UTILISATION
