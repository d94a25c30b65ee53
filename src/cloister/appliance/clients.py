"""Client applications and their API keys. A key is shown once; only its keyed hash is kept."""

from __future__ import annotations

import secrets

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import ApiClient, ClientRequest, IssuedClient
from cloister.appliance import records
from cloister.appliance.ids import new_id
from cloister.appliance.peer import Peer
from cloister.appliance.recorder import Recorder
from cloister.appliance.seal import Seal
from cloister.appliance.state import ClientRow
from cloister.appliance.store import Change, StateStore
from cloister.errors import Conflict, NotFound

KEY_PREFIX = "clo-"


class Clients:
    """Issues and revokes keys."""

    def __init__(self, state: StateStore, seal: Seal, recorder: Recorder) -> None:
        self._state = state
        self._seal = seal
        self._recorder = recorder

    async def issue(self, peer: Peer, request: ClientRequest) -> IssuedClient:
        """A new client with a fresh key of 256 bits. Errors: Conflict, Locked, LedgerUnavailable."""
        client_id = new_id("client")
        api_key = KEY_PREFIX + secrets.token_urlsafe(32)
        key_hash = self._seal.hash_api_key(api_key)
        with self._state.read() as session:
            self._refuse_taken(session, request.name)
        await self._recorder.record(peer, "client.issue", client_id, name=request.name)
        with self._state.change() as change:
            self._refuse_taken(change.session, request.name)
            row = ClientRow(
                client_id=client_id,
                name=request.name,
                deployments=list(request.deployments),
                key_hash=key_hash,
                created_at=change.now,
                created_by=peer.account,
                expires_at=request.expires_at,
            )
            change.session.add(row)
            change.event("client.issued", client_id, name=row.name)
        return IssuedClient(client=records.api_client(row), api_key=api_key)

    async def revoke(self, peer: Peer, reference: str) -> ApiClient:
        """End a key at once, also with a failed ledger. Twice is once. Errors: NotFound."""
        with self._state.read() as session:
            row = self._find(session, reference)
        if row.revoked_at is not None:
            return records.api_client(row)
        client_id = row.client_id

        def end(change: Change) -> None:
            row = change.session.get_one(ClientRow, client_id)
            row.revoked_at = row.revoked_at or change.now
            change.event("client.revoked", client_id, name=row.name)

        if not await self._recorder.record_taking_away(peer, "client.revoke", client_id, alongside=end):
            with self._state.change() as change:
                end(change)
        with self._state.read() as session:
            return records.api_client(session.get_one(ClientRow, client_id))

    def listed(self, *, with_hash: bool = False) -> list[ApiClient]:
        with self._state.read() as session:
            rows = session.scalars(select(ClientRow).order_by(ClientRow.created_at))
            return [records.api_client(row, with_hash=with_hash) for row in rows]

    @staticmethod
    def _refuse_taken(session: Session, name: str) -> None:
        taken = select(ClientRow).where(ClientRow.name == name, ClientRow.revoked_at.is_(None))
        if session.scalars(taken).first():
            raise Conflict(
                "a client of that name has a key", where=name, remedy="Revoke it, or choose another name."
            )

    @staticmethod
    def _find(session: Session, reference: str) -> ClientRow:
        row = session.scalars(
            select(ClientRow)
            .where((ClientRow.client_id == reference) | (ClientRow.name == reference))
            .order_by(ClientRow.revoked_at.is_not(None), ClientRow.created_at.desc())
        ).first()
        if row is None:
            raise NotFound(
                "there is no client of that name or id",
                where=reference[:64],
                remedy="See `cloister client list`.",
            )
        return row
