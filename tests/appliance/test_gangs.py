"""Jobs that take several devices: all at once or none, kept for the one that is next, out of the way of engines."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from authority_world import PEER, World, moment
from hypothesis import given
from hypothesis import strategies as st

from cloister.api import JobState, ObjectKind, PlanRequest, RunRequest, ServeRequest, TrainConfig
from cloister.appliance.devices import Devices, each_of
from cloister.appliance.documents import worker_documents
from cloister.appliance.forecast import Asked, starts
from cloister.appliance.room import GIB, Room, need_of
from cloister.appliance.state import JobRow
from cloister.errors import InvalidInput
from cloister.policy.settings import QueueSettings


def test_several_come_together_or_not_at_all() -> None:
    devices = Devices(QueueSettings(), (0, 1, 2))
    assert devices.take("one") == "cuda:0"
    assert devices.take("three", 3) is None and devices.free == 2, "it holds nothing while it waits"
    assert devices.take("two", 2) == "cuda:1,cuda:2"
    assert devices.take("two", 2) == "cuda:1,cuda:2", "asked again, they are the same"
    assert devices.holder("cuda:2") == ["two"] and devices.free == 0
    assert devices.held_by_others({"two"}) == 1
    devices.release("two")
    assert devices.free == 2


def test_what_held_several_before_a_restart_holds_them_after() -> None:
    places = Devices(QueueSettings(heavy_slots=3), ())
    held = places.take("two", 2)
    assert held == "cpu,cpu" and each_of(held) == ("cpu", "cpu") and each_of(None) == ("cpu",)
    after = Devices(QueueSettings(heavy_slots=3), ())
    after.keep("two", held)
    assert after.free == 1 and after.take("more", 2) is None
    after.release("two")
    assert after.free == 3


def test_engines_get_what_a_job_of_several_lets_go() -> None:
    async def inside() -> None:
        devices = Devices(QueueSettings(), (0, 1))
        devices.take("wide", 2)
        engines = [asyncio.create_task(devices.wait(name)) for name in ("first", "second", "third")]
        await asyncio.sleep(0)
        assert devices.held_by_others({"wide"}) == 3
        devices.release("wide")
        assert [await engine for engine in engines[:2]] == ["cuda:0", "cuda:1"]
        assert devices.waiting == ("third",) and devices.free == 0
        engines[2].cancel()

    asyncio.run(inside())


HOLDERS = st.lists(st.tuples(st.booleans(), st.integers(1, 4), st.integers(0, 7)), max_size=40)


@given(HOLDERS)
def test_no_place_has_two_holders_and_none_is_lost(moves: list[tuple[bool, int, int]]) -> None:
    devices = Devices(QueueSettings(), (0, 1, 2, 3))
    held: dict[str, tuple[str, ...]] = {}
    for takes, count, who in moves:
        holder = str(who)
        if takes and holder not in held:
            given_ = devices.take(holder, count)
            assert (given_ is None) == (count > 4 - sum(map(len, held.values())))
            if given_ is not None:
                held[holder] = each_of(given_)
        elif not takes:
            devices.release(holder)
            held.pop(holder, None)
        names = [name for places in held.values() for name in places]
        assert len(names) == len(set(names)) and devices.free == 4 - len(names)


def test_forecasts_of_jobs_that_take_several() -> None:
    known = {"train": 100.0, "train on 2": 50.0}
    wide, one = Asked("train on 2", 2), Asked("train")
    assert starts([wide, one], [30.0], 2, known) == [30.0, 80.0], "nobody overtakes it"
    assert starts([one, wide, one], [], 2, known) == [0.0, 100.0, 150.0]
    assert starts([wide, one], [None], 2, known) == [None, None], "the free place is kept for it"
    assert starts([wide, one], [None], 2, known, out_of_reach=1) == [None, 0.0], "an engine has the other"


def test_each_process_has_the_base_in_memory() -> None:
    one, two = need_of("train", 4 * GIB, "cuda:0"), need_of("train", 4 * GIB, "cuda:0", 2)
    assert two.memory == 2 * one.memory and two.disk == one.disk


# --- in the queue ------------------------------------------------------------------------------


async def run(here: World, name: str, processes: int, **more: Any) -> str:
    started = await here.authority.requests.start_run(
        PEER,
        RunRequest(
            name=name,
            dataset="rows",
            base="base",
            train=TrainConfig(processes=processes),
            evaluate=None,
            **more,
        ),
    )
    return started.train_job.job_id


def places(here: World, count: int) -> None:
    """As by `queue.heavy_slots`, on a machine with memory for all of them."""
    here.authority.devices.places = ["cpu"] * count
    here.authority.queue.choice._room = Room(QueueSettings(), here.home.root, memory=lambda _: 64 * GIB)


@moment
async def test_a_job_of_several_starts_once_all_are_free_and_nobody_overtakes_it(here: World) -> None:
    places(here, 2)
    first = await run(here, "first", 1)
    await here.runs(first)
    wide = await run(here, "wide", 2)
    await here.until(lambda: wide in here.authority.queue.lacking)
    later = await run(here, "later", 1)
    await asyncio.sleep(0.3)
    assert [here.job(job).state for job in (wide, later)] == [JobState.QUEUED] * 2, "one place is free"
    told = here.authority.overview.job(wide)
    assert told.position == 1 and told.waits_for == "2 devices at once: 1 free, and kept for it"
    assert here.authority.devices.holders == (first,)
    here.go.touch()
    for job in (first, wide, later):
        await here.reaches(job, JobState.DONE)
    assert here.job(wide).device == "cpu,cpu"
    assert here.job(first).ended_at <= here.job(wide).started_at
    assert here.job(wide).ended_at <= here.job(later).started_at
    await here.until(lambda: here.authority.devices.free == 2 and here.authority.devices.kept_for is None)


@moment
async def test_what_is_kept_for_it_goes_to_nobody_whose_turn_comes_then_but_to_a_higher_priority(
    here: World,
) -> None:
    places(here, 2)
    first = await run(here, "first", 1)
    await here.runs(first)
    wide = await run(here, "wide", 2)
    await here.until(lambda: here.authority.devices.kept_for == wide)
    other = await run(here, "other", 1)
    with here.authority.state.change() as change:  # somebody who has nothing running, and never had
        change.session.get_one(JobRow, other).requested_by = "somebody"
    await asyncio.sleep(0.3)
    assert here.job(other).state == JobState.QUEUED
    urgent = await run(here, "urgent", 1, priority=5)
    await here.runs(urgent)
    assert here.job(wide).state == here.job(other).state == JobState.QUEUED
    await here.authority.queue.cancel(PEER, wide)
    here.go.touch()
    await here.reaches(other, JobState.DONE)


@moment
async def test_a_job_that_no_number_of_free_places_would_do_for_is_refused(here: World) -> None:
    places(here, 2)
    with pytest.raises(InvalidInput, match="asks for 3 devices at once, and 2 may be used"):
        await run(here, "three", 3)
    with pytest.raises(InvalidInput, match="3 devices"):
        here.authority.run_plans.plan(
            PlanRequest(dataset="rows", base="base", train=TrainConfig(processes=3))
        )
    first = await run(here, "first", 2)
    await here.runs(first)
    waiting = await run(here, "waiting", 2)
    places(here, 1)  # the settings give out fewer by now
    await here.reaches(waiting, JobState.FAILED)
    assert "needs 2 devices at once, and 1 may be used" in here.job(waiting).error["detail"]
    here.go.touch()
    await here.reaches(first, JobState.DONE)


@moment
async def test_jobs_pass_one_that_engines_leave_too_few_places(here: World) -> None:
    await here.restart(serving={"claim": "wait"})
    await here.unlock()
    places(here, 2)
    here.stored(ObjectKind.MODEL, "merged")
    deployment = await here.authority.serve(PEER, ServeRequest(name="desk", model="merged"))
    await here.runs(deployment.deployment_id)
    wide = await run(here, "wide", 2)
    await here.until(lambda: wide in here.authority.queue.lacking)
    assert here.authority.queue.lacking[wide] == "2 devices at once: of 2, engines have 1"
    later = await run(here, "later", 1)
    await here.runs(later)
    assert here.authority.queue.outlook.forecast() == {wide: (1, None)}
    here.go.touch()
    await here.reaches(later, JobState.DONE)
    assert here.job(wide).state == JobState.QUEUED
    await here.authority.serving.stop(PEER, "desk")
    await here.reaches(wide, JobState.DONE)


@moment
async def test_all_devices_of_a_job_go_into_its_one_sandbox(here: World) -> None:
    places(here, 2)
    job_id = await run(here, "wide", 2)
    await here.runs(job_id)
    row = here.job(job_id)
    row.device = "cuda:0,cuda:2"
    document, spec = worker_documents(here.authority.queue._parts, row, [], {})
    assert document.device == "cuda" and spec.gpus == (0, 2) and document.config["processes"] == 2
    assert spec.shm_mib == 2 * here.authority.settings.sandboxes.shm_mib
