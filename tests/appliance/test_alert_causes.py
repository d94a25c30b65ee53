"""Each alert by its real cause in small: it says what, for whom and what next, goes out every way, is acknowledged by
name, and ends with its cause."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from authority_world import PATIENCE_S, PEER, World, at_socket, undisturbed, world
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from test_alerts import Relay
from tests.cli.cli_shell import CLOISTER
from tests.cli.test_named_commands import named, parse
from tests.ledger.syslog_receivers import StreamReceiver

from cloister.api import Alert, ObjectKind, ServeRequest
from cloister.appliance import fitness, recorder
from cloister.appliance.authority import Authority
from cloister.errors import CloisterError, Unauthenticated
from cloister.ledger import Entry, Ledger
from cloister.policy import Settings
from cloister.sandbox.host import available, swap_status

pytestmark = pytest.mark.slow  # a dozen causes, one after the other

TALKER = """
import json, sys, time
from pathlib import Path
job, said = json.load(sys.stdin), 0
if job["verb"] == "serve":
    time.sleep(600)
file = Path(__file__).parent / "say"
while True:
    for line in file.read_text().splitlines()[said:] if file.exists() else []:
        print(line, flush=True)
        said += 1
    time.sleep(0.02)
"""
SECRETIVE = "zebra-desk"
"""What a run, a deployment and a client are called here: no figure may say it."""

Cause = Callable[[World, pytest.MonkeyPatch], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Row:
    """`key` may begin an alert's key; `says` and `affects` are parts of its words; `cause` lasts while it is open."""

    key: str
    severity: str
    says: tuple[str, ...]
    affects: str
    cause: Cause
    before: bool = False
    """It is there from the beginning: leaving `cause` ends it all the same."""


def say(here: World, **event: Any) -> None:
    """Have the job's program say a line."""
    with open(here.home.root / "say", "a") as file:
        file.write(json.dumps(event) + "\n")


@asynccontextmanager
async def running(here: World) -> AsyncIterator[str]:
    (here.home.root / "say").unlink(missing_ok=True)
    job_id = await here.run(f"{SECRETIVE}-{len(here.authority.overview.runs())}")
    await here.runs(job_id)
    yield job_id
    await here.authority.queue.cancel(PEER, job_id)
    await here.until(lambda: here.job(job_id).ended_at)


