"""The plan of one run: memory, time and money put together, whether it fits, and what to change where it does not.

Knows the numbers that are handed in; where they came from is their bearer's to say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cloister.api import EvaluateConfig, PlanAdvice, PlanPart, RunPlan, ServePlan, TrainConfig
from cloister.planning.lengths import Lengths
from cloister.planning.memory import BYTES_A_TOKEN, GIB, Device, rows_together, serving_bytes, training_parts
from cloister.planning.money import Prices, cost_of
from cloister.planning.shape import ModelShape
from cloister.planning.time import (
    Seen,
    evaluation_operations,
    forward_operations,
    looks_of,
    rate_guessed,
    rate_seen,
    steps_of,
    training_operations,
)

WIDE = 2.0
"""A guess that nothing measured may be off by so much either way."""
BOLD_RATE = 0.01
"""A learning rate above this one is said to be far above what adapters take."""
SERVED_CONTEXT = 2048
MUCH_BESIDE = 4 * GIB
"""From so many bytes of the machine's own memory on, a plan for a GPU says what its rows take there."""


@dataclass(frozen=True)
class Machine:
    """The device that a run would get, or the least of several. `memory` is its bytes without the reserve; `gpu` is
    its name; `watts` what it draws while it works."""

    device: Device
    memory: int
    cores: int
    gpu: str | None = None
    watts: float | None = None


@dataclass(frozen=True)
class Known:
    """What finished runs showed: how fast, and peak memory as a share of what was planned for them; and finished
    evaluations of the kind that is planned, each in seconds a row."""

    runs: Sequence[Seen] = ()
    peaks: Sequence[float] = ()
    evaluations: Sequence[float] = ()


def plan_run(
    shape: ModelShape,
    config: TrainConfig,
    train: Lengths,
    holdout: Lengths,
    machine: Machine,
    known: Known,
    prices: Prices,
    evaluate: EvaluateConfig | None = None,
    *,
    context: int | None = None,
) -> RunPlan:
    """The plan, with `evaluate` also of what is measured after training. Nothing is refused here: what does not fit is
    said, with what would. `context` is how many positions the base model knows, where that is known."""
    correction = _median(known.peaks)
    refusals = list(_refusals(config, train, holdout, machine))
    doubts = [*_doubts(config), *_beyond(config, train, holdout, context)]
    train, holdout = train.windowed(config.max_length), holdout.windowed(config.max_length)
    parts = training_parts(shape, config, train, machine.device, held_out=holdout.tokens)
    memory = round(_together(config, machine) * sum(part.bytes for part in parts) * (correction or 1.0))
    seconds, low, high = _seconds(shape, config, train, holdout, machine, known)
    measuring = _measuring(shape, train, holdout, machine, known, evaluate)
    devices = _devices(config, machine)  # measuring takes one of them
    cost = cost_of(seconds + measuring / devices, devices, prices, machine.watts)
    served = serving_bytes(shape, min(SERVED_CONTEXT, config.max_length), machine.device)
    fits = memory <= machine.memory
    return RunPlan(
        device=machine.gpu or machine.device,
        processes=config.processes,
        parts=[PlanPart(name=part.name, bytes=part.bytes, of=part.of) for part in parts],
        memory=memory,
        memory_measured=correction is not None,
        available=machine.memory,
        fits=fits,
        advice=[] if fits else list(_advice(shape, config, train, holdout, machine, correction or 1.0)),
        rows=train.rows,
        tokens=train.tokens,
        lengths_measured=train.measured,
        steps=steps_of(config, train.rows),
        seconds=seconds,
        seconds_low=low,
        seconds_high=high,
        time_measured=bool(known.runs),
        measuring_seconds=measuring,
        measuring_measured=bool(known.evaluations),
        energy_kwh=cost.energy_kwh,
        money=cost.money,
        staff_money=cost.staff,
        currency=cost.currency,
        serve=ServePlan(memory=served, available=machine.memory, fits=served <= machine.memory),
        refused=bool(refusals),
        notes=[*refusals, *doubts, *_beside(config, train, holdout, machine)],
    )


