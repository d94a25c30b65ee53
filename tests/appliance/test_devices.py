"""Devices, room and forecasts: who holds what, what waits and why, and what a pause gives back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from authority_world import PEER, World, moment
from hypothesis import given
from hypothesis import strategies as st

from cloister.api import DeploymentState, JobState, ObjectKind, ServeConfig, ServeRequest
from cloister.appliance.devices import Devices, gpu_of, gpus_present
from cloister.appliance.forecast import Asked, starts, typical
from cloister.appliance.room import (
    GIB,
    Need,
    Room,
    memory_of,
    need_of,
    need_of_engine,
    need_of_import,
    written_in,
)
from cloister.appliance.state import JobRow
from cloister.datasets import parquet
from cloister.errors import Conflict, InvalidInput
from cloister.policy.settings import QueueSettings


def test_gpus_are_seen_by_their_device_nodes(tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia12", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    assert gpus_present(tmp_path) == (0, 12)
    assert gpus_present(tmp_path / "gone") == ()
    assert (gpu_of("cuda:12"), gpu_of("cpu")) == (12, None)


@pytest.mark.parametrize(
    ("chosen", "present", "places"),
    [
        ("auto", (), ["cpu", "cpu"]),
        ("auto", (0, 1), ["cuda:0", "cuda:1"]),
        ("cpu", (0, 1), ["cpu", "cpu"]),
        ((1,), (0, 1), ["cuda:1"]),
    ],
)
def test_the_settings_choose_the_places(chosen: object, present: tuple[int, ...], places: list[str]) -> None:
    assert Devices(QueueSettings(devices=chosen, heavy_slots=2), present).places == places


def test_a_gpu_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidInput, match="GPU number 3"):
        Devices(QueueSettings(devices=(0, 3)), (0, 1))


def test_each_place_has_one_holder_and_engines_come_first() -> None:
    async def inside() -> None:
        devices = Devices(QueueSettings(), (0, 1))
        assert (devices.take("a"), devices.take("b"), devices.take("c")) == ("cuda:0", "cuda:1", None)
        assert devices.take("a") == "cuda:0", "asked again, it is the same"
        engine = asyncio.create_task(devices.wait("engine"))
        await asyncio.sleep(0)
        devices.release("nobody")
        devices.release("b")
        assert devices.free == 0, "it is the engine's"
        assert await engine == "cuda:1"
        devices.release("a")
        assert devices.free == 1 and devices.holder("cuda:1") == ["engine"]
        assert devices.share("another") == "cuda:0"

    asyncio.run(inside())


def test_engines_that_share_spread_over_the_devices() -> None:
    devices = Devices(QueueSettings(), (0, 1))
    assert [devices.share("a"), devices.share("b")] == ["cuda:0", "cuda:1"]
    assert devices.share("b") == "cuda:1", "begun anew, it counts once"
    devices.release("a")
    assert devices.take("job") == "cuda:0", "a job goes where no engine is"
    assert devices.free == 1 and devices.share("c") == "cuda:0"
    after = Devices(QueueSettings(), (0, 1))
    after.keep("b", "cuda:0", shared=True)
    assert after.free == 2 and after.share("c") == "cuda:1"


def test_more_holders_than_places_stay_until_they_end() -> None:
    devices = Devices(QueueSettings(heavy_slots=1), ())
    devices.keep("a", "cpu")
    devices.keep("b", None)
    devices.keep("elsewhere", "cuda:0")
    devices.release("a")
    assert devices.free == 0 and devices.take("c") is None, "b still runs"
    devices.release("b")
    assert devices.free == 1 and devices.take("c") == "cpu"


def test_engines_get_freed_places_in_the_order_in_which_they_came() -> None:
    async def inside() -> None:
        devices = Devices(QueueSettings(), (0, 1))
        devices.take("a"), devices.take("b")

        async def make_way() -> None:
            devices.release("a")
            assert devices.free == 0, "it goes to the engine that asked for it"

        assert await devices.wait("first", make_way) == "cuda:0"
        second, third = (asyncio.create_task(devices.wait(name)) for name in ("second", "third"))
        await asyncio.sleep(0)
        devices.release("first")
        assert devices.take("fourth") is None, "it came later"
        assert await second == "cuda:0" and devices.waiting == ("third",)
        devices.release("b")
        third.cancel()  # in the moment in which it was given a place
        await asyncio.gather(third, return_exceptions=True)
        assert devices.free == 1 and devices.holders == ("second",)

    asyncio.run(inside())


def test_an_engine_that_no_longer_waits_holds_nothing_up() -> None:
    async def inside() -> None:
        devices = Devices(QueueSettings(), ())
        devices.take("a")
        engine = asyncio.create_task(devices.wait("engine"))
        await asyncio.sleep(0)
        engine.cancel()
        await asyncio.gather(engine, return_exceptions=True)
        devices.release("a")
        assert devices.free == 1 and devices.waiting == ()

    asyncio.run(inside())


def test_room_says_what_is_lacking_and_what_never_fits() -> None:
    memory = {"MemAvailable": 10 * GIB, "MemTotal": 16 * GIB}
    disk = (4 * GIB, 8 * GIB)
    room = Room(QueueSettings(), Path("/"), memory=lambda field: memory[field], disk=lambda _: disk)
    assert room.lacks(need_of("train", 2 * GIB, "cpu")) is None
    assert "memory: needs about 13.5 GiB" in (room.lacks(need_of("train", 4 * GIB, "cpu")) or "")
    assert room.never(need_of("train", 4 * GIB, "cpu")) is None
    assert "this machine has 16.0" in (room.never(need_of("train", 5 * GIB, "cpu")) or "")
    assert room.lacks(need_of("train", 4 * GIB, "cuda:0")) is None, "a GPU holds the model itself"
    assert "disk: needs about 3." in (room.lacks(need_of("merge", int(1.5 * GIB), "cpu")) or "")
    assert room.lacks(need_of("import", 0, "cpu")) is None
    assert memory_of("MemTotal") > memory_of("MemAvailable") > 0
    # The reserve is never used up, and a disk has an end too: what needs more waits for nothing.
    assert room.never(Need(15 * GIB, 7 * GIB)) is None
    assert "of memory beside the 1.0 kept" in (room.never(Need(15 * GIB + 1, 0)) or "")
    assert "of disk beside the 1.0 kept" in (room.never(Need(0, 7 * GIB + 1)) or "")


def test_an_import_takes_what_its_format_takes() -> None:
    def memory(name: str, **config: object) -> int:
        return need_of_import({"source_name": name, "max_row_bytes": 1 << 20, **config}).memory

    text = memory("claims.csv")
    assert (
        memory("rows.JSONL.zst")
        == memory("rows.json")
        == memory("anything", format="text")
        == text
        < GIB // 2
    )
    for name in (
        "claims.parquet",
        "claims",
        "claims.csv.parquet",
        "rows.gz",
    ):  # what nothing tells may be Parquet
        assert memory(name) - text >= parquet.MEMORY
    assert (
        memory("claims.csv", format="parquet") == memory("claims.parquet") == memory("claims", format="auto")
    )
    assert memory("a.csv", max_row_bytes=64 << 20) - text == 8 * (63 << 20)
    assert memory("a.csv", personal="redact") > text
    assert memory("a.csv", more=["b.jsonl"]) == text < memory("a.csv", more=["b.parquet"])


def test_what_earlier_starts_will_take_is_not_free(tmp_path: Path) -> None:
    room = Room(QueueSettings(), Path("/"), memory=lambda _: 10 * GIB, disk=lambda _: (10 * GIB, 10 * GIB))
    need = Need(5 * GIB, 5 * GIB)
    assert room.lacks(need) is None
    assert "will still take 5.0" in (room.lacks(need, need) or "")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "file").write_bytes(b"x" * 3000)
    assert 3000 <= written_in(tmp_path) < 3 * GIB and written_in(tmp_path / "gone") == 0
    assert need.left(settled=True, written=3000) == Need(0, 5 * GIB - 3000)
    assert need.left(settled=False, written=6 * GIB) == Need(5 * GIB, 0)


@given(
    st.lists(st.builds(Asked, st.sampled_from(["train", "merge", "new"]), st.integers(1, 3)), max_size=8),
    st.lists(st.none() | st.floats(0, 1e5), max_size=4),
    st.integers(0, 4),
)
def test_forecasts_are_in_order_and_only_of_what_is_known(
    waiting: list[Asked], remaining: list[float | None], places: int
) -> None:
    found = starts(waiting, remaining, places, {"train": 60.0, "merge": 5.0})
    assert len(found) == len(waiting)
    assert all(start is None for job, start in zip(waiting, found, strict=True) if job.places > places)
    found = [start for job, start in zip(waiting, found, strict=True) if job.places <= places]
    known = [start for start in found if start is not None]
    assert known == sorted(known)
    assert found[len(known) :] == [None] * (len(found) - len(known))


def test_forecasts() -> None:
    train, new = Asked("train"), Asked("new")
    assert starts([train, train], [30.0], 1, {"train": 100.0}) == [30.0, 130.0]
    assert starts([train, train], [30.0], 2, {"train": 100.0}) == [0.0, 30.0]
    assert starts([train], [None], 1, {"train": 100.0}) == [None]
    assert starts([new, train], [30.0], 1, {"train": 100.0}) == [30.0, None]
    assert typical({"train": [1.0, 2.0, 30.0], "merge": []}) == {"train": 2.0}


# --- in the queue ------------------------------------------------------------------------------


@moment
async def test_a_paused_run_gives_its_place_to_the_next_and_goes_on_when_told(here: World) -> None:
    first = await here.run("first")
    await here.runs(first)
    second = await here.run("second")
    shown = here.authority.overview.job(second)
    assert shown.position == 1 and shown.state == JobState.QUEUED
    await here.authority.queue.pause(PEER, first)
    await here.reaches(first, JobState.PAUSED)
    await here.runs(second)
    await here.restart()
    await here.unlock()
    await here.until(lambda: here.authority.queue.running == [second])
    assert here.job(first).state == JobState.PAUSED, "a restart wakes nothing that somebody paused"
    with pytest.raises(Conflict):
        await here.authority.queue.pause(PEER, first)
    here.go.touch()
    await here.reaches(second, JobState.DONE)
    await here.authority.queue.resume(PEER, first)
    await here.reaches(first, JobState.DONE)
    assert here.job(first).resume and here.actions().count("job.pause") == 1


@moment
async def test_what_waits_can_be_paused_too_and_an_import_cannot(here: World) -> None:
    first, second = await here.run("first"), await here.run("second")
    await here.authority.queue.pause(PEER, second)
    await here.reaches(second, JobState.PAUSED)
    here.go.touch()
    await here.reaches(first, JobState.DONE)
    await asyncio.sleep(0.1)
    assert here.job(second).attempts == 0
    with pytest.raises(Conflict, match="done already"):
        await here.authority.queue.pause(PEER, first)


@moment
async def test_a_retry_begins_anew(here: World) -> None:
    job_id = await here.run()
    await here.runs(job_id)
    await here.authority.queue.cancel(PEER, job_id)
    await here.reaches(job_id, JobState.CANCELLED)
    left = here.home.output_folder(job_id) / "checkpoints" / "old"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    here.go.touch()
    await here.authority.queue.retry(PEER, job_id)
    await here.reaches(job_id, JobState.DONE)
    assert not here.job(job_id).resume and not left.exists()
    assert "job.retry" in here.actions()


@moment
async def test_what_does_not_fit_waits_and_says_so(here: World) -> None:
    queue = here.authority.queue
    memory = {"MemAvailable": GIB, "MemTotal": 64 * GIB}
    queue.choice._room = Room(QueueSettings(), here.home.root, memory=lambda field: memory[field])
    job_id = await here.run()
    await here.until(lambda: job_id in queue.lacking)
    assert (here.authority.overview.job(job_id).waits_for or "").startswith("memory: needs about 1.5 GiB")
    memory["MemAvailable"] = 8 * GIB
    await here.runs(job_id)
    assert job_id not in queue.lacking
    memory["MemTotal"] = GIB
    memory["MemAvailable"] = GIB
    here.go.touch()
    await here.reaches(job_id, JobState.DONE)
    never = await here.run("never")
    await here.reaches(never, JobState.FAILED)
    assert "this machine has 1.0" in here.job(never).error["detail"]


@moment
async def test_two_starts_do_not_count_on_the_same_memory(here: World) -> None:
    await here.restart(queue={"heavy_slots": 2})
    await here.unlock()
    queue = here.authority.queue
    queue.choice._room = Room(
        QueueSettings(), here.home.root, memory=lambda _: int(3.9 * GIB)
    )  # one needs 1.5
    first, second = await here.run("first"), await here.run("second")
    await here.runs(first)
    await here.until(lambda: second in queue.lacking or second in queue.running)
    assert here.job(second).state == JobState.QUEUED and "still take 1.5" in queue.lacking[second]
    with here.authority.state.change() as change:  # as a worker that has loaded its model
        row = change.session.get_one(JobRow, first)
        row.last_event, row.progress = 1, {"stage": "load", "done": 1, "total": 1}
    await here.runs(second)


def test_an_engine_on_a_gpu_keeps_no_weights_in_the_hosts_memory() -> None:
    config = ServeConfig(kv_cache_gib=0.5)
    assert need_of_engine(config, 4 * GIB, "cpu") == Need(6 * GIB)
    assert need_of_engine(config.model_copy(update={"dtype": "float32"}), 4 * GIB, "cpu") == Need(10 * GIB)
    assert need_of_engine(config, 4 * GIB, "cuda:0") == Need(int(1.5 * GIB))
    full = Room(QueueSettings(), Path("/"), memory=lambda _: 8 * GIB, disk=lambda _: (0, 8 * GIB))
    assert full.lacks(Need(6 * GIB)) is None, "it takes no disk"


@moment
async def test_an_engine_that_does_not_fit_now_waits_and_one_that_never_fits_fails(here: World) -> None:
    serving = here.authority.serving
    memory = {"MemAvailable": int(4.4 * GIB), "MemTotal": 64 * GIB}  # each needs 1.75, beside 1.0 in reserve
    serving.starts._room = Room(QueueSettings(), here.home.root, memory=lambda field: memory[field])
    here.stored(ObjectKind.MODEL, "merged")
    first = await here.authority.serve(PEER, ServeRequest(name="first", model="merged"))
    await here.runs(first.deployment_id)
    second = await here.authority.serve(PEER, ServeRequest(name="second", model="merged"))
    await here.until(lambda: serving.listed()[1].error is not None)
    waiting = serving.listed()[1]
    assert waiting.state == "restarting" and waiting.error is not None
    assert waiting.error.detail.startswith("the engine waits for memory: needs about 1.8 GiB")
    assert "what runs will still take 1.8" in waiting.error.detail, "the first has not answered yet"
    await serving.stop(PEER, "first")
    await here.runs(second.deployment_id)
    memory["MemTotal"] = 2 * GIB
    third = await here.authority.serve(PEER, ServeRequest(name="third", model="merged"))
    await here.until(lambda: serving.listed()[2].state == "failed")
    ended = serving.listed()[2]
    assert ended.error is not None and "this machine has 2.0" in ended.error.detail
    assert third.deployment_id not in await here.running()


def serve(here: World) -> ServeRequest:
    here.stored(ObjectKind.MODEL, "merged")
    return ServeRequest(name="desk", model="merged")


@moment
async def test_an_engine_waits_for_a_place_and_jobs_for_the_engine(here: World) -> None:
    await here.restart(serving={"claim": "wait"})
    await here.unlock()
    first = await here.run("first")
    await here.runs(first)
    second = await here.run("second")
    deployment = await here.authority.serve(PEER, serve(here))
    await asyncio.sleep(0.3)
    assert deployment.deployment_id not in await here.running()
    assert here.authority.serving.listed()[0].device is None
    here.go.touch()
    await here.reaches(first, JobState.DONE)
    await here.until(lambda: here.authority.serving.listed()[0].device == "cpu")
    await asyncio.sleep(0.3)
    assert here.job(second).state == JobState.QUEUED, "the engine was first"
    assert here.authority.queue.outlook.forecast() == {second: (1, None)}, "nobody knows when the engine ends"
    # Another authority over the same home knows who holds the place.
    await here.restart(serving={"claim": "wait"})
    await here.unlock()
    await here.until(lambda: here.authority.devices.holder("cpu") == [deployment.deployment_id])
    await asyncio.sleep(0.5)
    assert here.job(second).state == JobState.QUEUED
    await here.authority.serving.stop(PEER, "desk")
    await here.reaches(second, JobState.DONE)


@moment
async def test_a_run_makes_way_for_an_engine_and_goes_on_after_it(here: World) -> None:
    await here.restart(serving={"claim": "yield"})
    await here.unlock()
    job_id = await here.run()
    await here.runs(job_id)
    deployment = await here.authority.serve(PEER, serve(here))
    await here.until(lambda: here.authority.serving.listed()[0].device == "cpu")
    row = here.job(job_id)
    assert (row.state, row.resume, row.attempts) == (JobState.QUEUED, True, 0)
    assert "job.yield" in here.actions()
    here.go.touch()
    await asyncio.sleep(0.3)
    assert here.job(job_id).state == JobState.QUEUED
    await here.authority.serving.stop(PEER, deployment.name)
    await here.reaches(job_id, JobState.DONE)


@moment
async def test_sharing_engines_hold_nothing(here: World) -> None:
    await here.authority.serve(PEER, serve(here))
    await here.until(lambda: here.authority.serving.listed()[0].device == "cpu")
    job_id = await here.run()
    here.go.touch()
    await here.reaches(job_id, JobState.DONE)
    assert here.authority.serving.listed()[0].state == DeploymentState.STARTING


@moment
async def test_stopping_an_engine_that_waits_lets_go_of_its_turn(here: World) -> None:
    await here.restart(serving={"claim": "wait"})
    await here.unlock()
    first = await here.run("first")
    await here.runs(first)
    await here.authority.serve(PEER, serve(here))
    await asyncio.sleep(0.1)
    await here.authority.serving.stop(PEER, "desk")
    second = await here.run("second")
    here.go.touch()
    await here.reaches(second, JobState.DONE)
