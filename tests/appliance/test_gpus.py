"""GPUs: what the driver tells reaches status, figures and alerts, each naming who is affected; a hang stalls nobody.

NVIDIA's library is stood in for by one of our own in C, loaded by the real pynvml in the real reader's process.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from authority_world import World, moment
from nvml_stand_in import GIB, Driver, build

from cloister import embedded
from cloister.api import GpuStatus
from cloister.appliance import gpus as gpus_module
from cloister.appliance.devices import Devices
from cloister.appliance.finding import Finding
from cloister.appliance.gpu_alarms import GpuAlarms
from cloister.appliance.gpus import CALM_S, PAST_S, Gpus, Heat, library_present
from cloister.appliance.jobs import new_job
from cloister.appliance.state import open_state
from cloister.appliance.store import StateStore
from cloister.appliance.xids import XIDS, known
from cloister.client import Client
from cloister.home import Home
from cloister.policy.settings import AlertSettings, QueueSettings

OFTEN = AlertSettings(gpu_every_s=0.1, gpu_silent_s=60)
SILENT_S = 4


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nvml")
    build(folder)
    return folder


@pytest.fixture
def driver(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    (tmp_path / "libnvidia-ml.so.1").symlink_to(library / "libnvidia-ml.so.1")
    made = Driver(tmp_path)
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StateStore]:
    engine, sessions = open_state(tmp_path_factory.mktemp("state") / "state.db")
    yield StateStore(sessions)
    engine.dispose()


@asynccontextmanager
async def watched(
    state: StateStore, present: tuple[int, ...] = (0,), clock: Callable[[], float] = time.monotonic
) -> AsyncIterator[tuple[Gpus, GpuAlarms, Devices]]:
    devices = Devices(QueueSettings(), present)
    gpus = Gpus(devices, OFTEN, state.now, clock)
    running = asyncio.create_task(gpus.run())
    try:
        yield gpus, GpuAlarms(gpus, state), devices
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(wanted: Callable[[], object]) -> None:
    async with asyncio.timeout(120):
        while not wanted():
            await asyncio.sleep(0.01)


def by_key(alarms: GpuAlarms) -> dict[str, Finding]:
    return {finding.key: finding for finding in alarms.look()}


def test_what_the_driver_tells_is_read(driver: Driver, state: StateStore) -> None:
    async def inside() -> None:
        async with watched(state, (3,)) as (gpus, alarms, devices):
            driver.say(gpu0_minor=3, gpu0_reasons=0xA4, gpu0_recovery=None)
            await until(lambda: gpus.listed() and gpus.listed()[0].throttled_by)
            devices.take("job-1")
            (gpu,) = gpus.listed()
            assert (gpu.number, gpu.index, gpu.name) == (3, 0, "NVIDIA H200")
            assert (gpu.memory_used, gpu.memory_total) == (12 * GIB, 139 * GIB)
            assert (gpu.utilisation_percent, gpu.power_w) == (35, 251.5)
            assert (gpu.temperature_c, gpu.slowdown_c) == (61, 90)
            assert (gpu.ecc_corrected, gpu.ecc_uncorrected) == (3, 0)
            assert gpu.throttled_by == ["power-cap", "software-heat", "power-brake"] and gpu.recovery is None
            assert gpu.holders == ["job-1"] and gpu.problem is None
            assert by_key(alarms).keys() == {"gpu.3.heat"}

    asyncio.run(inside())


def test_what_it_does_not_tell_is_left_out(driver: Driver, state: StateStore) -> None:
    for name in ("memory_used", "power", "slowdown", "ecc_corrected", "ecc_uncorrected", "remap_pending"):
        driver.say(**{f"gpu0_{name}": None})
    driver.say(gpu0_minor=None, gpu0_reasons=None)

    async def inside() -> None:
        async with watched(state) as (gpus, alarms, _):
            await until(gpus.listed)
            (gpu,) = gpus.listed()
            assert gpu.number == 0 and gpu.memory_total is None and gpu.power_w is None
            assert gpu.ecc_uncorrected is None and gpu.temperature_c == 61 and not gpu.throttled_by
            assert by_key(alarms) == {}

    asyncio.run(inside())


def test_an_xid_names_who_held_the_gpu_and_whose_fault_it_is(driver: Driver, state: StateStore) -> None:
    async def inside() -> None:
        with state.change() as change:
            job_id = new_job(change, "ana", "train", "claims-1", {}, {}).job_id
        async with watched(state, (0, 1)) as (gpus, alarms, devices):
            await until(gpus.listed)
            devices.take(job_id)
            driver.say(xids="0:31")
            await until(gpus.xids)
            devices.release(job_id)  # it has died of it
            (xid,) = alarms.look()
            assert (xid.key, xid.severity) == ("gpu.0.xid.31", "warning")
            assert "Xid 31" in xid.cause and "the GPU is well" in xid.cause
            assert xid.affects == "train claims-1 of ana"
            assert xid.command == f"cloister run watch {job_id}"
            driver.say(xids="0:31,0:31,0:79,0:48,0:63,0:777")
            await until(lambda: len(gpus.xids()) == 5)
            found = by_key(alarms)
            assert ", 2 times" in found["gpu.0.xid.31"].cause
            assert found["gpu.0.xid.31"].affects == "train claims-1 of ana"
            assert found["gpu.0.xid.79"].severity == found["gpu.0.xid.48"].severity == "critical"
            assert "restart the machine" in found["gpu.0.xid.79"].command
            assert "nvidia-smi --gpu-reset -i 0" in found["gpu.0.xid.48"].command
            assert "which nobody held" in found["gpu.0.xid.48"].affects
            assert found["gpu.0.xid.63"].severity == found["gpu.0.xid.777"].severity == "warning"
            assert "--gpu-reset" not in found["gpu.0.xid.777"].command
            assert gpus.counted == {(0, 31): 2, (0, 79): 1, (0, 48): 1, (0, 63): 1, (0, 777): 1}

    asyncio.run(inside())


def test_an_xid_is_past_after_an_hour_unless_the_gpu_is_not_well(driver: Driver, state: StateStore) -> None:
    now = 0.0

    async def inside() -> None:
        nonlocal now
        async with watched(state, clock=lambda: now) as (gpus, _, _devices):
            driver.say(xids="0:13,0:95", gpu0_recovery=None)
            await until(lambda: len(gpus.xids()) == 2)
            await until(lambda: gpus.listed()[0].recovery is None)
            now = PAST_S + 1
            assert [seen.xid for seen in gpus.xids()] == [95], (
                "this driver does not say that it is well again"
            )
            driver.say(gpu0_recovery=1)
            await until(lambda: gpus.listed()[0].recovery == "gpu-reset")
            assert [seen.xid for seen in gpus.xids()] == [95]
            driver.say(gpu0_recovery=0)
            await until(lambda: gpus.listed()[0].recovery == "none")
            assert gpus.xids() == []

    asyncio.run(inside())


def test_memory_that_fails(driver: Driver, state: StateStore) -> None:
    async def inside() -> None:
        async with watched(state) as (_, alarms, _devices):
            for said, severity, words in (
                ({"gpu0_pages_pending": 1}, "warning", "at its next reset"),
                ({"gpu0_remap_pending": 1}, "warning", "at its next reset"),
                ({"gpu0_ecc_uncorrected": 2}, "critical", "2 memory errors"),
                ({"gpu0_remap_failed": 1}, "critical", "replaced"),
            ):
                driver.say(**said)
                await until(lambda words=words: any(words in one.cause for one in alarms.look()))
                (ecc,) = alarms.look()
                assert (ecc.key, ecc.severity) == ("gpu.0.ecc", severity)
                assert "nvidia-smi --gpu-reset -i 0" in ecc.command

    asyncio.run(inside())


@pytest.mark.parametrize(
    ("said", "key", "words"),
    [
        ({"gpu0_lost": 15}, "gpu.0.lost", "lost"),
        ({"gpu0_lost": 16}, "gpu.0.lost", "until it is reset"),
        ({"gpu0_lost": 999}, "gpu.0.lost", "cannot be read"),
        ({"gpu0_recovery": 1}, "gpu.0.recovery", "has to be reset"),
        ({"gpu0_recovery": 2}, "gpu.0.recovery", "restarted"),
    ],
)
def test_a_gpu_that_is_not_usable(
    driver: Driver, state: StateStore, said: dict[str, object], key: str, words: str
) -> None:
    async def inside() -> None:
        for at_start in (True, False):
            if at_start:
                driver.say(**said)
            async with watched(state) as (gpus, alarms, _):
                await until(gpus.listed)
                assert at_start or by_key(alarms) == {}
                driver.say(**said)
                await until(lambda alarms=alarms: by_key(alarms))
                (found,) = alarms.look()
                assert (found.key, found.severity) == (key, "critical") and words in found.cause
            driver.say(gpu0_lost=None, gpu0_recovery=0)

    asyncio.run(inside())


def test_a_driver_that_hangs_is_an_alert_and_stalls_nobody(driver: Driver) -> None:
    async def inside(here: World) -> None:
        await here.restart(alerts=OFTEN.model_copy(update={"gpu_silent_s": SILENT_S}))
        gpus = here.authority.gpus
        await here.until(gpus.listed)
        driver.say(hang=1)
        beats = 0
        while gpus.problem is None:
            await here.authority.overview.status()
            await asyncio.sleep(0.02)
            beats += 1
        assert beats > 3, "the authority went on while its reader waited"
        await here.authority.alerts.refresh()
        (alert,) = [one for one in here.authority.alerts.listed() if one.key.startswith("gpu")]
        assert alert.key == "gpu.driver" and f"not answered for {SILENT_S} seconds" in alert.cause
        assert gpus.listed()[0].problem == "unknown" and gpus.listed()[0].memory_used is None
        assert b"cloister_gpu_driver_answers 0.0" in here.authority.figures.text()
        driver.say(hang=None)
        await here.until(lambda: gpus.problem is None)
        await here.authority.alerts.refresh()
        assert not [one for one in here.authority.alerts.listed() if one.key.startswith("gpu")]
        assert b"cloister_gpu_driver_answers 1.0" in here.authority.figures.text()

    moment(inside)()


def test_a_library_that_fails_or_dies_is_an_alert(
    driver: Driver, state: StateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpus_module, "RETRY_S", 1.0)

    async def inside() -> None:
        async with watched(state) as (gpus, alarms, _):
            await until(gpus.listed)
            driver.say(gpu0_lost=None, init=999)
            (reader,) = readers()
            os.kill(reader, 11)
            await until(lambda: gpus.problem is not None)
            assert "reading them ended" in by_key(alarms)["gpu.driver"].cause, "and is not begun anew at once"
            await until(lambda: gpus.problem is not None and "fails" in gpus.problem)
            driver.say(init=None)
            await until(lambda: gpus.problem is None)

    asyncio.run(inside())


def test_a_driver_that_is_not_loaded_matters_where_gpus_are_to_be_used(
    driver: Driver, state: StateStore
) -> None:
    driver.say(init=9)

    async def inside() -> None:
        async with watched(state) as (gpus, alarms, _):
            await until(lambda: gpus.problem is not None)
            assert "not loaded" in by_key(alarms)["gpu.driver"].cause
        devices = Devices(QueueSettings(), ())
        quiet = Gpus(devices, OFTEN, state.now)
        await asyncio.wait_for(quiet.run(), 120)  # it ends: there is none, and never will be
        assert quiet.problem is None and quiet.listed() == []

    asyncio.run(inside())


def test_no_reader_outlives_its_authority(driver: Driver) -> None:
    async def inside(here: World) -> None:
        await here.restart(alerts=OFTEN)
        await here.until(lambda: here.authority.gpus.listed())
        assert len(readers()) == 1
        await here.authority.stop()
        assert readers() == []
        here.authority = type(here.authority)(here.home, here.authority.settings)

    moment(inside)()


@moment
async def test_without_a_gpu_nothing_is_started_and_nothing_said(here: World) -> None:
    if library_present() or Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has NVIDIA's library")
    await asyncio.wait_for(here.authority.gpus.run(), 60)
    assert readers() == []
    assert (await here.authority.overview.status()).gpus == []
    await here.authority.alerts.refresh()
    assert not [one for one in here.authority.alerts.listed() if one.key.startswith("gpu")]
    assert b"gpu" not in here.authority.figures.text()


def readers() -> list[int]:
    """Our readers' process ids."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            if b"cloister.appliance.gpu_reader" in command and parent == os.getpid():
                found.append(int(entry.name))
    return found


