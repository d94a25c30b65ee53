"""Alerts: raised when something is wrong, once; told; acknowledged by name; cleared when it is gone."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from authority_world import PASSPHRASE, PEER, World, moment
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from cloister.api import ClientRequest
from cloister.appliance.alarming import Finding
from cloister.appliance.alerts import Alerts
from cloister.appliance.state import JobRow
from cloister.errors import Conflict, NotFound, Unauthenticated
from cloister.policy import AlertSettings
from cloister.policy.settings import MailSettings


class Looks:
    """What the next look finds."""

    def __init__(self, *findings: Finding) -> None:
        self.findings = list(findings)

    async def __call__(self) -> list[Finding]:
        return self.findings


FULL = Finding("disk", "critical", "0.1 GiB are free", "whatever is new", "cloister dataset list")


def keys(here: World) -> list[str]:
    return [alert.key for alert in here.authority.alerts.listed()]


@moment
async def test_an_alert_lasts_from_its_cause_to_its_end(here: World) -> None:
    look = Looks(FULL)
    alerts = Alerts(here.authority.state, here.authority.recorder, look)
    for _ in range(3):
        await alerts.refresh()
    (alert,) = alerts.listed()
    assert (alert.key, alert.severity, alert.acknowledged_by) == ("disk", "critical", None)
    look.findings = [
        Finding("disk", "critical", "0.2 GiB are free", "whatever is new", "cloister dataset list")
    ]
    await alerts.refresh()
    assert alerts.listed()[0].cause == "0.2 GiB are free"
    assert (await alerts.acknowledge(PEER, "disk")).acknowledged_by == PEER.account
    with pytest.raises(Conflict):
        await alerts.acknowledge(PEER, "disk")
    look.findings = []
    await alerts.refresh()
    assert alerts.listed() == []
    with pytest.raises(NotFound):
        await alerts.acknowledge(PEER, "disk")
    look.findings = [FULL]
    await alerts.refresh()
    assert alerts.listed()[0].acknowledged_by is None
    told = [action for action in here.entered() if action.startswith("alert.")]
    assert told == ["alert.raised", "alert.acknowledge", "alert.cleared", "alert.raised"]
    events = [event.kind for event in here.authority.state.events_after(0) if event.kind.startswith("alert.")]
    assert events == ["alert.raised", "alert.acknowledged", "alert.cleared", "alert.raised"]


@moment
async def test_an_alert_that_gets_worse_is_told_anew_and_waits_for_somebody_again(here: World) -> None:
    soon = Finding("certificate", "warning", "ends in 20 days", "all clients", "cloister doctor")
    look = Looks(soon)
    alerts = Alerts(here.authority.state, here.authority.recorder, look)
    await alerts.refresh()
    (first,) = alerts.listed()
    await alerts.acknowledge(PEER, "certificate")
    look.findings = [replace(soon, cause="ends in 10 days")]
    await alerts.refresh()
    assert alerts.listed()[0].acknowledged_by == PEER.account, "no worse than what was seen"
    look.findings = [replace(soon, severity="critical", cause="ends tomorrow")]
    for _ in range(2):
        await alerts.refresh()
    (worse,) = alerts.listed()
    assert (worse.severity, worse.cause, worse.acknowledged_by) == ("critical", "ends tomorrow", None)
    assert worse.raised_at == first.raised_at
    look.findings = [soon]
    await alerts.refresh()
    told = [action for action in here.entered() if action.startswith("alert.")]
    assert told == ["alert.raised", "alert.acknowledge", "alert.raised"]
    events = [event.kind for event in here.authority.state.events_after(0) if event.kind.startswith("alert.")]
    assert events == ["alert.raised", "alert.acknowledged", "alert.raised"]


@moment
async def test_a_hook_gets_each_alert_and_one_that_hangs_holds_nothing_up(here: World) -> None:
    out = here.home.root / "hooked"
    hook = here.home.root / "hook.sh"
    hook.write_text(f"#!/bin/sh\ncat >> {out}\nsleep 600\n")
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    look = Looks(FULL)
    alerts = Alerts(here.authority.state, here.authority.recorder, look, str(hook))
    async with asyncio.timeout(60):
        await alerts.refresh()
        look.findings = []
        await alerts.refresh()
    await here.until(lambda: out.exists() and len(out.read_text().splitlines()) == 2)
    told = {json.loads(line)["alert"] for line in out.read_text().splitlines()}
    assert told == {"raised", "cleared"}
    async with asyncio.timeout(60):
        await alerts.stop()


@moment
async def test_a_hook_that_is_not_there_is_no_harm(here: World) -> None:
    alerts = Alerts(here.authority.state, here.authority.recorder, Looks(FULL), "/nonexistent/hook")
    await alerts.refresh()
    await alerts.stop()
    assert alerts.listed()


@moment
async def test_the_launcher_that_is_gone_and_comes_back(here: World) -> None:
    await here.authority.alerts.refresh()
    assert "launcher" not in keys(here)
    assert "sandbox-off" in keys(here)  # this world works without one
    await here.end_launcher()
    await here.authority.alerts.refresh()
    assert "launcher" in keys(here)


@moment
async def test_attempts_to_unlock(here: World) -> None:
    await here.restart()
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await here.authority.seal.unlock(PEER, "wrong")
    await here.authority.alerts.refresh()
    (alert,) = [one for one in here.authority.alerts.listed() if one.key == "unlock-attempts"]
    assert "3 attempts" in alert.cause and PEER.account in alert.cause
    await here.authority.seal.unlock(PEER, PASSPHRASE)


@moment
async def test_no_backup_for_too_long_and_a_disk_that_fills(here: World) -> None:
    await here.restart(alerts=AlertSettings(disk_low_gib=1e6))
    await here.authority.alerts.refresh()
    assert "disk" in keys(here) and "backup" not in keys(here)
    now = here.authority.state.now
    here.authority.state.now = lambda: now() + timedelta(days=8)  # type: ignore[method-assign]
    await here.authority.alerts.refresh()
    assert "backup" in keys(here)


@moment
async def test_a_run_that_stalls_and_one_that_diverges(here: World) -> None:
    await here.restart(alerts=AlertSettings(stalled_s=1))
    await here.unlock()
    job_id = await here.run()
    await here.runs(job_id)

    def measured(loss: float) -> None:
        with here.authority.state.change() as change:
            row = change.session.get_one(JobRow, job_id)
            row.metrics, row.last_event = {"loss": loss}, row.last_event + 1

    measured(2.0)
    await here.authority.alerts.refresh()
    assert f"diverging:{job_id}" not in keys(here)
    measured(9.0)
    await here.authority.alerts.refresh()
    assert f"diverging:{job_id}" in keys(here) and f"stalled:{job_id}" not in keys(here)
    measured(2.1)
    await here.authority.alerts.refresh()
    assert f"diverging:{job_id}" not in keys(here)
    await asyncio.sleep(1.1)
    await here.authority.alerts.refresh()
    assert f"stalled:{job_id}" in keys(here)
    here.go.touch()


@pytest.mark.parametrize(
    ("days", "severity"), [(400, None), (10, "warning"), (1, "critical"), (-3, "critical")]
)
def test_a_certificate_near_its_end(tmp_path: Path, days: int, severity: str | None) -> None:
    path = tmp_path / "cert.pem"
    path.write_bytes(certificate(days))

    @moment
    async def inside(here: World) -> None:
        await here.restart(gateway={"tls_cert": str(path)})
        await here.authority.alerts.refresh()
        found = [one.severity for one in here.authority.alerts.listed() if one.key == "certificate"]
        assert found == ([severity] if severity else [])

    inside()


@pytest.mark.parametrize(
    ("days", "severity"), [(400, None), (10, "warning"), (1, "critical"), (-3, "critical")]
)
def test_whatever_else_is_near_its_end(tmp_path: Path, days: int, severity: str | None) -> None:
    path = tmp_path / "cert.pem"
    path.write_bytes(certificate(days))
    ends = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc

    @moment
    async def inside(here: World) -> None:
        desk = await here.authority.clients.issue(
            PEER, ClientRequest(name="desk", deployments=("helper",), expires_at=ends)
        )
        await here.authority.clients.issue(PEER, ClientRequest(name="for-ever"))
        await here.authority.clients.issue(PEER, ClientRequest(name="gone", expires_at=ends))
        await here.authority.clients.revoke(PEER, "gone")
        brief = datetime.now(UTC) + timedelta(hours=1)  # a chat's, meant to end
        await here.authority.clients.issue(PEER, ClientRequest(name="chat", expires_at=brief))
        here.home.allowed_signers.write_text(
            f'abe valid-before="{ends:%Y%m%d%H%M%S}Z" ssh-ed25519 AAAA\n'
            f'bea valid-before="{ends:%Y%m%d%H%M%S}Z" ssh-ed25519 AAAA\nbea ssh-ed25519 AAAB\n'
        )
        tls = {"to": "tls://127.0.0.1:9", "required": False}
        sinks = [
            {**tls, "name": "siem", "ca": str(path), "cert": str(path), "key": str(path)},
            {**tls, "name": "other"},
        ]
        await here.restart(gateway={"client_ca": str(path)}, ledger={"sinks": sinks})
        await here.authority.alerts.refresh()
        client = f"client-key:{desk.client.client_id}"
        own = ("certificate:client-ca", "certificate:sink:siem:cert", "certificate:sink:siem:ca")
        listed = {one.key: one for one in here.authority.alerts.listed()}
        found = {
            key: one.severity for key, one in listed.items() if key.startswith(("cert", "client", "sig"))
        }
        assert found == (dict.fromkeys((*own, client, "signer:abe"), severity) if severity else {})
        for alert in (listed[key] for key in found):
            assert f"{'ended' if days < 0 else 'ends'} on {ends:%Y-%m-%d}" in alert.cause
        if severity:
            assert "desk" in listed[client].cause and listed[client].affects == "the client desk"
            assert listed[client].command == (
                "cloister client issue NEW-NAME -d helper, then `cloister client revoke desk`"
            )
            assert "abe" in listed["signer:abe"].cause and "gateway.client_ca" in listed[own[0]].command

    inside()


@moment
async def test_what_ended_is_told_for_as_long_as_it_matters(here: World) -> None:
    """Old lines stay in the file of signers for what they signed; in a bundle a successor stands beside the old CA."""
    ended = datetime.now(UTC) - timedelta(days=31)
    here.home.allowed_signers.write_text(f'abe valid-before="{ended:%Y%m%d}" ssh-ed25519 AAAA\n')
    bundle = here.home.root / "ca.pem"
    bundle.write_bytes(certificate(-3) + certificate(400))
    await here.restart(gateway={"client_ca": str(bundle)})
    await here.authority.alerts.refresh()
    assert not {"signer:abe", "certificate:client-ca"} & {*keys(here)}
    bundle.write_bytes(certificate(400) + certificate(-3))
    await here.authority.alerts.refresh()
    assert "certificate:client-ca" not in keys(here)
    bundle.write_bytes(certificate(400) + certificate(-3, "another"))
    await here.authority.alerts.refresh()
    assert "certificate:client-ca" in keys(here)
    bundle.write_bytes(b"none")
    await here.authority.alerts.refresh()
    (alert,) = [one for one in here.authority.alerts.listed() if one.key == "certificate:client-ca"]
    assert "cannot be read" in alert.cause and alert.severity == "critical"


def certificate(days: int, called: str = "localhost") -> bytes:
    """A certificate that ends so many days from now, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, called)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@moment
