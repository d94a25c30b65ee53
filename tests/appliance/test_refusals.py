"""What is refused is entered: each thing by its name, once, and a flood of refusals fills no ledger."""

from __future__ import annotations

from typing import Any

import pytest
from authority_world import World
from gates import (
    OPERATOR,
    TRAINER,
    Gates,
    gated,
)

from cloister.appliance import guard as guard_module
from cloister.appliance.peer import Peer
from cloister.errors import (
    Denied,
    LedgerUnavailable,
)


def denied(world: World, account: str) -> list[Any]:
    """What the ledger has of refusals to an account: thing, and whether there was more."""
    entries = [e for e in world.authority.ledger.entries(0, 1000) if e["action"] == "access.deny"]
    return [(e["details"]["thing"], "more" in e["details"]) for e in entries if e["actor"] == account]


@gated
async def test_each_thing_that_was_refused_is_named_and_a_flood_fills_no_ledger(gates: Gates) -> None:
    guard = gates.world.authority.guard

    async def ask(peer: Peer, thing: str, action: str = "shred.start", kind: str = "Dataset") -> None:
        with pytest.raises(Denied):
            await guard.require(peer, action, kind, thing)

    for thing in ("one", "two", "one", "no name\x1b", "another of those"):
        await ask(TRAINER, thing)
    assert denied(gates.world, TRAINER.account) == [("one", False), ("two", False), (None, False)]
    for number in range(100):
        await ask(OPERATOR, f"ds-{number}")
    await ask(OPERATOR, "run", "run.start", "Run")
    entered = denied(gates.world, OPERATOR.account)
    assert entered[:32] == [(f"ds-{number}", False) for number in range(32)]
    assert entered[32:] == [("ds-32", True), ("run", False)], "another action is still named"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guard_module, "QUIET_S", 0.0)
        await ask(TRAINER, "one")
    assert denied(gates.world, TRAINER.account)[-1] == ("one", False), "named again when the minute is over"


@gated
async def test_a_refusal_that_could_not_be_entered_is_entered_the_next_time(gates: Gates) -> None:
    authority = gates.world.authority
    submit = authority.ledger.submit

    def fails(*words: Any, **more: Any) -> Any:
        raise LedgerUnavailable("it refuses")

    for works in (fails, submit):
        authority.ledger.submit = works  # type: ignore[method-assign]
        with pytest.raises(Denied):
            await authority.guard.require(TRAINER, "shred.start", "Dataset", "one")
    assert denied(gates.world, TRAINER.account) == [("one", False)]
