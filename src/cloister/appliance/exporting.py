"""Export of the ledgers to the sinks that the settings name, and what follows when one is down."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from cloister.api import HeadsLeft, LedgerName, SinkStatus
from cloister.appliance.auditing import Auditing
from cloister.appliance.store import StateStore
from cloister.appliance.witnessing import Witnessing
from cloister.errors import CloisterError, InvalidInput, LedgerUnavailable, OutOfSpace
from cloister.ledger.shipping import Shipping
from cloister.ledger.sinks import JsonLines, Sink, SyslogDatagram, SyslogStream
from cloister.ledger.syslog import Header
from cloister.policy.sinks import SinkSettings
from cloister.tls import verifying_context

LEDGERS: tuple[LedgerName, ...] = ("control", "gateway")
TELL_EVERY_S = 5.0
LOOK_EVERY_S = 0.5
AGAIN_S = 3600.0


class Exporting:
    """One thread a sink.

    Args:
        cursors: the folder of their cursors.
        auditing: where the ledgers' entries come from.

    Errors: InvalidInput for certificates that cannot be used.
    """

    def __init__(self, sinks: tuple[SinkSettings, ...], cursors: Path, auditing: Auditing) -> None:
        self._origins = auditing.origins
        self._shipping: list[tuple[SinkSettings, Shipping]] = []
        for settings in sinks:
            logs = {
                auditing.origins[name]: functools.partial(auditing.snapshot, name) for name in settings.logs
            }
            shipping = Shipping(
                settings.name,
                sink_of(settings),
                logs,
                cursors / f"{settings.name}.json",
                resend_s=settings.resend_s,
                head_every_s=settings.head_every_s,
            )
            self._shipping.append((settings, shipping))
        self._told_dead = self._dead_now()

    def start(self) -> None:
        for _, shipping in self._shipping:
            shipping.start()

    def stop(self) -> None:
        for _, shipping in self._shipping:
            shipping.stop()

    def status(self) -> list[SinkStatus]:
        found = []
        for settings, shipping in self._shipping:
            now = shipping.status()
            found.append(
                SinkStatus(
                    name=settings.name,
                    to=settings.to,
                    required=settings.required,
                    behind=now.behind,
                    sent=now.sent,
                    down_s=now.down_s,
                    problem=now.problem,
                )
            )
        return found

    def warnings(self) -> list[str]:
        """One line for each sink that is down or has something to say."""
        lines = []
        for sink in self.status():
            if sink.down_s is not None:
                word = "NOTHING NEW STARTS" if self._dead(sink) else "down"
                kind = "required audit sink" if sink.required else "audit sink"
                lines.append(
                    f"{kind} {sink.name}: {word} for {sink.down_s:.0f} s, {sink.behind} entries wait: "
                    f"{sink.problem}"
                )
            elif sink.problem:
                lines.append(f"audit sink {sink.name}: {sink.problem}")
        return lines

    def refuse(self) -> None:
        """Errors: LedgerUnavailable where a required sink has been down for longer than its grace."""
        for sink in self.status():
            if self._dead(sink):
                raise LedgerUnavailable(
                    f"the required audit sink {sink.name} has been down for {sink.down_s or 0:.0f} s: {sink.problem}",
                    where=sink.to,
                    remedy="Bring it back; what waits is sent then, and work starts again.",
                )

    def head_left(self, ledger: str = "control") -> tuple[int, float] | None:
        """Size of the newest signed head that has left the machine through a sink, and when (epoch seconds)."""
        origin = self._origins[ledger]
        found = [
            head
            for settings, shipping in self._shipping
            if settings.counts_as_leaving and (head := shipping.status().heads.get(origin)) is not None
        ]
        return max(found, default=None)

    async def tell_of_heads(self, witnessing: Witnessing) -> None:
        """Note the heads that have left through sinks, each hour at most: the note is an entry itself."""
        told: dict[LedgerName, float] = {}
        while True:
            await asyncio.sleep(TELL_EVERY_S)
            for name in LEDGERS:
                head = self.head_left(name)
                if head is None or head[1] - told.get(name, 0.0) < AGAIN_S:
                    continue
                with contextlib.suppress(CloisterError, OSError):  # tried again soon
                    await witnessing.left(None, HeadsLeft(sizes={name: head[0]}, how="syslog"))
                    told[name] = head[1]

    @property
    def dead(self) -> list[str]:
        """The required sinks for which a gateway is to hold back, as the stream of events last told."""
        return self._told_dead

    async def tell_of_dead(self, state: StateStore) -> None:
        """One event whenever a required sink has died or is back. What is told and `dead` change together."""
        owed = False
        while any(settings.required for settings, _ in self._shipping):
            now = self._dead_now()
            if now != self._told_dead or owed:
                self._told_dead, owed = now, True
                with contextlib.suppress(OutOfSpace):  # tried again soon; who asks is told right meanwhile
                    with state.change() as change:
                        change.event("sink.dead" if now else "sink.back", sinks=now)
                    owed = False
            await asyncio.sleep(LOOK_EVERY_S)

    def _dead_now(self) -> list[str]:
        return [sink.name for sink in self.status() if self._dead(sink)]

    def _dead(self, sink: SinkStatus) -> bool:
        grace = next(settings.grace_s for settings, _ in self._shipping if settings.name == sink.name)
        return sink.required and sink.down_s is not None and sink.down_s > grace


def sink_of(settings: SinkSettings, hostname: Callable[[], str] = socket.gethostname) -> Sink:
    """The sink that the settings describe. Errors: InvalidInput."""
    header = Header(settings.hostname or hostname(), settings.facility)
    if settings.scheme == "file":
        return JsonLines(Path(settings.path), rotate_bytes=settings.rotate_mib << 20, keep=settings.keep)
    if settings.scheme == "unix":
        return SyslogDatagram(settings.path, header)
    host, port = settings.host_port
    if settings.scheme == "udp":
        return SyslogDatagram((host, port), header)
    tls = _tls(settings) if settings.scheme == "tls" else None
    return SyslogStream(host, port, header, tls=tls, server_name=settings.server_name)


def _tls(settings: SinkSettings) -> ssl.SSLContext:
    try:
        context = verifying_context(settings.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.cert:
            context.load_cert_chain(settings.cert, settings.key)
    except (OSError, ssl.SSLError) as fault:
        raise InvalidInput(
            f"the CA, certificate or key cannot be used ({type(fault).__name__})",
            where=f"ledger.sinks: {settings.name}",
            remedy="Give PEM files that belong together and that this account may read.",
        ) from None
    return context