async def test_a_look_that_fails_does_not_end_all_looking(here: World) -> None:
    import cloister.appliance.alerts as module

    looked = 0

    async def look() -> list[Finding]:
        nonlocal looked
        looked += 1
        if looked == 1:
            raise OSError(os.strerror(5))
        return [FULL]

    alerts = Alerts(here.authority.state, here.authority.recorder, look)
    every, module.EVERY_S = module.EVERY_S, 0.01
    running = asyncio.create_task(alerts.run())
    try:
        await here.until(lambda: alerts.listed())
    finally:
        module.EVERY_S = every
        running.cancel()


class Relay:
    """An SMTP relay that speaks just enough."""

    def __init__(self) -> None:
        self.mails: list[str] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def say(line: str) -> None:
            writer.write(line.encode() + b"\r\n")

        say("220 relay")
        try:
            while line := (await reader.readline()).decode().strip():
                word = line.upper().split(" ")[0]
                if word in ("EHLO", "HELO"):
                    say("250 relay")
                elif word == "DATA":
                    say("354 go on")
                    body = (await reader.readuntil(b"\r\n.\r\n")).decode()
                    self.mails.append(body)
                    say("250 kept")
                elif word == "QUIT":
                    say("221 bye")
                    break
                else:
                    say("250 fine")
        finally:
            writer.close()


