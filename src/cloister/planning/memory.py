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

Device = Literal["cpu", "cuda"]
PartName = Literal["process", "weights", "adapter", "optimizer", "activations", "logits", "overhead"]

GIB = 1 << 30
NF4_BITS = 4.127
"""Of a weight with double quantisation: 4 bits, 8 bits of scale a block of 64, 32 bits a block of 256 scales
(QLoRA, arXiv 2305.14314, section 3)."""

SHORT_ROW = 512
CHUNK = 4096
"""Positions that go through the output head at once, see `models.loss`."""


@dataclass(frozen=True)
class Part:
    """One thing that takes memory. `of` says in a few words what it depends on."""

    name: PartName
    bytes: int
    of: str


def training_parts(
    shape: ModelShape, config: TrainConfig, lengths: Lengths, device: Device
) -> tuple[Part, ...]:
    """What one process of a run takes at its peak, part by part."""
    rows = min(config.micro_batch_size, config.batch_size)
    longest = min(lengths.longest, config.max_length)
    tokens = rows * longest
    adapter = shape.adapter_parameters(config.lora.rank, dora=config.lora.dora)
    linear_bytes = 2.0
    if config.method == "qlora" and device == "cuda":
        linear_bytes = NF4_BITS / 8
    weights = linear_bytes * shape.linear_parameters + 2 * shape.others
    paged = device == "cuda" and config.optimizer != "adamw"
    recomputed = config.gradient_checkpointing is True
    kept = _layer_bytes(shape, rows, longest)
    activations = (shape.layers * tokens * shape.hidden * 2 + kept) if recomputed else shape.layers * kept
    predicted = min(CHUNK, max(1, round(tokens * lengths.supervised_share)))
    bits = "4" if linear_bytes < 2 else "16"
    moments = "two moments a parameter, of 8 bits" if paged else "two moments a parameter"
    seen = ", recomputed" if recomputed else f" through {shape.layers} layers"
    return (
        Part("process", _PROCESS[device], "Python, torch and its kernels"),
        Part(
            "weights",
            round(weights),
            f"{shape.parameters / 1e9:.3g} billion parameters, layers in {bits} bits",
        ),
        Part("adapter", adapter * 8, f"{adapter / 1e6:.3g} million parameters and their gradients"),
        Part("optimizer", adapter * (2 if paged else 8), moments),
        Part("activations", round(activations), f"{rows} x {longest} tokens{seen}"),
        Part(
            "logits",
            round(predicted * shape.vocabulary * _LOGIT[device]),
            f"{predicted} x {shape.vocabulary}",
        ),
        Part("overhead", round(_overhead(shape, tokens, device)), "what is in use for a moment"),
    )


_PROCESS: dict[Device, int] = {"cpu": 620 << 20, "cuda": 600 << 20}
_LOGIT: dict[Device, int] = {"cpu": 16, "cuda": 12}


def _layer_bytes(shape: ModelShape, rows: int, length: int) -> float:
    """What one layer keeps for its backward pass."""
    width = shape.heads * shape.head_dim
    keys = shape.kv_heads * shape.head_dim
    tokens = rows * length
    norms = 2 * 4 * shape.hidden
    attention = 2 * (shape.hidden + width + 2 * keys + width)
    mlp = 2 * (shape.hidden + 4 * shape.intermediate)
    scores = 2 * shape.heads * length * length * rows if length <= SHORT_ROW else 4 * shape.heads * tokens
    return tokens * (norms + attention + mlp) + scores


def _overhead(shape: ModelShape, tokens: int, device: Device) -> float:
    """The widest values of a layer and their gradients, and on a GPU one layer's weights in 16 bits."""
    moment = tokens * 2 * (2 * shape.intermediate + 2 * shape.hidden)
    return moment + (2 * 2 * shape.largest_linear if device == "cuda" else 0)


def serving_bytes(shape: ModelShape, context: int, device: Device, *, sequences: int = 1) -> int:
    """An engine with the merged model in 16 bits and a cache of keys and values for so many full sequences."""
    cache = 2 * 2 * shape.layers * shape.kv_heads * shape.head_dim * context * sequences
    return round(2 * shape.parameters + cache + (1.5 * GIB if device == "cpu" else 1.2 * GIB))
