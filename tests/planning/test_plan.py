"""The plan's arithmetic against the parts that it speaks of, and what it advises."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from cloister.api import LoraConfig, TrainConfig
from cloister.models.base import base_details
from cloister.models.files import Folder
from cloister.planning.lengths import Lengths
from cloister.planning.memory import GIB, serving_bytes, training_parts
from cloister.planning.money import Prices, cost_of
from cloister.planning.plan import Known, Machine, plan_run
from cloister.planning.shape import ModelShape
from cloister.planning.time import Seen, rate_guessed, steps_of
from cloister.training.schedule import plan_schedule

LLAMA_8B = ModelShape(
    layers=32, hidden=4096, heads=32, kv_heads=8, head_dim=128, intermediate=14336, vocabulary=128_256,
    linear=((4096, 4096, 64), (4096, 1024, 64), (4096, 14336, 64), (14336, 4096, 32)),
    others=2 * 128_256 * 4096 + 65 * 4096,
)  # fmt: skip
LLAMA_70B = ModelShape(
    layers=80, hidden=8192, heads=64, kv_heads=8, head_dim=128, intermediate=28672, vocabulary=128_256,
    linear=((8192, 8192, 160), (8192, 1024, 160), (8192, 28672, 160), (28672, 8192, 80)),
    others=2 * 128_256 * 8192 + 161 * 8192,
)  # fmt: skip
LENGTHS = Lengths(rows=1000, tokens=400_000, longest=2048, supervised_share=0.4, measured=True)
CPU = Machine("cpu", 8 * GIB, 4)


def plan(config: TrainConfig, machine: Machine = CPU, shape: ModelShape = LLAMA_8B, known: Known = Known()):  # type: ignore[no-untyped-def]
    return plan_run(shape, config, LENGTHS, Lengths(100, 40_000, 2048, 0.4, True), machine, known, Prices())


def test_the_shape_of_a_base_counts_what_the_model_has(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model = tiny.model()
    tiny.save_base(tmp_path, model)
    shape = ModelShape.from_details(base_details(Folder(tmp_path)))
    assert shape is not None
    assert shape.parameters == sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
    adapted = tiny.adapted(lora=LoraConfig(rank=5, alpha=5))
    assert shape.adapter_parameters(5) == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (2, 64, 4, 2, 16)


def test_a_base_imported_before_shapes_were_kept_has_none() -> None:
    assert ModelShape.from_details({"layers": 2}) is None
    assert ModelShape.from_details({"layers": 2, "shape": {"heads": "x"}}) is None


@given(st.integers(1, 5000), st.integers(1, 64), st.floats(0.1, 5), st.one_of(st.none(), st.integers(1, 100)))
def test_steps_are_those_of_the_schedule(rows: int, batch: int, epochs: float, most: int | None) -> None:
    config = TrainConfig(batch_size=batch, epochs=epochs, max_steps=most)
    assert steps_of(config, rows) == plan_schedule(config, math.ceil(rows / batch)).total_steps


@pytest.mark.parametrize(
    ("shape", "low", "high"), [(LLAMA_8B, 6, 17), (LLAMA_70B, 38, 50)], ids=["8B", "70B"]
)
def test_qlora_of_llama_3_takes_what_others_report(shape: ModelShape, low: float, high: float) -> None:
    """7 to 8 billion parameters: 6 to 17 GB by batch and length; 70 billion: the weights in 4 bits and a little."""
    short = TrainConfig(micro_batch_size=1, max_length=512, gradient_checkpointing=True)
    long = TrainConfig(micro_batch_size=1, max_length=2048, gradient_checkpointing=True)
    for config in (short, long):
        gigabytes = sum(part.bytes for part in training_parts(shape, config, LENGTHS, "cuda")) / 1e9
        assert low <= gigabytes <= high


def test_what_does_not_fit_is_told_what_would() -> None:
    config = TrainConfig(batch_size=32, micro_batch_size=32, max_length=2048, method="lora")
    card = Machine("cuda", 24 * GIB, 8, gpu="NVIDIA L4")
    found = plan(config, card)
    assert not found.fits and found.advice[-1].fits
    now = config
    for advice in found.advice:
        now = now.model_copy(update=advice.change)
    again = plan(now, card)
    assert again.fits and again.memory == found.advice[-1].memory
    assert [next(iter(one.change)) for one in found.advice][:2] == [
        "micro_batch_size",
        "gradient_checkpointing",
    ]


def test_processes_share_the_memory_of_a_cpu_and_have_a_card_each() -> None:
    one, two = TrainConfig(), TrainConfig(processes=2)
    assert plan(two).memory == pytest.approx(2 * plan(one).memory, rel=1e-6)
    card = Machine("cuda", 24 * GIB, 8, gpu="NVIDIA L4")
    assert plan(two, card).memory == plan(one, card).memory


def test_nothing_helps_where_the_weights_alone_are_too_large() -> None:
    found = plan(TrainConfig(), Machine("cpu", 2 * GIB, 4))
    assert not found.fits and not any(advice.fits for advice in found.advice)
    assert not found.serve.fits


@given(st.sampled_from([1, 2, 4, 8]), st.integers(64, 2048), st.integers(4, 128))
def test_more_of_anything_never_takes_less(rows: int, length: int, rank: int) -> None:
    def memory(rows: int, length: int, rank: int) -> int:
        config = TrainConfig(
            batch_size=16, micro_batch_size=rows, max_length=length, lora=LoraConfig(rank=rank, alpha=1)
        )
        return sum(part.bytes for part in training_parts(LLAMA_8B, config, LENGTHS, "cuda"))

    least = memory(rows, length, rank)
    assert least <= min(memory(2 * rows, length, rank), memory(rows, length, rank + 1))
    if length > 512 or length < 500:  # above 512 tokens the attention keeps no scores
        assert least <= memory(rows, length + 8, rank)


def test_runs_that_were_seen_correct_time_and_memory() -> None:
    config = TrainConfig(micro_batch_size=1, max_length=512)
    first = plan(config)
    assert not first.time_measured and first.seconds_low < first.seconds < first.seconds_high
    twice = rate_guessed(None, CPU.cores) * 2
    second = plan(config, known=Known(runs=[Seen(twice, 1.0)], peaks=[1.5]))
    assert second.time_measured and second.memory_measured
    assert second.seconds == pytest.approx(first.seconds / 2)
    assert second.memory == pytest.approx(first.memory * 1.5, rel=1e-6)


def test_money_is_told_only_where_there_is_a_price() -> None:
    assert cost_of(3600, 1, Prices()).money is None and cost_of(3600, 1, Prices()).energy_kwh is None
    by_power = cost_of(7200, 2, Prices(watts=500, kwh=0.3))
    assert by_power.energy_kwh == pytest.approx(2.0) and by_power.money == pytest.approx(0.6)
    assert cost_of(3600, 1, Prices(watts=500, kwh=0.3), watts=1000).energy_kwh == pytest.approx(1.0)
    by_hour = cost_of(1800, 1, Prices(device_hour=4, staff_hour=50, preparation_hours=2))
    assert by_hour.device == pytest.approx(2.0) and by_hour.money == pytest.approx(102.0)


def test_a_served_model_takes_its_weights_and_a_cache() -> None:
    one, four = (serving_bytes(LLAMA_8B, 2048, "cuda", sequences=n) for n in (1, 4))
    assert one > 2 * LLAMA_8B.parameters and four - one == 3 * 2 * 2 * 32 * 8 * 128 * 2048