def test_heat_does_not_flap() -> None:
    heat = Heat()

    def read(at: float, temperature: int | None, *throttled: str, slowdown: int | None = 90) -> bool:
        gpu = GpuStatus(
            number=0, index=0, temperature_c=temperature, slowdown_c=slowdown, throttled_by=list(throttled)
        )
        heat.read(at, gpu)
        return heat.lasts

    assert not read(1000, 89)
    assert read(1005, 90)
    assert read(1010, 86), "not five degrees cooler yet"
    assert not read(1015, 85)
    assert not read(1020, 89)
    assert not read(1025, 70, "power-cap", "power-brake", "hardware")
    assert read(1030, 70, "software-heat")
    assert read(1035, 60), "it has slowed down a moment ago"
    assert read(1030 + CALM_S - 1, 60)
    assert not read(1030 + CALM_S, 60)
    assert read(2000, None, "hardware-heat", slowdown=None)
    assert not read(2000 + CALM_S, None, slowdown=None)


def test_a_gpu_that_is_too_hot(driver: Driver, state: StateStore) -> None:
    async def inside() -> None:
        async with watched(state) as (gpus, alarms, _):
            driver.say(gpu0_temperature=92)
            await until(lambda: by_key(alarms))
            (heat,) = alarms.look()
            assert (heat.key, heat.severity) == ("gpu.0.heat", "critical")
            assert "92 °C" in heat.cause and "90 °C" in heat.cause and "cloister run pause" in heat.command
            driver.say(gpu0_temperature=87)
            await until(lambda: gpus.listed()[0].temperature_c == 87)
            (heat,) = alarms.look()
            assert heat.severity == "warning"
            driver.say(gpu0_temperature=80)
            await until(lambda: not by_key(alarms))

    asyncio.run(inside())


