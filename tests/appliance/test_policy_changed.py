"""What was begun under an approval goes on under another policy set where that is content with what it holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
from test_coming_back import change_approval, end_engine, restart, served, shown, stays_away

from cloister.api import ApprovalDecision, DeploymentState, ExportRequest, JobState, ObjectKind, RunRequest
from cloister.appliance.classifying import classify
from cloister.appliance.state import DeploymentRow
from cloister.errors import ApprovalNeeded, Conflict, Denied
from cloister.policy.cedar import PolicySet

HARMLESS = (
    '@id("admin-trains")\npermit (principal in Role::"admin", action == Action::"base.import", resource);\n'
)
SIGNED_ALWAYS = """@id("serving-is-always-signed")
forbid (principal, action == Action::"deployment.start", resource)
when { context.approval.given } unless { context.approval.signed };
"""
TWO_ALWAYS = """@id("never-the-same-person")
forbid (principal, action == Action::"approval.give", resource)
when { resource.approvedBefore.contains(principal.uid) };
"""


async def put_in_force(gates: Gates, more: str) -> tuple[str, str]:
    """The first set and `more`, as if it had been approved; the digests before and after."""
    authority = gates.world.authority
    sets, before = authority.policy_sets, authority.policy_sets.in_force
    files = {name: text for name, text in before.files.items() if name != "more.cedar"}
    after = PolicySet(files | ({"more.cedar": more} if more else {}), "")
    with authority.state.change() as change:
        sets._keep(change, after, "approved", None)
    sets.in_force = authority.guard.policies = after
    authority.recorder.policy = after.digest
    await gates.register.void_others(after.digest)
    return before.digest, after.digest


def entry(gates: Gates, action: str) -> Mapping[str, Any]:
    """The last of that action."""
    found = [e for e in gates.world.authority.ledger.entries(0, 10_000) if e["action"] == action]
    return found[-1]


def state_of(gates: Gates, approval_id: str) -> str:
    return gates.register.one(approval_id).state


@gated
async def test_a_deployment_comes_back_under_another_set_and_what_was_not_used_is_void(gates: Gates) -> None:
    world = gates.world
    model, asked, deployment = await served(gates)
    unused = await needed(world.authority.model_exports.ask(OPERATOR, model, ExportRequest(form="plain")))
    await gates.approve(APPROVER, unused)
    before, after = await put_in_force(gates, HARMLESS)
    assert (state_of(gates, asked), state_of(gates, unused)) == ("kept", "void")
    kept = entry(gates, "approval.keep")
    assert kept["objects"] == [asked, deployment.deployment_id]
    assert (kept["digests"]["approved_under"], kept["digests"]["in_force"]) == (before, after)
    await restart(world)
    assert state_of(gates, asked) == "kept"
    await world.unlock()
    await world.runs(deployment.deployment_id)
    back = entry(gates, "engine.start")
    assert back["digests"] == {"approved_under": before, "in_force": after}
    assert back["policy"] == after and back["details"]["approval"] == asked
    # For nothing else: neither anew under this set, nor under the first one, should it come back.
    await world.authority.serving.stop(OPERATOR, deployment.deployment_id)
    assert await needed(gates.serve(OPERATOR, model)) != asked
    await put_in_force(gates, "")
    assert world.authority.policy_sets.in_force.digest == before
    assert await needed(gates.serve(OTHER, model)) != asked


@gated
async def test_a_set_that_demands_more_keeps_it_away_and_says_so_before_and_after(gates: Gates) -> None:
    world = gates.world
    model, asked, deployment = await served(gates)
    await put_in_force(gates, SIGNED_ALWAYS)
    assert state_of(gates, asked) == "kept", "it runs on"
    command = f"cloister serve start {model} --name desk --max-model-len 1024"
    with world.authority.state.change() as change:  # as if it had answered
        change.session.get_one(DeploymentRow, deployment.deployment_id).state = DeploymentState.READY
    (doubt,) = [f for f in await world.authority._alarming.look() if f.key.startswith("return:")]
    assert doubt.command == command and f"{asked}, under which it was begun, is not signed" in doubt.cause
    await end_engine(world, deployment)
    ended = await stays_away(world, deployment, "approval-needed")
    assert ended.error is not None and "is not signed" in ended.error.detail
    (alert,) = [f for f in await world.authority._alarming.look() if f.key.startswith("engine:")]
    assert alert.command == command
    (warning,) = [w for w in (await world.authority.overview.status()).warnings if "desk" in w]
    assert "is not signed" in warning and command in warning
    again = await needed(gates.serve(OPERATOR, model))
    assert gates.register.one(again).signature_needed
    await gates.approve(APPROVER, again)
    anew = await gates.serve(OPERATOR, model)
    await world.runs(anew.deployment_id)
    assert not [w for w in (await world.authority.overview.status()).warnings if "desk" in w]
    assert not [f for f in await world.authority._alarming.look() if f.key == alert.key]


@gated
async def test_the_approval_of_what_runs_is_renewed_without_stopping_it(gates: Gates) -> None:
    world = gates.world
    model, asked, deployment = await served(gates)
    with pytest.raises(Conflict, match="is served"):
        await gates.serve(OTHER, model)  # it would come back: there is nothing to renew
    await put_in_force(gates, SIGNED_ALWAYS)
    with pytest.raises(Conflict, match="is served"):
        await gates.serve(OTHER, model, max_model_len=64)
    again = await needed(gates.serve(OTHER, model))
    await gates.approve(SECOND, again)
    renewed = await gates.serve(OTHER, model)
    assert renewed.deployment_id == deployment.deployment_id
    assert entry(gates, "deployment.renew")["details"]["approval"] == again
    await restart(world)
    await world.unlock()
    await world.runs(deployment.deployment_id)
    assert shown(world, deployment).state != DeploymentState.FAILED
    # Whoever took the approval that it stands on back ends its coming back, also once that approval's time is over.
    decision = ApprovalDecision(digest=gates.register.one(again).digest, reason="no more")
    change_approval(world, again, stands_until=world.authority.state.now().replace(year=2020))
    assert state_of(gates, again) == "expired"
    assert (await gates.decisions.refuse(APPROVER, again, decision)).state == "refused"
    await end_engine(world, deployment)
    await stays_away(world, deployment, "approval-needed")
    assert state_of(gates, asked) == "void", "nothing is served under it any more"


@gated
async def test_who_gave_it_must_still_be_one_who_could(gates: Gates) -> None:
    world = gates.world
    model, asked, deployment = await served(gates)
    await gates.approve(
        APPROVER,
        await needed(world.authority.model_exports.ask(OPERATOR, model, ExportRequest(form="plain"))),
    )
    await put_in_force(gates, TWO_ALWAYS)
    await end_engine(world, deployment)
    ended = await stays_away(world, deployment, "approval-needed")
    assert ended.error is not None
    assert f"{asked} does not count: {APPROVER.account}, who gave it, could not" in ended.error.detail
    assert "never-the-same-person" in ended.error.detail


@gated
async def test_a_key_taken_out_of_the_file_proves_nothing_any_more(gates: Gates) -> None:
    world = gates.world
    model = model_of(world, "good", "confidential", BETTER)
    asked = await needed(gates.serve(OPERATOR, model))
    await gates.approve(APPROVER, asked)
    path, whole = world.home.allowed_signers, world.home.allowed_signers.read_text()
    path.write_text(
        whole.replace(f"{APPROVER.account} ", f'{APPROVER.account} valid-before="20991231" ').replace(
            "20991231", f"{world.authority.state.now().year + 1}0101"
        )
    )
    deployment = await gates.serve(OPERATOR, model)  # a key that ends signs for the time before
    await world.runs(deployment.deployment_id)
    path.write_text("".join(line for line in whole.splitlines(True) if APPROVER.account not in line))
    other = await needed(gates.serve(OTHER, model))
    assert other != asked, "what would not come back may be renewed"
    await end_engine(world, deployment)
    ended = await stays_away(world, deployment, "approval-needed")
    assert ended.error is not None and "is not in" in ended.error.detail
    with pytest.raises(ApprovalNeeded):
        await gates.serve(OPERATOR, model)


@gated
async def test_a_run_that_waits_starts_under_another_set_where_its_approval_still_does(gates: Gates) -> None:
    world = gates.world
    world.stored(ObjectKind.BASE, "small")
    with world.authority.state.change() as change:
        classify(change, world.stored(ObjectKind.DATASET, "notes"), "restricted", "x")
    jobs, asked = [], []
    world.authority.queue.paused = True
    for name, approver in (("one", SECOND), ("two", APPROVER)):
        request = RunRequest(name=name, dataset="notes", base="small", evaluate=None)
        asked.append(await needed(gates.train(request)))
        await gates.approve(approver, asked[-1])
        jobs.append((await gates.train(request)).train_job.job_id)
    not_by_one = f"""@id("not-by-that-one")
