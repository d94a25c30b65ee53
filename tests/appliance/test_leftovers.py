"""Proposals that expired: nobody closes them, and their files go all the same."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from authority_world import World, moment

from cloister.appliance.leftovers import Leftovers
from cloister.appliance.state import ApprovalRow, open_state
from cloister.appliance.store import StateStore
from cloister.policy.cedar import digest_of

FILES = {"roles.cedar": "permit (principal, action, resource);"}
HOUR = timedelta(hours=1)


def asked(state: StateStore, name: str, found: str, until: timedelta, action: str = "policy.change") -> None:
    request = {"files": FILES} if action == "policy.change" else {"reference": "notes"}
    with state.change() as change:
        row = ApprovalRow(
            approval_id=name,
            state=found,
            action=action,
            kind="Appliance",
            thing="policies",
            name="policies",
            classification="public",
            digest="0" * 64,
            request=request,
            summary=["another policy set"],
            data=[],
            signature_needed=True,
            requested_by="ana",
            requester=1,
            requested_at=change.now,
            expires_at=change.now + (until if found == "pending" else -HOUR),
            stands_until=change.now + until if found == "approved" else None,
            document="",
        )
        change.session.add(row)


def request_of(state: StateStore, name: str) -> dict[str, object]:
    with state.read() as session:
        return session.get_one(ApprovalRow, name).request


def test_what_expired_lets_go_and_what_is_open_keeps(tmp_path: Path) -> None:
    engine, sessions = open_state(tmp_path / "state.db")
    state = StateStore(sessions)
    asked(state, "waits", "pending", HOUR)
    asked(state, "waited", "pending", -HOUR)
    asked(state, "stands", "approved", HOUR)
    asked(state, "stood", "approved", -HOUR)
    asked(state, "refused", "refused", HOUR)  # from before they were let go of at once
    asked(state, "another", "pending", -HOUR, "dataset.declassify")
    leftovers = Leftovers(state)
    assert (leftovers.sweep(), leftovers.sweep()) == (3, 0)
    for name in ("waits", "stands"):
        assert request_of(state, name) == {"files": FILES}
    for name in ("waited", "stood", "refused"):
        assert request_of(state, name) == {"digest": digest_of(FILES)}
    assert request_of(state, "another") == {"reference": "notes"}
    engine.dispose()


@moment
async def test_an_authority_sweeps_when_it_starts(here: World) -> None:
    asked(here.authority.state, "waited", "pending", -HOUR)
    await here.restart()
    await here.until(lambda: "digest" in request_of(here.authority.state, "waited"))
    assert here.authority.approval_register.one("waited").state == "expired"