def test_the_xids_that_say_nothing_against_a_device() -> None:
    """Those that NVIDIA's Kubernetes device plugin passes over (health.go), and not those of broken cards."""
    assert all(known(number).remedy == "job" for number in (13, 31, 43, 45, 68, 109))
    assert all(known(number).remedy in ("reset", "reboot") for number in (48, 64, 74, 79, 95, 119, 120))
    assert all(known(number).remedy == "free" for number in (63, 92, 94))
    assert 1 not in XIDS and known(1).remedy == "unknown"


@pytest.fixture
def running(driver: Driver) -> Iterator[Home]:
    root = Path(tempfile.mkdtemp(prefix="gp"))
    home = Home(root / "h")
    home.root.mkdir()
    home.settings_file.write_text(json.dumps({"alerts": {"gpu_every_s": 0.2}}))
    embedded.start(home, gateway=False)
    try:
        yield home
    finally:
        embedded.stop(home)
        shutil.rmtree(root)


def test_all_of_it_through_the_socket_and_the_command_line(running: Home, driver: Driver) -> None:
    driver.say(xids="0:119", gpu0_temperature=95, gpu0_reasons=0x40)

    def command(*arguments: str) -> str:
        ended = subprocess.run(
            [sys.executable, "-m", "cloister.cli.main", *arguments],
            env={**os.environ, "CLOISTER_HOME": str(running.root)},
            capture_output=True,
            text=True,
            check=True,
        )
        return ended.stdout

    with Client(running.authority_socket) as client:
        end = time.monotonic() + 120
        while (found := {one.key for one in client.alerts() if one.key.startswith("gpu")}) != {
            "gpu.0.xid.119",
            "gpu.0.heat",
        }:
            assert time.monotonic() < end, found  # each is raised by itself
            time.sleep(0.2)
    told = json.loads(command("alerts", "--json"))
    (xid,) = [one for one in told if one["key"] == "gpu.0.xid.119"]
    assert xid["severity"] == "critical" and "its own processor" in xid["cause"]
    assert "--gpu-reset" in xid["command"] and "which nobody held then" in xid["affects"]
    (gpu,) = json.loads(command("status", "--json"))["gpus"]
    assert (gpu["memory_used"], gpu["temperature_c"], gpu["holders"]) == (12 * GIB, 95, [])
    assert "NVIDIA H200, 12.0 GiB of 139.0 GiB, 35% busy, 95 °C, free" in " ".join(command("status").split())
    transport = httpx.HTTPTransport(uds=str(running.authority_socket))
    with httpx.Client(transport=transport, base_url="http://authority", timeout=60) as raw:
        text = raw.get("/v1/metrics").text
    (memory,) = [line for line in text.splitlines() if line.startswith("cloister_gpu_memory_used_bytes{")]
    device, figure = memory.removeprefix("cloister_gpu_memory_used_bytes").split()
    assert (device, float(figure)) == ('{device="cuda:0"}', 12 * GIB)
    assert 'cloister_gpu_xids_total{device="cuda:0",xid="119"} 1.0' in text
    assert 'cloister_gpu_usable{device="cuda:0"} 1.0' in text and "H200" not in text
