"""What a plan knows of this appliance: rows counted as the run would render them, evaluations, what it draws."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from authority_world import World, moment
from sqlalchemy import select

from cloister.api import EvaluateConfig, JobState, LengthFigures, PlanRequest, TableConfig, TrainConfig
from cloister.appliance.ids import new_id
from cloister.appliance.run_plans import _seen
from cloister.appliance.state import JobRow, ObjectRow, RunRow
from cloister.planning.lengths import Lengths
from cloister.planning.memory import training_parts
from cloister.planning.plan import Machine
from cloister.planning.shape import ModelShape
from cloister.policy.settings import PriceSettings

SHAPE = {
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 16,
    "intermediate": 128,
    "linear": [[64, 64, 8], [64, 128, 6]],
}
DETAILS = {
    "layers": 2,
    "hidden_size": 64,
    "vocab_size": 262,
    "parameters": 100_000,
    "shape": SHAPE,
    "context_length": 1024,
}


def done(world: World, verb: str, seconds: float, config: dict[str, Any], result: dict[str, Any]) -> None:
    """A job on `rows` and `base` that took so long."""
    with world.authority.state.change() as change:
        refs = {
            row.kind: {"object_id": row.object_id, "version": row.version}
            for row in change.session.scalars(select(ObjectRow))
        }
        change.session.add(
            JobRow(
                job_id=new_id("job"),
                verb=verb,
                state=JobState.DONE,
                name=verb,
                config=config,
                inputs={"dataset": refs["dataset"], "base": refs["base"]},
                requested_by="x",
                created_at=change.now,
                started_at=change.now - timedelta(seconds=seconds),
                ended_at=change.now,
                device="cpu",
                result=result,
            )
        )


def reported(tokens: int, supervised: int) -> dict[str, Any]:
    lengths = LengthFigures(total=tokens, shortest=1, longest=50, median=9, p95=40, p99=49, histogram=[])
    return {
        "rows": 100, "train_rows": 80, "holdout_rows": 20, "task": "chat",
        "tokens": lengths.model_dump(), "supervised_tokens": supervised,
    }  # fmt: skip


def planner(world: World) -> Callable[..., Any]:
    """Plans of runs on its dataset and base, of which something is known."""
    with world.authority.state.change() as change:
        for row in change.session.scalars(select(ObjectRow)):
            row.details = DETAILS
            row.counts = {"rows": 100, "train_rows": 80, "holdout_rows": 20}

    def plan(evaluate: EvaluateConfig | None = None, **train: Any) -> Any:
        request = PlanRequest(dataset="rows", base="base", evaluate=evaluate, train=TrainConfig(**train))
        return world.authority.run_plans.plan(request)

    return plan


@moment
async def test_what_was_counted_and_measured_is_taken_from_what_is_alike(world: World) -> None:
    plan = planner(world)
    done(world, "report", 1, {"loss_on": "all"}, reported(9000, 9000))
    assert not plan().lengths_measured, "a count of other rendering is none"
    done(world, "report", 1, {"template": "model"}, reported(1000, 300))
    assert plan().lengths_measured and plan().tokens == 800
    assert plan(loss_on="all").tokens == 7200
    assert not any("context" in note for note in plan(loss_on="last").notes)
    (told,) = [note for note in plan(loss_on="last", max_length=2048).notes if "context" in note]
    assert "may have up to 2048 tokens" in told and "Set max_length to 1024." in told

    pair, full = EvaluateConfig(), EvaluateConfig(table=TableConfig())
    assert plan(pair).measuring_seconds > 0 and not plan(pair).measuring_measured
    done(world, "evaluate", 30, full.model_dump(mode="json"), {"rows": 10})
    assert not plan(pair).measuring_measured, "a whole table says nothing of a pair"
    assert plan(full).measuring_measured and plan(full).measuring_seconds == pytest.approx(60)
    assert plan().measuring_seconds == 0

    await world.restart(prices=PriceSettings(watts=500, kwh=0.4))
    await world.unlock()
    found, training = plan(full), plan()
    assert found.energy_kwh == pytest.approx((found.seconds + 60) / 3600 * 0.5)
    assert found.money == pytest.approx(found.energy_kwh * 0.4) and training.money < found.money
    assert world.authority.run_plans._machine(1).watts == 500


@moment
async def test_rows_that_a_report_saw_refused_are_told_before_the_run_is(world: World) -> None:
    plan = planner(world)
    assert not plan().refused
    rule = "has a system turn that this chat template leaves out, or part of it"
    done(world, "report", 1, {}, reported(1000, 300) | {"lost": {rule: 7, "is longer than 20 tokens": 9}})
    found = plan()
    assert found.refused and f"{rule}: 7 rows" in found.notes[0] and "longer than 20" not in found.notes[0]
    assert not plan(template="chatml").refused, "rendered otherwise nobody has looked"
    done(world, "report", 1, {}, reported(1000, 300) | {"lost": {"is longer than 20 tokens": 9}})
    assert not plan().refused, "the newest report counts"


def trained(world: World, config: TrainConfig, result: dict[str, Any]) -> None:
    """A run on `rows` and `base` that is done."""
    done(world, "train", 60, config.model_dump(mode="json"), result)
    with world.authority.state.change() as change:
        job = change.session.scalars(
            select(JobRow).where(JobRow.verb == "train").order_by(JobRow.ended_at.desc())
        ).first()
        assert job is not None
        change.session.add(
            RunRow(
                run_id=new_id("run"),
                name=f"run-{job.job_id}",
                dataset=job.inputs["dataset"]["object_id"],
                base=job.inputs["base"]["object_id"],
                train=config.model_dump(mode="json"),
                created_at=change.now,
                created_by="x",
                train_job=job.job_id,
            )
        )


@moment
async def test_a_run_that_was_made_tells_of_texts_and_one_that_fell_back_nothing_of_memory(
    world: World,
) -> None:
    with world.authority.state.change() as change:
        for row in change.session.scalars(select(ObjectRow)):
            row.details = {**DETAILS, "task": "text"}
            row.counts = {"rows": 100, "train_rows": 80, "holdout_rows": 20}
    config = TrainConfig(loss_on="all", epochs=2, max_length=128, batch_size=8)

    def plan(**changes: Any) -> Any:
        request = PlanRequest(
            dataset="rows", base="base", evaluate=None, train=config.model_copy(update=changes)
        )
        return world.authority.run_plans.plan(request)

    result: dict[str, Any] = {
        "tokens": 2 * 128_000, "supervised_tokens": 2 * 127_000, "longest": 128, "steps": 250,
        "tokens_per_s": 1000.0, "peak_bytes": 1 << 40, "epoch_rows": 1000, "epoch_tokens": 128_000,
    }  # fmt: skip
    trained(world, config, {**result, "fell_back": True})
    found = plan()
    assert found.lengths_measured and found.time_measured and not found.memory_measured
    assert found.rows == pytest.approx(1000, rel=0.06), "80 texts, in windows"
    assert found.tokens == pytest.approx(128_000, rel=0.01) and found.steps == pytest.approx(250, rel=0.06)
    assert plan(max_length=1024).rows == pytest.approx(127_000 / 1023 + 40, rel=0.02)
    trained(world, config, result)
    assert plan().memory_measured
    assert plan().memory == pytest.approx(1 << 40, rel=0.02), (
        "it had a hold-out, and copies, as this one will"
    )


@moment
async def test_what_cuda_takes_beside_torch_is_in_no_peak_and_no_fault_of_the_plan(world: World) -> None:
    with world.authority.state.change() as change:
        for row in change.session.scalars(select(ObjectRow)):
            row.details = DETAILS
    config = TrainConfig(epochs=1, max_length=128, batch_size=8)
    lengths = Lengths(rows=80, tokens=8000, longest=128, supervised_share=0.5, measured=True)
    shape = ModelShape.from_details(DETAILS)
    assert shape is not None
    held = [part.bytes for part in training_parts(shape, config, lengths, "cuda") if part.name != "process"]
    result = {
        "tokens": 8000, "supervised_tokens": 4000, "tokens_per_s": 1000.0, "steps": 10, "longest": 128,
        "peak_bytes": sum(held),
    }  # fmt: skip
    trained(world, config, result)
    with world.authority.state.change() as change:
        run, job = change.session.execute(
            select(RunRow, JobRow).join(JobRow, JobRow.job_id == RunRow.train_job)
        ).one()
        job.device = "cuda:0"
        ((_, ratio),) = _seen(change.session, run, job, Machine("cuda", 24 << 30, 8, gpu="NVIDIA L4"))
    assert ratio == pytest.approx(1.0)


@moment
async def test_a_rate_at_which_a_run_went_wrong_is_warned_of(world: World) -> None:
    with world.authority.state.change() as change:
        for row in change.session.scalars(select(ObjectRow)):
            row.details = DETAILS
            row.counts = {"rows": 100, "train_rows": 80, "holdout_rows": 20}

    def warned(rate: float) -> list[str]:
        train = TrainConfig(learning_rate=rate)
        request = PlanRequest(dataset="rows", base="base", evaluate=None, train=train)
        return [note for note in world.authority.run_plans.plan(request).notes if "went wrong" in note]

    trained(world, TrainConfig(learning_rate=0.003), {})
    assert warned(0.003) == [], "it went well"
    for rate, code in ((0.005, "diverged"), (0.002, "diverged"), (0.0001, "out-of-space")):
        trained(world, TrainConfig(learning_rate=rate), {})
        with world.authority.state.change() as change:
            job = change.session.scalars(select(JobRow).order_by(JobRow.ended_at.desc())).first()
            assert job is not None
            job.state, job.error = JobState.FAILED, {"code": code, "detail": "x"}
    assert warned(0.0019) == []
    (told,) = warned(0.002)
    assert "learning rate of 0.002: take a lower one" in told
