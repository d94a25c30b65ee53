"""Approvals between the asking and the act: what changes meanwhile, comes second or comes too late stops it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from authority_world import World
from gates import (
    APPROVER,
    BETTER,
    OPERATOR,
    OTHER,
    SECOND,
    Gates,
    gated,
    model_of,
    needed,
)

from cloister.api import (
    Approval,
    ApprovalDecision,
    ClassifyRequest,
    ObjectKind,
    RunRequest,
)
from cloister.appliance import ssh_signatures
from cloister.appliance.classifying import classify
from cloister.errors import (
    ApprovalNeeded,
    Conflict,
    Denied,
    LedgerUnavailable,
)


@gated
async def test_two_at_once_use_an_approval_once(gates: Gates) -> None:
    world = gates.world
    data = world.stored(ObjectKind.DATASET, "notes")
    world.stored(ObjectKind.BASE, "small")
    with world.authority.state.change() as change:
        classify(change, data, "restricted", "x")
    request = RunRequest(name="one", dataset="notes", base="small")
    await gates.approve(APPROVER, await needed(gates.train(request)))
    both = await asyncio.gather(*(gates.train(request) for _ in range(2)), return_exceptions=True)
    (refused,) = [one for one in both if isinstance(one, BaseException)]
    assert isinstance(refused, Conflict | ApprovalNeeded), "where the approval was gone as it was looked for"
    assert len(world.authority.overview.runs()) == 1


@gated
async def test_asked_twice_at_once_is_one_request(gates: Gates) -> None:
    model = model_of(gates.world, "some", "internal", BETTER)
    both = await asyncio.gather(*(needed(gates.serve(OPERATOR, model)) for _ in range(2)))
    assert both[0] == both[1]
    entries = [e for e in gates.world.authority.ledger.entries(0, 1000) if e["action"] == "approval.request"]
    assert [e["objects"][0] for e in entries] == [both[0]], "no entry is of a request that is not there"


@gated
async def test_an_older_request_ends_only_when_the_new_one_is_there(gates: Gates) -> None:
    model = model_of(gates.world, "some", "internal", BETTER)
    first = await needed(gates.serve(OPERATOR, model))
    submit = gates.world.authority.ledger.submit

    def fails(entry: Any, **more: Any) -> Any:
        if entry.action == "approval.request":
            raise LedgerUnavailable("it refuses")
        return submit(entry, **more)

    gates.world.authority.ledger.submit = fails  # type: ignore[method-assign]
    with pytest.raises(LedgerUnavailable):
        await gates.serve(OPERATOR, model, max_model_len=64)
    assert gates.register.one(first).state == "pending"
    gates.world.authority.ledger.submit = submit  # type: ignore[method-assign]
    await needed(gates.serve(OPERATOR, model, max_model_len=64))
    assert gates.register.one(first).state == "void"


@gated
async def test_two_classifications_at_once_do_not_end_with_the_milder(gates: Gates) -> None:
    world = gates.world
    data = world.stored(ObjectKind.DATASET, "notes")
    with world.authority.state.change() as change:
        classify(change, data, "public", "x")
    told = await asyncio.gather(
        *(
            world.authority.classifying.stricter(world.peer, "notes", ClassifyRequest(classification=name))
            for name in ("internal", "restricted")
        ),
        return_exceptions=True,
    )
    assert sum(isinstance(one, Conflict) for one in told) == 1


@gated
async def test_what_changes_between_gate_and_act_stops_the_act(gates: Gates) -> None:
    world = gates.world
    data = world.stored(ObjectKind.DATASET, "notes")
    world.stored(ObjectKind.BASE, "small")
    with world.authority.state.change() as change:
        classify(change, data, "confidential", "x")
    record = world.authority.recorder.record

    async def slowly(*words: Any, **more: Any) -> int:
        with world.authority.state.change() as change:
            classify(change, data, "restricted", "x")
        return await record(*words, **more)

    world.authority.recorder.record = slowly  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="changed meanwhile"):
        await gates.train(RunRequest(name="one", dataset="notes", base="small"))
    assert world.authority.overview.runs() == []


@gated
async def test_one_approver_at_two_gates_at_once_passes_one(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "secret", "restricted", BETTER)
    world.stored(ObjectKind.BASE, "small")
    trained = await needed(gates.train(RunRequest(name="two", dataset="secret-data", base="small")))
    served = await needed(gates.serve(OPERATOR, model))
    both = await asyncio.gather(
        gates.approve(APPROVER, trained), gates.approve(APPROVER, served), return_exceptions=True
    )
    assert sum(isinstance(one, Denied) for one in both) == 1


@gated
async def test_an_approval_that_stands_can_be_taken_back(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "bad", "internal", BETTER)
    asked = await needed(gates.serve(OPERATOR, model))
    await gates.approve(APPROVER, asked)
    await gates.serve(OPERATOR, model)
    await world.authority.serving.stop(OPERATOR, "desk")
    decision = ApprovalDecision(digest=gates.register.one(asked).digest, reason="it insulted a client")
    taken = await gates.decisions.refuse(SECOND, asked, decision)
    assert taken.state == "refused" and taken.decided_by == APPROVER.account
    assert taken.reason == f"taken back by {SECOND.account}: it insulted a client"
    assert await needed(gates.serve(OPERATOR, model)) != asked


def later(world: World, **span: float) -> None:
    """The authority's clock goes on by that much."""
    clock, step = world.authority.state._clock, timedelta(**span)
    world.authority.state._clock = lambda: clock() + step


