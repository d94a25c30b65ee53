"""Another policy set: what it is compared with, what it ends, and what is entered where it does not come about."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from pathlib import Path
from typing import Any

import pytest
from gates import (
    ADMIN,
    APPROVER,
    BETTER,
    OPERATOR,
    SECOND,
    Gates,
    gated,
    model_of,
    needed,
)

from cloister.api import (
    ApprovalDecision,
    PolicyProposal,
)
from cloister.errors import (
    Conflict,
    InvalidInput,
)
from cloister.policy.cedar import PolicySet


def proposal(gates: Gates, name: str) -> PolicyProposal:
    """The set in force and one policy more."""
    files = gates.world.authority.policy_sets.in_force.files
    more = f'@id("{name}")\npermit (principal in Role::"admin", action == Action::"run.list", resource);\n'
    return PolicyProposal(files={**files, f"{name}.cedar": more})


@gated
async def test_a_set_with_a_bound_that_nothing_can_have_is_not_proposed(gates: Gates) -> None:
    sets = gates.world.authority.policy_sets
    misspelt = (
        '@id("f1-is-sure") forbid (principal, action == Action::"deployment.start", resource)\n'
        'when { resource.evaluation has macro_f1 && resource.evaluation.macro_f1.lessThan(decimal("0.8")) };'
    )
    with pytest.raises(InvalidInput, match="f1-is-sure"):
        await sets.propose(ADMIN, PolicyProposal(files={**sets.in_force.files, "own.cedar": misspelt}))


@gated
async def test_a_policy_change_is_compared_with_the_set_that_its_digest_names(gates: Gates) -> None:
    recorder, sets = gates.world.authority.recorder, gates.world.authority.policy_sets
    first, second = proposal(gates, "the-first"), proposal(gates, "the-second")
    await gates.approve(APPROVER, await needed(sets.propose(ADMIN, first)))
    entered, computed, released = threading.Event(), threading.Event(), threading.Event()
    record, checked, asked = recorder.record, sets._checked, []

    def held(*words: Any) -> PolicySet:
        if words[-1] is not second:
            return checked(*words)
        entered.set()
        found = checked(*words)
        computed.set()
        released.wait(120)
        return found

    async def slowly(*words: Any, **more: Any) -> int:
        if words[1] == "policy.change":
            asked.append(asyncio.create_task(needed(sets.propose(ADMIN, second))))
            if await asyncio.to_thread(entered.wait, 0.3):
                await asyncio.to_thread(computed.wait, 120)
        return await record(*words, **more)

    sets._checked, recorder.record = held, slowly  # type: ignore[method-assign]
    await sets.propose(ADMIN, first)
    released.set()
    summary = gates.register.one(await asked[0]).summary
    assert "policies removed: the-first" in summary and "policies added: the-second" in summary


@gated
async def test_a_policy_change_that_did_not_come_about_is_entered_as_abandoned(gates: Gates) -> None:
    world, recorder = gates.world, gates.world.authority.recorder
    before = world.authority.policy_sets.in_force.digest
    change = proposal(gates, "some-more")
    asked = await needed(world.authority.policy_sets.propose(ADMIN, change))
    await gates.approve(APPROVER, asked)
    record = recorder.record

    async def slowly(*words: Any, **more: Any) -> int:
        index = await record(*words, **more)
        if words[1] == "policy.change":
            decision = ApprovalDecision(digest=gates.register.one(asked).digest, reason="on second thoughts")
            await gates.decisions.refuse(SECOND, asked, decision)
        return index

    recorder.record = slowly  # type: ignore[method-assign]
    with pytest.raises(Conflict, match="refused"):
        await world.authority.policy_sets.propose(ADMIN, change)
    entries = [e for e in world.authority.ledger.entries(0, 1000) if e["action"] == "policy.change"]
    assert [e["decision"] for e in entries] == [None, None, "abandoned"]
    assert entries[1]["digests"] == entries[2]["digests"]
    assert world.authority.policy_sets.in_force.digest == before == world.authority.guard.policies.digest


@gated
async def test_another_set_at_a_start_ends_what_was_approved_under_the_one_before(gates: Gates) -> None:
    world = gates.world
    given = await needed(gates.serve(OPERATOR, model_of(world, "some", "internal", BETTER)))
    await gates.approve(APPROVER, given)
    change = proposal(gates, "some-more")
    with tempfile.TemporaryDirectory() as folder:
        for name, text in change.files.items():
            Path(folder, name).write_text(text)
        await world.restart(access={"policies": folder})
        assert gates.register.one(given).state == "approved"
        load, threads = PolicySet.load, []

        def noted(path: Path) -> PolicySet:
            threads.append(threading.current_thread())
            return load(path)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(PolicySet, "load", noted)
            warnings = (await world.authority.overview.status()).warnings
        assert any(f"the policies in {folder} are not those in force" in one for one in warnings)
        assert len(threads) == 1 and threads[0] is not threading.main_thread(), "it takes long"
        digest = PolicySet(change.files, "").digest
        await world.restart(access={"policies": folder, "accept_policies": digest})
    assert gates.register.one(given).state == "void"
    assert world.actions().count("approval.void") == 1
