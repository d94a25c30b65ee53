"""Memory of a run on its device, by part, and of an engine that serves what comes out of it. Bytes throughout.

On a GPU it is the device's memory; on the CPU the resident memory of the worker. The formulas follow what the
recipe keeps; their constants were fitted to measured peaks, see `tests/benchmarks/bench_plan.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cloister.api import TrainConfig
from cloister.planning.lengths import Lengths
from cloister.planning.shape import ModelShape
from cloister.planning.time import steps_of

Device = Literal["cpu", "cuda"]
PartName = Literal["process", "rows", "weights", "adapter", "optimizer", "activations", "logits", "overhead"]

GIB = 1 << 30
NF4_BITS = 4.127
"""Of a weight with double quantisation: 4 bits, 8 bits of scale a block of 64, 32 bits a block of 256 scales
(QLoRA, arXiv 2305.14314, section 3)."""

BYTES_A_TOKEN = 5
"""Of a tokenised row: its id in 32 bits, and whether it is learnt. `training.rows` holds all of them in memory."""

SHORT_ROW = 512
CHUNK, CHUNK_LOGITS = 1024, 1 << 24
"""At most so many positions, and about so many logits, go through the output head at once, see `models.loss`."""

POSITION_STEP = 64
"""On a CPU positions are filled up to a multiple of so many: each new number of them prepares kernels anew, which
takes longer than they run."""


COPY_EVERY, COPIES = 20, 2
"""The adapter is copied every so many steps, and the last of these copies are kept, see `training.before`."""


def head_chunk(vocabulary: int) -> int:
    """How many positions go through an output head of so many tokens at once."""
    return min(CHUNK, max(POSITION_STEP, CHUNK_LOGITS // vocabulary // POSITION_STEP * POSITION_STEP))


@dataclass(frozen=True)
class Part:
    """One thing that takes memory. `of` says in a few words what it depends on."""

    name: PartName
    bytes: int
    of: str


def training_parts(
    shape: ModelShape, config: TrainConfig, lengths: Lengths, device: Device, *, held_out: int = 0
) -> tuple[Part, ...]:
    """What one process of a run takes at its peak, part by part. Of the hold-out there are `held_out` tokens; where
    there are some, the best adapter is kept beside the one that learns, and copies along the way."""
    rows = rows_together(config, lengths)
    longest = min(lengths.longest, config.max_length)
    tokens = rows * longest
    adapter = shape.adapter_parameters(config.lora.rank, dora=config.lora.dora)
    linear_bytes = 2.0
    if config.method == "qlora" and device == "cuda":
        linear_bytes = NF4_BITS / 8
    weights = linear_bytes * shape.linear_parameters + 2 * shape.others
    paged = device == "cuda" and config.optimizer != "adamw"
    recomputed = config.gradient_checkpointing is True
    kept = _KEPT[device] * _layer_bytes(shape, rows, longest, device)
    activations = (shape.layers * tokens * shape.hidden * 2 + kept) if recomputed else shape.layers * kept
    predicted = min(head_chunk(shape.vocabulary), max(1, round(tokens * lengths.supervised_share)))
    bits = "4" if linear_bytes < 2 else "16"
    moments = "two moments a parameter, of 8 bits" if paged else "two moments a parameter"
    seen = ", recomputed" if recomputed else f" through {shape.layers} layers"
    kept_tokens = lengths.tokens + held_out
    copies = 1 + min(COPIES, steps_of(config, lengths.rows) // COPY_EVERY) if held_out else 0
    copies = copies if device == "cpu" else 0  # beside a GPU they lie in the host's memory
    kept_too = f", {copies} cop{'y' if copies == 1 else 'ies'}" if copies else ""
    rows_part = Part("rows", BYTES_A_TOKEN * kept_tokens, f"{kept_tokens} tokens, {BYTES_A_TOKEN} bytes each")
    return (
        Part("process", _PROCESS[device], "Python, torch and its kernels"),
        *((rows_part,) if device == "cpu" else ()),  # beside a GPU they lie in the host's memory
        Part(
            "weights",
            round(weights),
            f"{_counted(shape.parameters)} parameters, layers in {bits} bits",
        ),
        Part(
            "adapter",
            adapter * (8 + 4 * copies),
            f"{_counted(adapter)} parameters and their gradients{kept_too}",
        ),
        Part("optimizer", adapter * (2 if paged else 8), moments),
        Part("activations", round(activations), f"{rows} x {longest} tokens{seen}"),
        Part(
            "logits",
            round(predicted * shape.vocabulary * _LOGIT[device]),
            f"{predicted} x {shape.vocabulary}",
        ),
        Part("overhead", round(_overhead(shape, tokens, device)), "what is in use for a moment"),
    )


def rows_together(config: TrainConfig, lengths: Lengths) -> int:
    """The rows of a run's largest micro-batch: a small dataset fills none."""
    return min(config.micro_batch_size, config.batch_size, max(1, lengths.rows))


def _counted(parameters: int) -> str:
    return f"{parameters / 1e9:.3g} billion" if parameters >= 1e9 else f"{parameters / 1e6:.3g} million"


_PROCESS: dict[Device, int] = {"cpu": 620 << 20, "cuda": 600 << 20}
_LOGIT: dict[Device, int] = {"cpu": 13, "cuda": 12}
_KEPT: dict[Device, float] = {"cpu": 1.22, "cuda": 1.0}
"""What a layer keeps takes so many times its size: pieces in between that the allocator cannot use. Fitted."""


def _layer_bytes(shape: ModelShape, rows: int, length: int, device: Device) -> float:
    """What one layer keeps for its backward pass. On a GPU attention keeps no scores, however short the rows."""
    width = shape.heads * shape.head_dim
    keys = shape.kv_heads * shape.head_dim
    tokens = rows * length
    norms = 2 * 4 * shape.hidden
    attention = 2 * (shape.hidden + width + 2 * keys + width)
    mlp = 2 * (shape.hidden + 4 * shape.intermediate)
    if device == "cuda" or length > SHORT_ROW:
        # No scores, but their sums, and what came out once more, head by head.
        return tokens * (norms + attention + mlp + 4 * shape.heads + 2 * width)
    scores = 2 * shape.heads * length * length * rows
    return tokens * (norms + attention + mlp) + scores


def _overhead(shape: ModelShape, tokens: int, device: Device) -> float:
    """The widest values of a layer and their gradients; on a GPU one layer's weights in 16 bits, on a CPU the output
    head laid out anew for its product."""
    moment = tokens * 2 * (2 * shape.intermediate + 2 * shape.hidden)
    return moment + 2 * (2 * shape.largest_linear if device == "cuda" else shape.vocabulary * shape.hidden)


def serving_bytes(shape: ModelShape, context: int, device: Device, *, sequences: int = 1) -> int:
    """An engine with the merged model in 16 bits and a cache of keys and values for so many full sequences."""
    cache = 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim * context * sequences
    return round(2 * shape.parameters + cache + (1.5 * GIB if device == "cpu" else 1.2 * GIB))