forbid (principal, action == Action::"approval.give", resource)
when {{ resource.action == "run.start" && principal.uid == {APPROVER.uid} }};
"""
    before, after = await put_in_force(gates, not_by_one)
    world.authority.queue.paused = False
    world.go.touch()
    await world.reaches(jobs[0], JobState.DONE)
    started = entry(gates, "job.train")
    assert started["objects"][0] == jobs[0] and started["details"]["approval"] == asked[0]
    assert started["digests"] == {"approved_under": before, "in_force": after}
    await world.reaches(jobs[1], JobState.INTERRUPTED)
    error = world.job(jobs[1]).error
    assert error["code"] == "approval-needed" and "not-by-that-one" in error["detail"]
    again = await needed(world.authority.requests.gate_resume(TRAINER, world.job(jobs[1])))
    await gates.approve(SECOND, again)
    await world.authority.requests.gate_resume(TRAINER, world.job(jobs[1]))


@gated
async def test_an_approval_is_not_used_for_what_another_set_forbids(gates: Gates) -> None:
    world = gates.world
    model, asked, deployment = await served(gates)
    nobody = '@id("no-serving")\nforbid (principal, action == Action::"deployment.start", resource);\n'
    await put_in_force(gates, nobody)
    assert PolicySet(world.authority.policy_sets.in_force.files, "").by_id("no-serving") is not None
    with pytest.raises(Denied):
        await gates.serve(OPERATOR, model)
    await end_engine(world, deployment)
    await stays_away(world, deployment, "denied")
    assert state_of(gates, asked) == "kept"
