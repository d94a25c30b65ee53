"""The plan of one run: memory, time and money put together, whether it fits, and what to change where it does not.

Knows the numbers that are handed in; where they came from is their bearer's to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cloister.api import PlanAdvice, PlanPart, RunPlan, ServePlan, TrainConfig
from cloister.planning.lengths import Lengths
from cloister.planning.memory import Device, serving_bytes, training_parts
from cloister.planning.money import Prices, cost_of
from cloister.planning.shape import ModelShape
from cloister.planning.time import (
    Seen,
    forward_operations,
    rate_guessed,
    rate_seen,
    steps_of,
    training_operations,
)

WIDE = 2.0
"""A guess that nothing measured may be off by so much either way."""
SERVED_CONTEXT = 2048


@dataclass(frozen=True)
class Machine:
    """The device that a run would get. `memory` is its bytes without the reserve; `gpu` is its name."""

    device: Device
    memory: int
    cores: int
    gpu: str | None = None
    watts: float | None = None


@dataclass(frozen=True)
class Known:
    """What finished runs showed: how fast, and peak memory as a share of what was planned for them."""

    runs: Sequence[Seen] = ()
    peaks: Sequence[float] = ()


def plan_run(
    shape: ModelShape,
    config: TrainConfig,
    train: Lengths,
    holdout: Lengths,
    machine: Machine,
    known: Known,
    prices: Prices,
) -> RunPlan:
    """The plan. Nothing is refused here: what does not fit is said, with what would."""
    correction = _median(known.peaks)
    parts = training_parts(shape, config, train, machine.device)
    memory = round(_together(config, machine) * sum(part.bytes for part in parts) * (correction or 1.0))
    seconds, low, high = _seconds(shape, config, train, holdout, machine, known)
    cost = cost_of(seconds, config.processes, prices, machine.watts)
    served = serving_bytes(shape, min(SERVED_CONTEXT, config.max_length), machine.device)
    fits = memory <= machine.memory
    return RunPlan(
        device=machine.gpu or machine.device,
        parts=[PlanPart(name=part.name, bytes=part.bytes, of=part.of) for part in parts],
        memory=memory,
        memory_measured=correction is not None,
        available=machine.memory,
        fits=fits,
        advice=[] if fits else list(_advice(shape, config, train, machine, correction or 1.0)),
        rows=train.rows,
        tokens=train.tokens,
        lengths_measured=train.measured,
        steps=steps_of(config, train.rows),
        seconds=seconds,
        seconds_low=low,
        seconds_high=high,
        time_measured=bool(known.runs),
        energy_kwh=cost.energy_kwh,
        money=cost.money,
        currency=cost.currency,
        serve=ServePlan(memory=served, available=machine.memory, fits=served <= machine.memory),
    )


def _together(config: TrainConfig, machine: Machine) -> int:
    """Processes of the run that share this memory: on a CPU all of them, of GPUs each has its own."""
    return config.processes if machine.device == "cpu" else 1


def _median(values: Sequence[float]) -> float | None:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


def _seconds(
    shape: ModelShape, config: TrainConfig, train: Lengths, holdout: Lengths, machine: Machine, known: Known
) -> tuple[float, float, float]:
    """Training and its looks at the hold-out: likely, at best, at worst."""
    steps = steps_of(config, train.rows)
    every = config.eval_every or max(1, -(-train.rows // config.batch_size))
    looks = -(-steps // every) if holdout.rows else 0
    operations = training_operations(shape, config, train) + looks * forward_operations(shape, holdout)
    operations /= config.processes
    seen = rate_seen(known.runs)
    if seen is None:
        rate = rate_guessed(machine.gpu, machine.cores)
        return operations / rate, operations / rate / WIDE, operations / rate * WIDE
    middle, slowest, fastest = seen
    return operations / middle, operations / fastest, operations / slowest


def _advice(
    shape: ModelShape, config: TrainConfig, lengths: Lengths, machine: Machine, correction: float
) -> Iterator[PlanAdvice]:
    """One kind of change after another, each on top of those before it, up to the first that fits."""

    def memory_of(settings: TrainConfig) -> int:
        parts = training_parts(shape, settings, lengths, machine.device)
        return round(_together(settings, machine) * sum(part.bytes for part in parts) * correction)

    now = config
    for kind in _changes(config, machine.device, lengths):
        for changed, costs in kind:
            tried = now.model_copy(update=changed)
            memory = memory_of(tried)
            advice = PlanAdvice(change=changed, costs=costs, memory=memory, fits=memory <= machine.memory)
            if advice.fits:
                yield advice
                return
        now = tried
        yield advice


def _changes(
    config: TrainConfig, device: Device, lengths: Lengths
) -> Iterator[list[tuple[dict[str, Any], str]]]:
    """What saves memory by kind, what costs least first; of one kind the mildest first."""
    size = min(config.micro_batch_size, config.batch_size)
    if size > 1:
        halves = [size >> shift for shift in range(1, size.bit_length())]
        yield [({"micro_batch_size": half}, "the same result, a little slower") for half in halves]
    if config.gradient_checkpointing is not True:
        yield [({"gradient_checkpointing": True}, "the same result, about a third more time")]
    if device == "cuda" and config.method == "lora":
        yield [({"method": "qlora"}, "the base in 4 bits; most tasks lose nothing: measure it")]
    if lengths.longest >= config.max_length > 512:
        shorter = [config.max_length >> shift for shift in range(1, (config.max_length // 512).bit_length())]
        costs = "longer rows would refuse the run: shorten or leave them out first"
        yield [({"max_length": length}, costs) for length in shorter]
