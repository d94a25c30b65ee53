"""Shreds at their gate: as strict as all that they take, and decided on again when one begins."""

from __future__ import annotations

from typing import Any

import pytest
from gates import (
    APPROVER,
    BETTER,
    STEWARD,
    Gates,
    gated,
    model_of,
    needed,
)
from sqlalchemy import select

from cloister.api import (
    ObjectKind,
    ShredRequest,
)
from cloister.appliance.classifying import classify
from cloister.appliance.freezing import freeze_shred
from cloister.appliance.state import JobRow, ObjectRow
from cloister.errors import (
    LedgerUnavailable,
)
from cloister.policy.cedar import PolicySet


@gated
async def test_a_shred_is_as_strict_as_all_that_it_takes(gates: Gates) -> None:
    world = gates.world
    model_of(world, "secret", "restricted", BETTER)
    mild = world.stored(ObjectKind.DATASET, "mild-holdout")
    with world.authority.state.change() as change:
        classify(change, mild, "public", "x")
        adapter = change.session.scalars(select(ObjectRow).where(ObjectRow.name == "secret-adapter")).one()
        job = change.session.scalars(select(JobRow).where(JobRow.subject == adapter.object_id)).one()
        job.inputs = {"holdout": {"object_id": mild, "version": 1}}
        request = {"kind": "dataset", "reference": mild, "request": {"confirm": "mild-holdout"}}
        frozen = freeze_shred(change.session, request, change.now)
    assert any(adapter.object_id in line for line in frozen.summary)
    assert frozen.facts.classification == "restricted" and len(frozen.data) == 2


@gated
async def test_a_shred_that_the_ledger_refuses_keeps_its_approval(gates: Gates) -> None:
    world, ledger = gates.world, gates.world.authority.ledger
    world.stored(ObjectKind.DATASET, "notes")
    submit, request = ledger.submit, ShredRequest(confirm="notes")
    asked = await needed(world.authority.shredding.shred(STEWARD, "dataset", "notes", request))
    await gates.approve(APPROVER, asked)

    def fails(entry: Any, **more: Any) -> Any:
        if entry.action == "dataset.shred":
            raise LedgerUnavailable("it refuses")
        return submit(entry, **more)

    ledger.submit = fails  # type: ignore[method-assign]
    with pytest.raises(LedgerUnavailable):
        await world.authority.shredding.shred(STEWARD, "dataset", "notes", request)
    assert gates.register.one(asked).state == "approved", "nothing was entered, and nothing destroyed"
    ledger.submit = submit  # type: ignore[method-assign]
    done = await world.authority.shredding.shred(STEWARD, "dataset", "notes", request)
    assert done.state == "done" and gates.register.one(asked).state == "used"


@gated
async def test_a_shred_asked_for_ahead_is_decided_on_again_when_it_begins(gates: Gates) -> None:
    authority = gates.world.authority
    files = dict(authority.policy_sets.in_force.files)
    always = 'action == Action::"shred.start", resource)\nwhen { !(principal in Role::"sole") }'
    assert always in files["approvals.cedar"]
    milder = always.replace('!(principal in Role::"sole")', 'resource.classification == "restricted"')
    files["approvals.cedar"] = files["approvals.cedar"].replace(always, milder)
    authority.guard.policies = PolicySet(files, "")
    states = []
    for name, classification in (("mild", "internal"), ("raised", "restricted")):
        data = gates.world.stored(ObjectKind.DATASET, name)
        with authority.state.change() as change:  # as forgetting does when its job is done
            classify(change, data, classification, "x")
            request = ShredRequest(confirm=name, version=1)
            row = authority.shredding.ask(change, STEWARD.account, "dataset", data, name, request)
        authority.shredding.kick()
        await gates.world.until(lambda row=row: authority.shredding.one(row.shred_id).done_at)
        states.append(authority.shredding.one(row.shred_id).state)
    assert states == ["done", "abandoned"]
    assert authority.overview.object(ObjectKind.DATASET, "raised").name == "raised"