@asynccontextmanager
async def ledger_fails(here: World, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Its journal cannot be written any more: what it holds open is no file to write to."""
    journal = str(here.home.control_ledger)
    held = [
        int(one.name)
        for one in Path("/proc/self/fd").iterdir()
        if os.path.exists(one) and os.readlink(one).startswith(f"{journal}/journal/0")
    ]
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor in held:
        os.dup2(nothing, descriptor)
    os.close(nothing)
    with pytest.raises(CloisterError):
        await here.authority.recorder.record(None, "test.nothing")
    yield
    await asyncio.to_thread(here.authority.ledger.recover)


@asynccontextmanager
async def nothing_left(here: World, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """No head has left yet; one is carried out by the alert's own command."""
    await here.authority.flush_ledger()
    yield
    (alert,) = [one for one in here.authority.alerts.listed() if one.key == "unwitnessed:control"]
    with tempfile.TemporaryDirectory() as stick:
        async with at_socket(here):
            words = alert.command.replace("FOLDER", f"{stick}/copy").split()
            await asyncio.to_thread(
                subprocess.run,
                [CLOISTER, *words[1:]],
                check=True,
                capture_output=True,
                env={**os.environ, "CLOISTER_HOME": str(here.home.root)},
            )


@asynccontextmanager
async def gateway_ledger_gone(here: World, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    signer, origin = Ed25519PrivateKey.generate(), here.authority.origin.replace("/control", "/gateway")
    with Ledger.open(here.home.gateway_ledger, origin=origin, signer=signer) as ledger:
        ledger.append(Entry("2026-01-01T00:00:00Z", "a", "b", "c"))
    await here.authority.anchors.step()
    away = here.home.root / "away"
    here.home.gateway_ledger.rename(away)
    await here.authority.anchors.step()
    yield
    away.rename(here.home.gateway_ledger)
    await here.authority.anchors.step()


@asynccontextmanager
async def receiver_refuses(here: World, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Nobody listens at its port, until somebody does."""
    other = next(sink for sink in here.authority.settings.ledger.sinks if sink.name == "other")
    yield
    receiver = StreamReceiver()
    receiver.port = other.host_port[1]
    receiver.start()
    await here.until(lambda: all(sink.problem is None for sink in here.authority.exporting.status()))
    receiver.kill()


@asynccontextmanager
async def no_bubblewrap(here: World, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    there = here.launcher.config
    here.launcher.config = replace(there, no_sandbox=available(bwrap="no-such-bwrap"))
    yield
    here.launcher.config = there


@asynccontextmanager
async def swap_on(here: World, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """As the kernel tells of a swap file."""
    (here.home.root / "swaps").write_text(
        "Filename Type Size Used Priority\n/srv/swap.img file 4194300 0 -2\n"
    )
    with patch.context() as patched:
        patched.setattr(fitness, "swap_status", functools.partial(swap_status, proc=here.home.root))
        yield


@asynccontextmanager
async def engine_dies(here: World, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    here.stored(ObjectKind.MODEL, "first")
    served = await here.authority.serve(PEER, ServeRequest(name=SECRETIVE, model="first"))
    await here.runs(served.deployment_id)
    await here.authority.launcher.stop(served.deployment_id, 0)
    await here.until(lambda: here.authority.serving.listed()[-1].state == "restarting")
    yield
    await here.authority.serving.stop(PEER, SECRETIVE)


@asynccontextmanager
async def engine_never_answers(here: World, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """It has failed; the alert's second command ends it."""
    here.stored(ObjectKind.MODEL, "merged")
    await here.authority.serve(PEER, ServeRequest(name=SECRETIVE, model="merged"))
    await here.until(lambda: here.authority.serving.listed()[-1].state == "failed")
    yield
    await here.authority.serving.stop(PEER, SECRETIVE)


@asynccontextmanager
async def wrong_passphrases(here: World, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    await here.authority.seal.lock(PEER)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await here.authority.seal.unlock(PEER, "wrong")
    await here.unlock()
    yield
    later(here, patch, timedelta(hours=2))


@asynccontextmanager
async def no_backup(here: World, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    with patch.context() as patched:
        later(here, patched, timedelta(days=8))
        yield


@asynccontextmanager
async def run_stalls(here: World, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    async with running(here) as job_id:
        say(here, event="metrics", step=1, values={"loss": 2.0})
        await here.until(lambda: here.job(job_id).last_event == 1)
        await here.authority.alerts.refresh()
        await asyncio.sleep(1.1)
        yield
        say(here, event="metrics", step=2, values={"loss": 2.0})
        await here.until(lambda: here.job(job_id).last_event == 2)
        await here.authority.alerts.refresh()
        assert not [one for one in here.authority.alerts.listed() if one.key.startswith("stalled:")]


@asynccontextmanager
async def run_diverges(here: World, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    async with running(here) as job_id:
        for step, loss in ((1, 2.0), (2, 9.0)):
            say(here, event="metrics", step=step, values={"loss": loss})
            await here.until(lambda step=step: here.job(job_id).last_event == step)
            await here.authority.alerts.refresh()
        yield
        say(here, event="metrics", step=3, values={"loss": 2.1})
        await here.until(lambda: here.job(job_id).last_event == 3)
        await here.authority.alerts.refresh()
        assert not [one for one in here.authority.alerts.listed() if one.key.startswith("diverging:")]


def later(here: World, patch: pytest.MonkeyPatch, by: timedelta) -> None:
    now = here.authority.state.now
    patch.setattr(here.authority.state, "now", lambda: now() + by)


NEW = "whatever is new"
ROWS = [
    Row("sink:other", "critical", ("the audit sink other", "refused"), NEW, receiver_refuses, before=True),
    Row("ledger", "critical", ("the ledger refuses entries", "journal"), NEW, ledger_fails),
    Row(
        "unwitnessed:control",
        "warning",
        ("no head of the control ledger has left since",),
        "whoever must prove",
        nothing_left,
        before=True,
    ),
    Row("anchor", "critical", ("the gateway's ledger is gone",), "what clients asked", gateway_ledger_gone),
    Row("sandbox", "critical", ("bubblewrap is not installed",), NEW, no_bubblewrap),
    Row("swap", "critical", ("swap without encryption is on: /srv/swap.img",), NEW, swap_on),
    Row(
        "engine:",
        "critical",
        (SECRETIVE, "down and restarting", "stopped"),
        f"clients of {SECRETIVE}",
        engine_dies,
    ),
    Row(
        "engine:",
        "critical",
        (SECRETIVE, "failed", "did not answer within 10 s"),
        f"clients of {SECRETIVE}",
        engine_never_answers,
    ),
    Row(
        "unlock-attempts",
        "critical",
        ("2 attempts to unlock", PEER.account),
        "keys of all data",
        wrong_passphrases,
    ),
    Row("backup", "warning", ("no backup was made at all",), "should this disk fail", no_backup),
    Row("stalled:", "warning", (SECRETIVE, "has said nothing"), PEER.account, run_stalls),
    Row("diverging:", "warning", (SECRETIVE, "is 9 and was 2"), PEER.account, run_diverges),
]


@contextmanager
def ways_out(root: Path) -> Iterator[tuple[StreamReceiver, Path, dict[str, Any]]]:
    """A syslog receiver, the file that a hook writes, and the settings of both; of a second sink nobody hears."""
    siem, dead = StreamReceiver(), StreamReceiver()
    siem.start()
    dead.start()
    dead.kill()
    hook = root / "hook.sh"
    hook.write_text(f"#!/bin/sh\ncat >> {root}/hooked\n")
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    sink = {"leaves_machine": False, "resend_s": 0}
    sinks = [
        {"name": "siem", "to": f"tcp://127.0.0.1:{siem.port}", **sink},
        {"name": "other", "to": f"tcp://127.0.0.1:{dead.port}", "required": True, "grace_s": 3600, **sink},
    ]
    try:
        yield siem, root / "hooked", {"ledger": {"sinks": sinks}, "alerts": {"hook": str(hook)}}
    finally:
        siem.kill()


def test_each_lives_and_ends_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    async def inside() -> None:
        async with world() as here:
            relay = Relay()
            server = await asyncio.start_server(relay, "127.0.0.1", 0)
            with ways_out(here.home.root) as (siem, hooked, settings):
                mail = {
                    "server": f"127.0.0.1:{server.sockets[0].getsockname()[1]}",
                    "sender": "cloister@example",
                    "to": ["ops@example"],
                    "tls": "none",
                }
                settings["alerts"] |= {"mail": mail, "stalled_s": 1, "unlock_attempts": 2}
                settings["serving"] = {"start_limit_s": 10}  # one that died is told of as restarting so long
                monkeypatch.setattr(recorder, "MEND_EVERY_S", 3600.0)  # the ledger fails until its cause ends
                await here.authority.stop()
                here.authority = undisturbed(Authority(here.home, Settings.model_validate(settings)))
                (here.home.root / "program.py").write_text(TALKER)
                await here.authority.start()
                await here.unlock()
                for row in ROWS:
                    await the_whole_life(row, here, monkeypatch, siem, hooked, relay)
            server.close()

    asyncio.run(inside())


async def the_whole_life(
    row: Row, here: World, patch: pytest.MonkeyPatch, siem: StreamReceiver, hooked: Path, relay: Relay
) -> None:
    alerts = here.authority.alerts

    def found() -> Alert | None:
        return next((one for one in alerts.listed() if one.key.startswith(row.key)), None)

    async def until(there: bool) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                await alerts.refresh()
                if (found() is not None) is there:
                    return
                await asyncio.sleep(0.1)

    if not row.before:
        await alerts.refresh()
        assert found() is None
    async with row.cause(here, patch):
        await until(True)
        alert = found()
        assert alert is not None and alert.severity == row.severity
        for part in row.says:
            assert part in alert.cause, alert
        assert row.affects in alert.affects, alert
        assert alert.command
        for command in named(alert.command):
            parse(command, patch)
        assert SECRETIVE not in here.authority.figures.text().decode()
        with contextlib.suppress(CloisterError):  # a ledger that refuses takes no name
            assert (await alerts.acknowledge(PEER, alert.key)).acknowledged_by == PEER.account
    await until(False)
    entered = [
        entry for entry in here.authority.ledger.entries(0, 10_000) if alert.key in entry.get("objects", ())
    ]
    actions = [entry["action"] for entry in entered]
    if row.key == "ledger":  # it could not take its own alert; the end says since when it lasted
        assert actions == ["alert.cleared"]
    else:
        assert actions == ["alert.raised", "alert.acknowledge", "alert.cleared"]
        assert entered[1]["actor"] == PEER.account
    assert entered[-1]["details"]["since"] == alert.raised_at.isoformat(timespec="seconds")
    for entry in entered[:: len(entered) - 1 or 1]:  # who reads it elsewhere is told as much
        assert (entry["details"]["affects"], entry["details"]["command"]) == (alert.affects, alert.command)

    about = re.compile(
        rf'\[\\*"{re.escape(alert.key)}\\*"\]'.encode()
    )  # as an entry within an event quotes it

    def told() -> set[tuple[str, str]]:
        """Which way, and what."""
        hooks = [json.loads(line) for line in hooked.read_text().splitlines()] if hooked.exists() else []
        ways = {("hook", one["alert"]) for one in hooks if one["key"] == alert.key}
        mails = [text.replace("\r\n ", " ") for text in relay.mails]
        for what in ("raised", "cleared"):
            if any(f"{alert.key} was {what}" in text for text in mails):
                ways.add(("mail", what))
            said = f"alert.{what}".encode()
            if any(said in message and about.search(message) for message in siem.messages):
                ways.add(("syslog", what))
        return ways

    wanted = {(way, what) for way in ("syslog", "mail", "hook") for what in ("raised", "cleared")}
    wanted -= {("syslog", "raised")} if row.key == "ledger" else set()
    try:
        await here.until(lambda: told() == wanted)
    except TimeoutError:
        assert told() == wanted, row.cause
