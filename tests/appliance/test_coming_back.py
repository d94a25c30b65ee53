"""After a restart and an unlock a deployment comes back where it still may, and else ends and says why."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from authority_world import World
from gates import APPROVER, BETTER, OPERATOR, OTHER, SECOND, Gates, gated, model_of, needed

from cloister.api import ApprovalDecision, Deployment, DeploymentState
from cloister.appliance.classifying import classify
from cloister.appliance.peer import NOBODY, Peer, asker
from cloister.appliance.state import ApprovalRow, DeploymentRow, ObjectRow
from cloister.policy.roles import Standing


async def served(gates: Gates) -> tuple[str, str, Deployment]:
    """A model of internal data, the approval that was given, and its deployment with an engine."""
    model = model_of(gates.world, "some", "internal", BETTER)
    asked = await needed(gates.serve(OPERATOR, model))
    await gates.approve(APPROVER, asked)
    deployment = await gates.serve(OPERATOR, model)
    await gates.world.runs(deployment.deployment_id)
    return model, asked, deployment


async def restart(world: World, *, launcher: bool = True) -> None:
    """All over again, with the same people, still locked."""
    standing = world.authority.guard.standing
    await world.restart(launcher=launcher)
    world.authority.guard.standing = standing  # type: ignore[method-assign]


def shown(world: World, deployment: Deployment) -> Deployment:
    with world.authority.state.read() as session:
        row = session.get_one(DeploymentRow, deployment.deployment_id)
        return world.authority.serving.document(row)


def change_approval(world: World, approval_id: str, **values: Any) -> None:
    with world.authority.state.change() as change:
        row = change.session.get_one(ApprovalRow, approval_id)
        for name, value in values.items():
            setattr(row, name, value)


async def end_engine(world: World, deployment: Deployment) -> None:
    """As if it had crashed."""
    await world.authority.launcher.stop(deployment.deployment_id, 0)


async def stays_away(
    world: World, deployment: Deployment, code: str, *, starts: int | None = None
) -> Deployment:
    """It ends, with one entry and an alert, and no engine is started for it; `starts` are entered by then, where it
    is not as many as now."""
    starts = world.actions().count("engine.start") if starts is None else starts
    await world.until(lambda: shown(world, deployment).state == DeploymentState.FAILED)
    await world.until(lambda: world.authority.serving.live == [])
    ended = shown(world, deployment)
    assert ended.error is not None and ended.error.code == code
    assert world.actions().count("engine.start") == starts and await world.running() == []
    entries = [e for e in world.authority.ledger.entries(0, 10_000) if e["action"] == "deployment.refused"]
    assert [e["decision"] for e in entries] == ["deny"]
    assert entries[0]["objects"] == [deployment.deployment_id, deployment.model]
    assert entries[0]["reason"] == ended.error.detail and entries[0]["details"]["code"] == code
    alerts = [found.key for found in await world.authority._alarming.look()]
    assert f"engine:{deployment.deployment_id}" in alerts
    return ended


@gated
async def test_an_approved_deployment_comes_back_also_once_its_approval_has_run_out(gates: Gates) -> None:
    world = gates.world
    _, asked, deployment = await served(gates)
    change_approval(world, asked, stands_until=world.authority.state.now() - timedelta(days=1))
    await restart(world)
    assert shown(world, deployment).state == DeploymentState.RESTARTING
    assert await world.running() == []
    await world.unlock()
    await world.runs(deployment.deployment_id)
    assert "deployment.refused" not in world.actions()


@gated
async def test_a_deployment_whose_approval_was_refused_since_stays_away(gates: Gates) -> None:
    world = gates.world
    model, asked, deployment = await served(gates)
    shown_one = gates.register.one(asked)
    decision = ApprovalDecision(digest=shown_one.digest, reason="no more")
    await gates.decisions.refuse(SECOND, asked, decision)
    await restart(world, launcher=False)
    await world.unlock()
    await world.runs(deployment.deployment_id)  # an engine that lives is adopted
    assert "deployment.refused" not in world.actions()
    await restart(world)
    await world.unlock()
    ended = await stays_away(world, deployment, "approval-needed")
    assert ended.error is not None
    assert f"cloister serve start {model} --name desk --max-model-len 1024" in (ended.error.remedy or "")
    again = await needed(gates.serve(OPERATOR, model))
    await gates.approve(APPROVER, again)
    anew = await gates.serve(OPERATOR, model)
    await world.runs(anew.deployment_id)


@gated
async def test_only_the_approval_that_it_was_started_under_counts_beyond_its_time(gates: Gates) -> None:
    world = gates.world
    model, first, deployment = await served(gates)
    await world.authority.serving.stop(OPERATOR, deployment.deployment_id)
    change_approval(world, first, stands_until=world.authority.state.now() - timedelta(days=1))
    second = await needed(gates.serve(OPERATOR, model))
    await gates.approve(APPROVER, second)
    again = await gates.serve(OPERATOR, model)
    await world.runs(again.deployment_id)
    change_approval(world, second, state="refused")
    await end_engine(world, again)
    await stays_away(world, again, "approval-needed")


@gated
async def test_an_engine_that_ends_is_not_started_again_for_whoever_lost_the_role(gates: Gates) -> None:
    world = gates.world
    model, _, deployment = await served(gates)
    await end_engine(world, deployment)
    await world.until(lambda: shown(world, deployment).restarts == 1)  # its approval stands
    await world.runs(deployment.deployment_id)
    before = world.authority.guard.standing

    async def standing(peer: Peer) -> Standing:
        return Standing("gone", frozenset()) if peer.uid == OPERATOR.uid else await before(peer)

    world.authority.guard.standing = standing  # type: ignore[method-assign]
    await end_engine(world, deployment)
    ended = await stays_away(world, deployment, "denied")
    assert ended.error is not None and "any more" in ended.error.detail
    again = await gates.serve(OTHER, model)  # its approval stands, and from now on it is another operator's
    await world.runs(again.deployment_id)


@gated
async def test_data_that_becomes_stricter_in_the_last_moment_of_a_start_counts(gates: Gates) -> None:
    """Between the question and the start of an engine lies an entry of the ledger."""
    world = gates.world
    _, _, deployment = await served(gates)
    recorder = world.authority.recorder
    before = recorder.record

    async def record(actor: Peer | None, action: str, *objects: str, **more: Any) -> int:
        index = await before(actor, action, *objects, **more)
        if action == "engine.start":
            with world.authority.state.change() as change:
                data = change.session.query(ObjectRow).filter_by(name="some-data").one()
                classify(change, data.object_id, "confidential", "x")
        return index

    recorder.record = record  # type: ignore[method-assign]
    starts = world.actions().count("engine.start") + 1
    await end_engine(world, deployment)
    ended = await stays_away(world, deployment, "approval-needed", starts=starts)
    assert ended.error is not None and "confidential data" in ended.error.detail
    assert ended.restarts == 0, "no engine was started for it"


def test_whoever_asked_is_known_by_number_and_else_by_name() -> None:
    assert asker(7, "root").uid == 7
    assert asker(None, "root").uid == 0
    assert asker(None, "uid:41000").uid == 41_000
    assert asker(None, "nobody-of-that-name").uid == NOBODY