def _refusals(config: TrainConfig, train: Lengths, holdout: Lengths, machine: Machine) -> Iterator[str]:
    """Why the run would be refused before its first step, as far as that can be told now."""
    taken_whole = [
        side.longest for side in (train, holdout) if side.rows and side.measured and not side.texts
    ]
    if max(taken_whole, default=0) > config.max_length:
        yield (
            f"The longest row has {max(taken_whole)} tokens, and max_length is {config.max_length}: the run would be "
            "refused. Raise it, or leave such rows out: `cloister dataset derive` with --max-characters."
        )
    if config.patience and not holdout.rows:
        yield "There is no hold-out, and patience counts looks at one: the run would be refused."
    if config.optimizer == "paged_adamw_8bit" and machine.device != "cuda":
        yield "paged_adamw_8bit needs a GPU: the run would be refused. Use `optimizer: auto`."


def _doubts(config: TrainConfig) -> Iterator[str]:
    """What is let be, and seldom meant."""
    if config.learning_rate > BOLD_RATE:
        yield (
            f"A learning rate of {config.learning_rate:g} is far above what adapters take (0.00001 to 0.001): the "
            "run may lose all that it learns."
        )


def _beyond(config: TrainConfig, train: Lengths, holdout: Lengths, context: int | None) -> Iterator[str]:
    """That rows go on where the base model knows no positions any more."""
    longest = min(config.max_length, max(side.longest for side in (train, holdout)))
    if context is not None and longest > context:
        have = "have" if train.measured else "may have"
        yield (
            f"Rows {have} up to {longest} tokens, and the base model's context is of {context}: it knows no positions "
            f"beyond, and an engine will serve none. Set max_length to {context}."
        )


def _beside(config: TrainConfig, train: Lengths, holdout: Lengths, machine: Machine) -> Iterator[str]:
    """What a run on GPUs takes of the machine's own memory, where that is much: each process holds all rows."""
    taken = config.processes * BYTES_A_TOKEN * (train.tokens + holdout.tokens)
    if machine.device == "cuda" and taken >= MUCH_BESIDE:
        yield (
            f"Beside the GPU's, the tokenised rows take {taken / GIB:.1f} GiB of the machine's own memory, which this "
            "plan does not measure."
        )


def _together(config: TrainConfig, machine: Machine) -> int:
    """Processes of the run that share this memory: on a CPU all of them, of GPUs each has its own."""
    return config.processes if machine.device == "cpu" else 1


def _devices(config: TrainConfig, machine: Machine) -> int:
    """Devices that work at the same time: processes on a CPU share its cores."""
    return config.processes if machine.device == "cuda" else 1


def _median(values: Sequence[float]) -> float | None:
    ordered = sorted(values)
    return ordered[len(ordered) // 2] if ordered else None


def _seconds(
    shape: ModelShape, config: TrainConfig, train: Lengths, holdout: Lengths, machine: Machine, known: Known
) -> tuple[float, float, float]:
    """Training and its looks at the hold-out: likely, at best, at worst."""
    looks = 1 + looks_of(config, train.rows) if holdout.rows else 0  # one before the first step
    operations = training_operations(shape, config, train) + looks * forward_operations(shape, holdout)
    operations /= _devices(config, machine)
    seen = rate_seen(known.runs)
    if seen is None:
        rate = rate_guessed(machine.gpu, machine.cores)
        return operations / rate, operations / rate / WIDE, operations / rate * WIDE
    middle, slowest, fastest = seen
    return operations / middle, operations / fastest, operations / slowest


def _measuring(
    shape: ModelShape,
    train: Lengths,
    holdout: Lengths,
    machine: Machine,
    known: Known,
    evaluate: EvaluateConfig | None,
) -> float:
    """Seconds of what is measured after training; 0 where nothing is."""
    if evaluate is None or not holdout.rows:
        return 0.0
    a_row = _median(known.evaluations)
    if a_row is not None:
        return a_row * min(evaluate.max_rows or holdout.rows, holdout.rows)
    seen = rate_seen(known.runs)
    rate = seen[0] if seen is not None else rate_guessed(machine.gpu, machine.cores)
    return evaluation_operations(shape, train, holdout, evaluate) / rate


def _advice(
    shape: ModelShape,
    config: TrainConfig,
    lengths: Lengths,
    holdout: Lengths,
    machine: Machine,
    correction: float,
) -> Iterator[PlanAdvice]:
    """One kind of change after another, each on top of those before it, up to the first that fits."""

    def memory_of(settings: TrainConfig) -> int:
        parts = training_parts(shape, settings, lengths, machine.device, held_out=holdout.tokens)
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
    size = rows_together(config, lengths)
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
