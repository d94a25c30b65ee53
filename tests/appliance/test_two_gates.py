"""Who stood at another gate for the same data: by approving there, or asking for what was approved or still waits."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cloister.appliance.facts import approval_facts
from cloister.appliance.ids import new_id
from cloister.appliance.state import ApprovalRow, open_state
from cloister.appliance.store import utc_now

ADA, BOB, CYD = 1, 2, 3
DAY = timedelta(days=1)


def asked(action: str, by: int, at: datetime, data: str = "ds-rows", **more: Any) -> ApprovalRow:
    values = {"state": "pending", "expires_at": at + DAY, **more}
    return ApprovalRow(
        approval_id=new_id("approval"), action=action, requester=by, requested_at=at, data=[data], kind="Run",
        thing="x", name="x", classification="restricted", digest="1" * 64, request={}, summary=[],
        signature_needed=True, requested_by="x", document="", **values,
    )  # fmt: skip


def given(row: ApprovalRow, by: int) -> ApprovalRow:
    row.state, row.decider = "used", by
    row.decided_at, row.stands_until = row.requested_at + DAY / 2, row.requested_at + 9 * DAY
    return row


def stood(tmp_path: Path, row: ApprovalRow, *others: ApprovalRow) -> tuple[set[int], set[int]]:
    """Who approved, and who asked."""
    engine, sessions = open_state(tmp_path / "state.db")
    with sessions() as session:
        session.add_all([row, *others])
        session.flush()
        found = approval_facts(session, row)
    engine.dispose()
    return set(found.approved_before), set(found.asked_before)


def test_who_asked_for_what_was_approved_or_waits_stood_there(tmp_path: Path) -> None:
    now = utc_now()
    row = asked("deployment.start", CYD, now)
    training = given(asked("run.start", ADA, now - 5 * DAY), BOB)
    assert stood(tmp_path, row, training) == ({BOB}, {ADA})
    row, waiting = asked("model.export", CYD, now), asked("deployment.start", ADA, now - DAY / 2)
    assert stood(tmp_path, row, waiting) == (set(), {ADA})


def test_who_asked_in_vain_elsewhere_at_this_gate_or_later_did_not(tmp_path: Path) -> None:
    now = utc_now()
    row = asked("deployment.start", CYD, now)
    others = [
        asked("run.start", ADA, now - 2 * DAY),  # expired
        asked("run.start", ADA, now - DAY / 2, state="refused"),
        given(asked("run.start", ADA, now - DAY, data="ds-other"), BOB),
        given(asked("deployment.start", ADA, now - DAY), BOB),
    ]
    assert stood(tmp_path, row, *others) == (set(), set())
    decided = given(asked("deployment.start", CYD, now - 5 * DAY), ADA)
    since = given(asked("run.start", ADA, now - 2 * DAY), BOB)
    assert stood(tmp_path, decided, since) == ({BOB}, set()), "what ADA approved then stays approved"
