"""From data to a served model: what each gate asks by classification and evaluation, and who may pass it."""

from __future__ import annotations

import pytest
from gates import (
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
from pydantic import ValidationError

from cloister.api import (
    DatasetImport,
    ImportConfig,
    ObjectKind,
    RunRequest,
    ShredRequest,
)
from cloister.appliance.classifying import classify
from cloister.appliance.facts import dataset_class
from cloister.appliance.freezing import freeze_declassify
from cloister.appliance.outdated import Outdated
from cloister.appliance.state import ObjectRow, RunRow
from cloister.errors import (
    CloisterError,
    Denied,
    InvalidInput,
)


@gated
async def test_a_confidential_model_serves_measured_signed_and_comes_back_without_asking(
    gates: Gates,
) -> None:
    world = gates.world
    model = model_of(world, "good", "confidential", BETTER)
    with pytest.raises(Denied):
        await gates.serve(TRAINER, model)
    asked = await needed(gates.serve(OPERATOR, model))
    shown = gates.register.one(asked)
    assert shown.signature_needed and shown.classification == "confidential"
    assert any("loss 3.0000 to 0.5000" in line for line in shown.summary)
    await gates.approve(APPROVER, asked)
    first = await gates.serve(OPERATOR, model)
    await world.authority.serving.stop(OPERATOR, first.name)
    again = await gates.serve(OTHER, model)
    assert again.deployment_id != first.deployment_id, "a rollback takes the operator alone"
    assert gates.register.one(asked).state == "approved"
    await world.authority.serving.stop(OTHER, again.name)
    await needed(gates.serve(OPERATOR, model, max_model_len=64))
    starts = [e for e in world.authority.ledger.entries(0, 1000) if e["action"] == "deployment.start"]
    assert [e["details"]["approval"] for e in starts] == [asked, asked]


@gated
async def test_a_model_that_showed_nothing_is_not_promoted_by_anybody(gates: Gates) -> None:
    world = gates.world
    for number, evaluation in enumerate([None, {}, {"base": {"loss": 1.0}, "tuned": {"loss": 1.0}}]):
        model = model_of(world, f"unproved-{number}", "restricted", evaluation)
        with pytest.raises(Denied) as caught:
            await gates.serve(OPERATOR, model)
        assert "confidential-models-are-measured-before-they-serve" in (caught.value.remedy or "")
        await needed(gates.serve(OPERATOR, model_of(world, f"inner-{number}", "internal", evaluation)))


@gated
async def test_an_approval_of_other_results_does_not_count(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "shifting", "internal", BETTER)
    asked = await needed(gates.serve(OPERATOR, model))
    await gates.approve(APPROVER, asked)
    with world.authority.state.change() as change:
        run = change.session.query(RunRow).one()
        run.evaluation = {**BETTER, "tuned": {"loss": 0.4, "exact_match": 0.95}}
    assert await needed(gates.serve(OPERATOR, model)) != asked


@gated
async def test_what_has_changed_is_void_for_good_also_where_nobody_asks(gates: Gates) -> None:
    world = gates.world
    authority = world.authority
    outdated = Outdated(authority.state, gates.register, authority.approvals.changed)
    model = model_of(world, "moving", "internal", BETTER)
    asked = await needed(gates.serve(OPERATOR, model))
    await gates.approve(APPROVER, asked)
    waits = await needed(gates.serve(OPERATOR, model, max_model_len=64))
    other = await needed(gates.serve(OTHER, model_of(world, "staying", "internal", BETTER)))

    def states() -> list[str]:
        return [gates.register.one(approval).state for approval in (asked, waits, other)]

    await outdated.sweep()
    assert states() == ["approved", "pending", "pending"]
    with authority.state.read() as session:
        data = session.query(ObjectRow).where(ObjectRow.name == "moving-data").one().object_id
    for classification in ("confidential", "internal"):  # and back
        with authority.state.change() as change:
            classify(change, data, classification, "x")
        await outdated.sweep()
    assert states() == ["void", "void", "pending"]
    void = [e for e in authority.ledger.entries(0, 1000) if e["action"] == "approval.void"]
    assert sorted(e["objects"][0] for e in void) == sorted([asked, waits])
    assert all("has changed" in e["reason"] for e in void)
    assert await needed(gates.serve(OPERATOR, model)) not in (asked, waits)


@gated
async def test_restricted_data_takes_two_different_approvers(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "secret", "restricted", BETTER)
    world.stored(ObjectKind.BASE, "small")
    request = RunRequest(name="second", dataset="secret-data", base="small")
    trained = await needed(gates.train(request))
    await gates.approve(APPROVER, trained)
    run = await gates.train(request)
    assert run.created_by == TRAINER.account
    served = await needed(gates.serve(OPERATOR, model))
    with pytest.raises(Denied) as caught:
        await world.authority.guard.require(APPROVER, "approval.give", "Approval", served)
    assert "not-the-same-person-at-two-gates" in (caught.value.remedy or "")
    await world.authority.guard.require(SECOND, "approval.give", "Approval", served)
    await gates.approve(SECOND, served)
    await gates.serve(OPERATOR, model)


@gated
async def test_a_run_that_was_asked_for_and_then_changed_asks_again(gates: Gates) -> None:
    world = gates.world
    data = world.stored(ObjectKind.DATASET, "notes")
    world.stored(ObjectKind.BASE, "small")
    with world.authority.state.change() as change:
        classify(change, data, "restricted", "x")
    request = RunRequest(name="one", dataset="notes", base="small")
    first = await needed(gates.train(request))
    bolder = RunRequest(name="one", dataset="notes", base="small", train={"learning_rate": 0.5})
    second = await needed(gates.train(bolder))
    assert gates.register.one(first).state == "void" and second != first
    await gates.approve(APPROVER, second)
    assert await needed(gates.train(request)) != first
    await gates.train(bolder)
    with pytest.raises(CloisterError):
        await gates.train(bolder)
    assert gates.register.one(second).state == "used"


@gated
async def test_a_dataset_that_nobody_classified_is_restricted(gates: Gates) -> None:
    world = gates.world
    world.stored(ObjectKind.DATASET, "old")
    assert world.authority.overview.object(ObjectKind.DATASET, "old").classification == "restricted"
    ticket = await world.authority.requests.import_dataset(
        world.peer, DatasetImport(name="new", config=ImportConfig(source_name="x"))
    )
    with world.authority.state.read() as session:
        assert dataset_class(session, ticket.job.subject or "") == "confidential"


@gated
async def test_an_appliance_of_one_account_asks_nobody(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "own", "restricted", None)
    await gates.serve(world.peer, model)
    await world.authority.serving.stop(world.peer, "desk")
    done = await world.authority.shredding.shred(
        world.peer, "dataset", "own-data", ShredRequest(confirm="own-data")
    )
    assert done.state == "done"
    assert world.authority.approval_register.listed() == []


@gated
async def test_a_name_is_never_taken_for_an_id(gates: Gates) -> None:
    world = gates.world
    patients = world.stored(ObjectKind.DATASET, "patients")
    decoy = world.stored(ObjectKind.DATASET, patients)  # as only an older state could hold it
    with world.authority.state.change() as change:
        classify(change, patients, "restricted", "x")
        classify(change, decoy, "internal", "x")
        frozen = freeze_declassify(
            change.session, {"reference": patients, "classification": "public"}, change.now
        )
    assert frozen.thing == patients and frozen.facts.classification == "restricted"
    with pytest.raises(ValidationError):
        DatasetImport(name=patients, config=ImportConfig(source_name="x"))


@gated
async def test_a_holdout_that_is_the_dataset_is_refused(gates: Gates) -> None:
    gates.world.stored(ObjectKind.DATASET, "notes")
    gates.world.stored(ObjectKind.BASE, "small")
    with pytest.raises(InvalidInput, match="hold-out is the dataset"):
        await gates.train(RunRequest(name="one", dataset="notes", base="small", holdout="notes"))