@moment
async def test_a_mail_goes_to_the_relay_for_each_alert(here: World) -> None:
    relay = Relay()
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    mail = MailSettings(
        server=f"127.0.0.1:{port}", sender="cloister@example", to=("ops@example", "duty@example"), tls="none"
    )
    look = Looks(FULL)
    alerts = Alerts(here.authority.state, here.authority.recorder, look, mail=mail)
    await alerts.refresh()
    await here.until(lambda: len(relay.mails) == 1)
    look.findings = []
    await alerts.refresh()
    await here.until(lambda: len(relay.mails) == 2)
    raised, cleared = relay.mails
    assert "To: ops@example, duty@example" in raised and "critical disk raised" in raised
    assert "cause    0.1 GiB are free" in raised and "next     cloister dataset list" in raised
    assert "critical disk cleared" in cleared
    server.close()
    await alerts.refresh()
    look.findings = [FULL]
    await alerts.refresh()  # nobody listens any more: that is logged, and holds nothing up
    assert alerts.listed()[0].key == "disk"
    await alerts.stop()


@pytest.mark.parametrize(
    "wrong",
    [
        {"server": "relay"},
        {"server": "relay:25\r\nX: y"},
        {"sender": "a@b\r\nBcc: c@d"},
        {"to": ["not an address"]},
        {"to": []},
        {"tls": "maybe"},
    ],
)
def test_mail_settings_that_are_none(wrong: dict[str, object]) -> None:
    good = {"server": "relay.example:25", "sender": "cloister@example", "to": ["ops@example"]}
    assert MailSettings.model_validate(good).tls == "starttls"
    with pytest.raises(ValidationError):
        MailSettings.model_validate({**good, **wrong})
