"""Who lets a model out of the house: what is frozen, who approves, and that an approval is for one attempt."""

from __future__ import annotations

from typing import Any

import pytest
from gates import (  # type: ignore[import-not-found]
    APPROVER,
    BETTER,
    OPERATOR,
    OTHER,
    SECOND,
    TRAINER,
    Gates,
    gated,
    model_of,
    needed,
)

from cloister.api import ClassifyRequest, ExportRequest, JobTicket, RunRequest
from cloister.appliance.peer import Peer
from cloister.appliance.state import JobRow, ObjectRow
from cloister.errors import Conflict, Denied, InvalidInput

ONE = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
TWO = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg"


async def export(gates: Gates, peer: Peer, model: str, *recipients: str) -> JobTicket:
    request = ExportRequest(form="encrypted" if recipients else "plain", recipients=recipients)
    told: JobTicket = await gates.world.authority.model_exports.ask(peer, model, request)
    return told


def entries(gates: Gates, action: str) -> list[Any]:
    found = gates.world.authority.ledger.entries(0, 10_000)
    return [entry for entry in found if entry["action"] == action]


@gated
async def test_a_confidential_model_leaves_signed_for_to_its_recipient_once(gates: Gates) -> None:
    model = model_of(gates.world, "good", "confidential", BETTER)
    with pytest.raises(Denied):
        await export(gates, TRAINER, model, ONE)
    asked = await needed(export(gates, OPERATOR, model, ONE))
    shown = gates.register.one(asked)
    assert shown.signature_needed and shown.action == "model.export" and shown.thing == model
    assert f"leaves encrypted to {ONE}" in shown.summary
    assert any("no shred, no revocation" in line for line in shown.summary)
    assert ONE in shown.document, "the recipient stands in what is signed"
    await gates.approve(APPROVER, asked)

    for recipients in ((TWO,), (ONE, TWO)):  # another recipient is another request
        assert await needed(export(gates, OPERATOR, model, *recipients)) != asked
    assert await needed(export(gates, OTHER, model, ONE)) != asked, "nor somebody else's"
    assert entries(gates, "model.export") == []

    ticket = await export(gates, OPERATOR, model, f" {ONE}\n")
    (intent,) = entries(gates, "model.export")
    assert intent["details"]["approval"] == asked and ticket.job.job_id in intent["objects"]
    assert gates.register.one(asked).state == "used"
    with gates.world.authority.state.read() as session:
        record = session.get_one(JobRow, ticket.job.job_id).config["record"]
    assert record["approval"] == asked and record["ledger"]["index"] is not None
    assert await needed(export(gates, OPERATOR, model, ONE)) != asked, "an approval is for one attempt"


@gated
async def test_in_the_clear_leaves_only_what_came_of_mild_data(gates: Gates) -> None:
    for classification in ("confidential", "restricted"):
        model = model_of(gates.world, f"m-{classification}", classification, BETTER)
        with pytest.raises(Denied) as caught:
            await export(gates, OPERATOR, model)
        assert f"{classification}-models-leave-encrypted" in (caught.value.remedy or "")
    assert gates.register.listed() == [], "no approver is asked for what nobody may"
    mild = model_of(gates.world, "mild", "internal", BETTER)
    asked = await needed(export(gates, OPERATOR, mild))
    assert not gates.register.one(asked).signature_needed
    assert any("in the open" in line for line in gates.register.one(asked).summary)
    await gates.approve(APPROVER, asked)
    assert await needed(export(gates, OPERATOR, mild, ONE)) != asked, "the other form was not approved"
    await export(gates, OPERATOR, mild)


@gated
async def test_what_changes_after_the_approval_voids_it(gates: Gates) -> None:
    model = model_of(gates.world, "good", "internal", BETTER)
    asked = await needed(export(gates, OPERATOR, model))
    with gates.world.authority.state.change() as change:
        change.session.get_one(ObjectRow, (model, 1)).manifest_sha256 = "1" * 64
    with pytest.raises(Conflict, match="void"):
        await gates.approve(APPROVER, asked)
    asked = await needed(export(gates, OPERATOR, model))
    await gates.approve(APPROVER, asked)
    await gates.world.authority.classifying.stricter(
        gates.world.peer, "good-data", ClassifyRequest(classification="confidential")
    )
    with pytest.raises(Denied):
        await export(gates, OPERATOR, model)


@gated
async def test_for_restricted_data_nobody_approves_training_and_export(gates: Gates) -> None:
    model = model_of(gates.world, "secret", "restricted", BETTER)
    gates.world.stored("base", "small")
    trained = await needed(gates.train(RunRequest(name="two", dataset="secret-data", base="small")))
    await gates.approve(APPROVER, trained)
    asked = await needed(export(gates, OPERATOR, model, ONE))
    with pytest.raises(Denied):
        await gates.approve(APPROVER, asked)
    await gates.approve(SECOND, asked)
    await export(gates, OPERATOR, model, ONE)


@gated
async def test_a_recipient_that_is_none_is_refused_before_anybody_is_asked(gates: Gates) -> None:
    model = model_of(gates.world, "good", "internal", BETTER)
    with pytest.raises(InvalidInput, match="recipient of age"):
        await export(gates, OPERATOR, model, "age1nobody")
    assert gates.register.listed() == []