@gated
async def test_what_is_decided_too_late_says_since_when_and_what_is_decided_says_what_to_do(
    gates: Gates,
) -> None:
    asked = await needed(gates.serve(OPERATOR, model_of(gates.world, "some", "internal", BETTER)))
    await gates.approve(APPROVER, asked)
    with pytest.raises(Conflict, match="it is approved") as caught:
        await gates.decisions.withdraw(OPERATOR, asked)
    assert f"cloister approval refuse {asked}" in (caught.value.remedy or "")
    stands = gates.register.one(asked).stands_until
    later(gates.world, days=31)
    decision = ApprovalDecision(digest=gates.register.one(asked).digest, reason="no")
    with pytest.raises(Conflict, match=f"expired since {stands:%Y-%m-%d %H:%M} UTC"):
        await gates.decisions.refuse(SECOND, asked, decision)


@gated
async def test_a_request_that_ends_while_its_signature_is_checked_is_not_approved(gates: Gates) -> None:
    asked = await needed(gates.serve(OPERATOR, model_of(gates.world, "some", "confidential", BETTER)))
    verify = ssh_signatures.verify

    def slowly(*words: Any, **more: Any) -> str:
        later(gates.world, hours=80)
        return verify(*words, **more)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Conflict, match="it is expired since"):
        patch.setattr(ssh_signatures, "verify", slowly)
        await gates.approve(APPROVER, asked)
    actions = gates.world.actions()
    assert "approval.give" not in actions and actions[-1] == "approval.reject"


@gated
async def test_a_decision_that_comes_second_is_entered_as_refused(gates: Gates) -> None:
    asked = await needed(gates.serve(OPERATOR, model_of(gates.world, "some", "internal", BETTER)))
    both = await asyncio.gather(
        gates.approve(APPROVER, asked), gates.decisions.withdraw(OPERATOR, asked), return_exceptions=True
    )
    assert [type(one) for one in both if one is not None] in ([Conflict], [Conflict, Approval])
    assert gates.world.actions()[-1] == "approval.reject"


@gated
async def test_what_no_longer_stands_ends_with_a_failed_ledger_too(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "some", "internal", BETTER)
    asked = [await needed(gates.serve(person, model)) for person in (OPERATOR, OTHER)]

    def fails(*words: Any, **more: Any) -> Any:
        raise LedgerUnavailable("it refuses")

    submit, world.authority.ledger.submit = world.authority.ledger.submit, fails  # type: ignore[method-assign]
    await gates.register.void_others("0" * 64)
    assert {gates.register.one(one).state for one in asked} == {"void"}
    world.authority.ledger.submit = submit  # type: ignore[method-assign]
    await world.authority.recorder.enter_owed()
    assert world.actions().count("approval.void") == 2
