"""What ends on a date, and soon: certificates and CAs, clients' API keys, the keys that approvers sign with.

It reads files and rows at each look and finds; whether anybody is told it does not know.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from sqlalchemy import select

from cloister.appliance.finding import NEW_WORK, Finding
from cloister.appliance.parts import Parts
from cloister.appliance.ssh_signatures import signers_ends
from cloister.appliance.state import ClientRow

CRITICAL = timedelta(days=2)
KEPT = timedelta(days=30)
"""A signer's key that ended longer ago is history: its line stays for the approvals that it signed."""
BRIEF = timedelta(hours=2)
"""A client's key that was issued for less than that is meant to end: a chat's, say."""
RESTART = "then `cloister down` and `cloister up`"


class Expiring:
    """Looks at every date of one home, and at those within `alerts.certificate_days`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = parts.settings
        self._soon = timedelta(days=parts.settings.alerts.certificate_days)

    def look(self) -> Iterator[Finding]:
        """All that ends soon, or has ended."""
        now = self._parts.state.now()
        yield from self._certificates(now)
        yield from self._client_keys(now)
        yield from self._signers(now)

    def _certificates(self, now: datetime) -> Iterator[Finding]:
        gateway = self._settings.gateway
        places = [
            ("certificate", "the gateway's certificate", gateway.tls_cert, "gateway.tls_cert", "all clients"),
            (
                "certificate:client-ca",
                "the CA of the clients' certificates",
                gateway.client_ca,
                "gateway.client_ca",
                "all clients",
            ),
        ]
        for sink in self._settings.ledger.sinks:
            affects = NEW_WORK if sink.required else "who reads the ledger elsewhere"
            of = f"of the audit sink {sink.name}"
            key, named = f"certificate:sink:{sink.name}", f"of the sink {sink.name} in ledger.sinks"
            places.append((f"{key}:cert", f"our certificate {of}", sink.cert, f"cert {named}", affects))
            places.append((f"{key}:ca", f"the CA {of}", sink.ca, f"ca {named}", affects))
        for key, what, path, setting, affects in places:
            if path is None:
                continue
            try:
                ends = _first_end(Path(path).read_bytes())
            except (OSError, ValueError):
                yield Finding(key, "critical", f"{what} cannot be read", affects, "cloister doctor")
                continue
            command = f"replace the file that `{setting}` names, {RESTART}"
            yield from self._ending(now, ends, key, what, affects, command)

    def _client_keys(self, now: datetime) -> Iterator[Finding]:
        with self._parts.state.read() as session:
            rows = session.scalars(
                select(ClientRow).where(ClientRow.revoked_at.is_(None), ClientRow.expires_at.is_not(None))
            ).all()
        for row in rows:
            lasts = row.expires_at - row.created_at if row.expires_at is not None else None
            if row.expires_at is not None and not (lasts and timedelta(0) < lasts < BRIEF):
                only = "".join(f" -d {name}" for name in row.deployments)
                yield from self._ending(
                    now,
                    row.expires_at,
                    f"client-key:{row.client_id}",
                    f"the API key of the client {row.name}",
                    f"the client {row.name}",
                    f"cloister client issue NEW-NAME{only}, then `cloister client revoke {row.name}`",
                )

    def _signers(self, now: datetime) -> Iterator[Finding]:
        given = self._settings.approvals.allowed_signers
        path = Path(given) if given else self._parts.home.allowed_signers
        try:
            ends = signers_ends(path.read_text("utf-8", errors="replace"))
        except OSError:  # what is signed says so itself
            return
        for principal, end in ends.items():
            if end is not None and now - end < KEPT:
                yield from self._ending(
                    now,
                    end,
                    f"signer:{principal}",
                    f"the key that {principal} signs approvals with",
                    f"{principal}, and whoever waits for that approval",
                    f"add a line with a new key of {principal} to {path}",
                )

    def _ending(
        self, now: datetime, ends: datetime, key: str, what: str, affects: str, command: str
    ) -> Iterator[Finding]:
        left = ends - now
        if left < self._soon:
            yield Finding(
                key,
                "critical" if left < CRITICAL else "warning",
                f"{what} {'ended' if left < timedelta(0) else 'ends'} on {ends:%Y-%m-%d}",
                affects,
                command,
            )


def _first_end(pem: bytes) -> datetime:
    """When the first of a file's certificates ends; of several of one subject the newest counts. Errors: ValueError."""
    ends: dict[bytes, datetime] = {}
    for certificate in x509.load_pem_x509_certificates(pem):
        subject = certificate.subject.public_bytes()
        end = certificate.not_valid_after_utc
        ends[subject] = max(end, ends.get(subject, end))
    return min(ends.values())
