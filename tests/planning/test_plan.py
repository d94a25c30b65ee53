"""The plan's arithmetic against the parts that it speaks of, and what it advises."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from cloister.api import EvaluateConfig, LoraConfig, TableConfig, TrainConfig
from cloister.models.base import base_details
from cloister.models.files import Folder
from cloister.planning.lengths import Lengths
from cloister.planning.memory import COPIES, COPY_EVERY, GIB, Device, serving_bytes, training_parts
from cloister.planning.money import Prices, cost_of
from cloister.planning.plan import Known, Machine, plan_run
from cloister.planning.shape import ModelShape
from cloister.planning.time import Seen, looks_of, rate_guessed, steps_of
from cloister.training import before
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


def plan(  # type: ignore[no-untyped-def]
    config: TrainConfig,
    machine: Machine = CPU,
    shape: ModelShape = LLAMA_8B,
    known: Known = Known(),
    prices: Prices = Prices(),
):
    return plan_run(shape, config, LENGTHS, Lengths(100, 40_000, 2048, 0.4, True), machine, known, prices)


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
    ("steps", "held_out", "copies"),
    [(400, 0, 0), (10, 9, 1), (20, 9, 2), (39, 9, 2), (40, 9, 3), (400, 9, 3)],
)
def test_copies_of_the_adapter_are_counted_where_they_lie(steps: int, held_out: int, copies: int) -> None:
    """The best one, and those along the way; what they hold is what a run keeps them as."""
    config = TrainConfig(max_steps=steps, epochs=100)
    alone = training_parts(LLAMA_8B, config, LENGTHS, "cpu")
    parts = training_parts(LLAMA_8B, config, LENGTHS, "cpu", held_out=held_out)
    adapter = {part.name: part for part in parts}["adapter"]
    one = 4 * LLAMA_8B.adapter_parameters(config.lora.rank)
    assert adapter.bytes - {part.name: part for part in alone}["adapter"].bytes == copies * one
    assert ("cop" in adapter.of) == bool(copies)
    on_gpu = [training_parts(LLAMA_8B, config, LENGTHS, "cuda", held_out=tokens) for tokens in (0, held_out)]
    assert on_gpu[0] == on_gpu[1], "there they lie in the host's memory"


def test_copies_are_counted_as_a_run_keeps_them() -> None:
    kept = before.Before(wanted=True)
    made = [kept.keep(step, dict) or len(kept._copies) for step in range(1, 5 * COPY_EVERY)]
    assert max(made) == COPIES and made.index(1) + 1 == COPY_EVERY == before.EVERY


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
    assert (plan(two).processes, plan(two, card).processes) == (2, 2)


def test_two_cards_take_half_the_time_at_the_same_price_and_two_processes_share_the_cores() -> None:
    one, two = TrainConfig(), TrainConfig(processes=2)
    card = Machine("cuda", 24 * GIB, 8, gpu="NVIDIA L4")
    alone, both = (plan(config, card, prices=Prices(device_hour=3.0)) for config in (one, two))
    assert both.seconds == pytest.approx(alone.seconds / 2) and both.money == pytest.approx(alone.money)
    assert plan(two).seconds == pytest.approx(plan(one).seconds)


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
    assert least <= memory(rows, length + 8, rank)


@pytest.mark.parametrize("machine", [CPU, Machine("cuda", 8 * GIB, 4)])
def test_a_micro_batch_has_no_more_rows_than_the_dataset(machine: Machine) -> None:
    few = replace(LENGTHS, rows=3, tokens=1_200)
    config = TrainConfig(micro_batch_size=16, batch_size=16)
    parts = {part.name: part for part in training_parts(LLAMA_8B, config, few, machine.device)}
    assert parts["activations"].of.startswith("3 x ")
    same = config.model_copy(update={"micro_batch_size": 3})
    assert list(parts.values()) == list(training_parts(LLAMA_8B, same, few, machine.device))
    told = plan_run(LLAMA_8B, config, few, Lengths(0, 0, 0, 0, True), machine, Known(), Prices())
    sizes = [each.change["micro_batch_size"] for each in told.advice if "micro_batch_size" in each.change]
    assert sizes and max(sizes) < 3


def test_on_a_card_attention_keeps_no_scores_of_short_rows_either() -> None:
    """On a CPU rows of up to 512 tokens do; flash attention keeps a sum for each token and head."""
    config = TrainConfig(batch_size=16, micro_batch_size=16, max_length=512)

    def activations(device: Device) -> int:
        parts = training_parts(LLAMA_8B, config, replace(LENGTHS, longest=512), device)
        return next(part.bytes for part in parts if part.name == "activations")

    scores = LLAMA_8B.layers * 2 * LLAMA_8B.heads * 512 * 512 * 16
    assert activations("cpu") > scores > activations("cpu") / 1.22 - activations("cuda") > scores / 2


def test_runs_that_were_seen_correct_time_and_memory() -> None:
    config = TrainConfig(micro_batch_size=1, max_length=512)
    first = plan(config)
    assert not first.time_measured and first.seconds_low < first.seconds < first.seconds_high
    twice = rate_guessed(None, CPU.cores) * 2
    second = plan(config, known=Known(runs=[Seen(twice, 1.0)], peaks=[1.5]))
    assert second.time_measured and second.memory_measured
    assert second.seconds == pytest.approx(first.seconds / 2)
    assert second.memory == pytest.approx(first.memory * 1.5, rel=1e-6)


def test_a_card_is_known_by_its_whole_name() -> None:
    known = {"NVIDIA H200": 989, "NVIDIA GH200 480GB": 989, "NVIDIA A100-SXM4-80GB": 312, "NVIDIA A10": 125}
    for name, teraflops in known.items():
        assert rate_guessed(name, 1) == pytest.approx(teraflops * 1e12 * 0.3)
    assert rate_guessed("NVIDIA RTX A1000", 1) == rate_guessed("NVIDIA of tomorrow", 1)


def test_what_is_measured_afterwards_takes_time_and_money_too() -> None:
    config, held = TrainConfig(), Lengths(100, 40_000, 2048, 0.4, True)
    prices = Prices(device_hour=3.6)

    def planned(evaluate: EvaluateConfig | None, **seen: object):  # type: ignore[no-untyped-def]
        return plan_run(LLAMA_8B, config, LENGTHS, held, CPU, Known(**seen), prices, evaluate)

    none, pair, full = (planned(one) for one in (None, EvaluateConfig(), EvaluateConfig(table=TableConfig())))
    assert none.measuring_seconds == 0 < pair.measuring_seconds < full.measuring_seconds
    assert none.seconds == pair.seconds == full.seconds
    assert pair.money - none.money == pytest.approx(pair.measuring_seconds / 1000)
    few = planned(EvaluateConfig(max_rows=10))
    assert few.measuring_seconds == pytest.approx(pair.measuring_seconds / 10, rel=0.01)
    seen = planned(EvaluateConfig(max_rows=10), evaluations=[3.0, 2.0, 9.0])
    assert seen.measuring_seconds == 30 and seen.measuring_measured and not few.measuring_measured
    nothing_held = plan_run(
        LLAMA_8B, config, LENGTHS, Lengths(0, 0, 0, 0.4, True), CPU, Known(), prices, EvaluateConfig()
    )
    assert nothing_held.measuring_seconds == 0


@pytest.mark.parametrize(
    ("settings", "looks"),
    [({}, 3), ({"evals_per_epoch": 4}, 12), ({"eval_every": 10}, 19), ({"evals_per_epoch": 0.5}, 2)],
)
def test_looks_at_the_hold_out_are_counted_as_the_run_takes_them(
    settings: dict[str, float], looks: int
) -> None:
    """Three epochs of 63 steps; the last look is after the last step."""
    assert looks_of(TrainConfig(**settings), 1000) == looks


def test_tokenised_rows_are_kept_in_memory_and_planned_with() -> None:
    many = Lengths(5_000_000, 2_000_000_000, 2048, 0.4, True)
    held = Lengths(500_000, 200_000_000, 2048, 0.4, True)
    found = plan_run(LLAMA_8B, TrainConfig(), many, held, CPU, Known(), Prices())
    rows = {part.name: part.bytes for part in found.parts}["rows"]
    assert rows == 5 * 2_200_000_000
    on_card = training_parts(LLAMA_8B, TrainConfig(), many, "cuda")
    assert "rows" not in {part.name for part in on_card}


def test_rows_beside_a_gpu_are_told_where_they_are_many() -> None:
    many = Lengths(rows=3_000_000, tokens=1_200_000_000, longest=2048, supervised_share=0.4, measured=True)
    none = Lengths(0, 0, 0, 0.4, True)

    def notes(device: Device, lengths: Lengths, processes: int = 1) -> list[str]:
        machine = Machine(device, 80 * GIB, 16)
        config = TrainConfig(max_length=2048, processes=processes)
        return plan_run(LLAMA_8B, config, lengths, none, machine, Known(), Prices()).notes

    assert ["5.6 GiB" in note for note in notes("cuda", many)] == [True]
    assert ["11.2 GiB" in note for note in notes("cuda", many, 2)] == [True], "each process holds them"
    assert notes("cuda", LENGTHS) == notes("cpu", many) == []


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


def test_long_texts_are_planned_in_the_windows_that_they_are_read_in() -> None:
    config = TrainConfig(max_length=2048, epochs=1, batch_size=32, loss_on="all")
    texts = Lengths(100, 10_000_000, 400_000, 1.0, measured=True, texts=True)
    none = Lengths(0, 0, 0, 1.0, measured=True)
    found = plan_run(LLAMA_8B, config, texts, none, CPU, Known(), Prices())
    windows = sum(-(-(100_000 - 1) // 2047) for _ in range(100))
    assert found.rows == pytest.approx(windows, rel=0.02)
    assert found.steps == math.ceil(found.rows / 32) and found.tokens == pytest.approx(10_000_000, rel=0.001)
    assert not found.notes, "no text is too long"
    short = Lengths(100, 100 * 50, 90, 1.0, measured=True, texts=True)
    assert short.windowed(2048) is short
    mixed = Lengths(1000, 1000 * 50 + 3000, 3000, 1.0, measured=True, texts=True)
    assert 1000 <= mixed.windowed(2048).rows < 1010


def test_what_would_refuse_the_run_is_told_before_it_waits() -> None:
    def notes(config: TrainConfig, machine: Machine = CPU, held: int = 100) -> list[str]:
        holdout = Lengths(held, held * 400, 2048, 0.4, True)
        return plan_run(LLAMA_8B, config, LENGTHS, holdout, machine, Known(), Prices()).notes

    assert notes(TrainConfig(max_length=2048)) == []
    (bold,) = notes(TrainConfig(max_length=2048, learning_rate=1.0))
    assert "learning rate of 1 is far above" in bold
    assert not plan_run(
        LLAMA_8B, TrainConfig(max_length=2048), LENGTHS, LENGTHS, CPU, Known(), Prices()
    ).refused
    assert plan_run(LLAMA_8B, TrainConfig(max_length=1024), LENGTHS, LENGTHS, CPU, Known(), Prices()).refused
    (long,) = notes(TrainConfig(max_length=1024))
    assert "2048 tokens" in long and "max_length is 1024" in long
    (patient,) = notes(TrainConfig(max_length=2048, patience=2), held=0)
    assert "no hold-out" in patient
    paged = TrainConfig(max_length=2048, optimizer="paged_adamw_8bit")
    assert len(notes(paged)) == 1 and notes(paged, Machine("cuda", 24 * GIB, 8, gpu="NVIDIA L4")) == []


@pytest.mark.parametrize(
    ("longest", "measured", "max_length", "said"),
    [
        (4096, False, 4096, "Rows may have up to 4096 tokens"),
        (1500, True, 4096, "Rows have up to 1500 tokens"),
        (1024, True, 4096, None),
        (4096, False, 1024, None),
    ],
)
def test_rows_beyond_the_base_models_context_are_told(
    longest: int, measured: bool, max_length: int, said: str | None
) -> None:
    lengths = Lengths(100, 40_000, longest, 0.4, measured)
    settings = TrainConfig(max_length=max_length)
    found = plan_run(LLAMA_8B, settings, lengths, lengths, CPU, Known(), Prices(), context=1024)
    told = [note for note in found.notes if "context" in note]
    assert [note.startswith(said or "-") for note in told] == ([True] if said else [])
    assert not found.refused
    unknown = plan_run(LLAMA_8B, settings, lengths, lengths, CPU, Known(), Prices())
    assert not any("context" in note for note in unknown.notes)
