"""A run whose numbers went wrong and whose adapter from before is kept: it failed, for everybody who looks."""

from __future__ import annotations

from typing import Any

import pytest
from authority_world import PEER, PROGRAM, World, moment
from gates import APPROVER, BETTER, OPERATOR, Gates, gated, model_of, needed
from sqlalchemy import select

from cloister.api import (
    EvaluateConfig,
    EvaluationRequest,
    ExportRequest,
    JobState,
    MergeRequest,
    ObjectKind,
    RunRequest,
)
from cloister.appliance.freezing import freeze_export
from cloister.appliance.state import JobRow, ObjectRow, RunRow
from cloister.errors import Conflict, Denied, InvalidInput, LedgerUnavailable

WHAT = (
    "The loss grew from 2.000 to 9.000 by step 90 and stayed there. What is kept is the adapter of step 60."
)
SAYS = f"""{{"event": "result", "values": {{"steps": 90, "best_step": 60, "holdout_loss": 1.5, "failure":
    {{"code": "diverged", "message": "{WHAT}", "remedy": "Lower the learning rate."}}}}}}"""
WRONG = PROGRAM.replace('{"event": "result", "values": {"steps": 1}}', SAYS)
SAYS_LITTLE = PROGRAM.replace('"values": {"steps": 1}', '"values": {"steps": 1, "failure": "badly"}')


async def went_wrong(here: World, program: str = WRONG) -> Any:
    """A run that was to be measured, and went wrong."""
    (here.home.root / "program.py").write_text(program)
    started = await here.authority.requests.start_run(
        PEER, RunRequest(name="wild", dataset="rows", base="base", evaluate=EvaluateConfig())
    )
    here.go.touch()
    await here.reaches(started.train_job.job_id, JobState.FAILED)
    await here.until(lambda: not here.authority.queue.known)
    return here.authority.requests._shown("wild")


@moment
async def test_it_failed_and_says_what_is_kept(here: World) -> None:
    run = await went_wrong(here)
    assert run.train_job.state == "failed" and run.evaluate_job is None, "it is measured when somebody asks"
    assert run.adapter == run.train_job.subject
    error = run.train_job.error
    assert error.code == "diverged" and error.detail == WHAT
    assert error.remedy == (
        "Lower the learning rate. `cloister evaluate wild` says what the adapter that was kept is worth."
    )
    assert run.train_job.result == {"steps": 90, "best_step": 60, "holdout_loss": 1.5}
    entries = here.authority.ledger.entries(0, 1000)
    (entry,) = [e for e in entries if e["action"] in ("job.done", "job.failed")]
    assert entry["action"] == "job.failed" and entry["reason"] == "diverged"
    assert entry["objects"] == [run.train_job.job_id, run.adapter]
    assert entry["details"] == {"name": "wild", "verb": "train", "kept": "step 60"}
    with here.authority.state.read() as session:
        stored = session.get_one(ObjectRow, (run.adapter, 1))
    assert stored.kind == ObjectKind.ADAPTER and stored.details["failure"]["code"] == "diverged"


@moment
async def test_what_is_kept_is_measured_and_merged_like_any(here: World) -> None:
    run = await went_wrong(here)
    requests, evaluations = here.authority.requests, here.authority.evaluations
    merge = await requests.merge(PEER, MergeRequest(name="of-before", run="wild"))
    ticket = await evaluations.start(PEER, "wild", EvaluationRequest(config=EvaluateConfig()))
    for job_id in (merge.job_id, ticket.job.job_id):
        assert here.job(job_id).inputs["adapter"]["object_id"] == run.adapter


@moment
async def test_it_neither_resumes_nor_begins_anew(here: World) -> None:
    run = await went_wrong(here)
    queue, job_id = here.authority.queue, run.train_job.job_id
    for again in (queue.resume, queue.retry):
        with pytest.raises(Conflict, match="went wrong, and would again") as caught:
            await again(PEER, job_id)
        assert "lower learning rate" in (caught.value.remedy or "")
    assert here.job(job_id).state == JobState.FAILED and here.job(job_id).error is not None


@moment
async def test_one_that_was_not_taken_in_when_the_authority_ended_is_no_success_later(
    here: World,
) -> None:
    """The result is in the state, its end is not: the next authority ends it as what it is."""
    record = here.authority.recorder.record

    async def refuse(actor: Any, action: str, *objects: str, **more: Any) -> int:
        if action in ("job.done", "job.failed"):
            raise LedgerUnavailable("no room")
        return await record(actor, action, *objects, **more)

    here.authority.recorder.record = refuse  # type: ignore[method-assign]
    (here.home.root / "program.py").write_text(WRONG)
    here.go.touch()
    job_id = await here.run("wild")
    await here.until(lambda: job_id in here.authority.queue._intake.held)
    await here.restart()
    await here.unlock()
    await here.reaches(job_id, JobState.FAILED)
    assert here.job(job_id).error["detail"] == WHAT
    assert here.authority.requests._shown("wild").adapter == here.job(job_id).subject


@moment
async def test_one_that_does_not_say_it_as_it_should_has_failed_too(here: World) -> None:
    run = await went_wrong(here, SAYS_LITTLE)
    assert run.train_job.error.detail == "The run went wrong, and does not say how." and run.adapter


@moment
async def test_a_run_that_failed_with_nothing_is_told_from_one_that_goes_on(here: World) -> None:
    job_id = await here.run("wild")
    with pytest.raises(Conflict, match="has no adapter yet") as caught:
        await here.authority.requests.merge(PEER, MergeRequest(name="m", run="wild"))
    assert "run watch wild" in (caught.value.remedy or "")
    await here.authority.queue.cancel(PEER, job_id)
    await here.reaches(job_id, JobState.CANCELLED)
    with pytest.raises(Conflict, match="is cancelled and has no adapter") as caught:
        await here.authority.requests.merge(PEER, MergeRequest(name="m", run="wild"))
    assert "run resume wild" in (caught.value.remedy or "")


def wrong(gates: Gates, name: str, classification: str, evaluation: dict[str, Any] | None) -> str:
    """A model of a run that went wrong, whose best adapter from before was merged."""
    model = model_of(gates.world, name, classification, evaluation)
    with gates.world.authority.state.change() as change:
        run = change.session.scalars(select(RunRow).where(RunRow.name == f"{name}-run")).one()
        job = change.session.get_one(JobRow, run.train_job)
        job.state, job.error = JobState.FAILED, {"code": "diverged", "detail": WHAT}
    return model


@gated
async def test_nobody_serves_it_unmeasured_and_who_approves_reads_what_happened(gates: Gates) -> None:
    for number, evaluation in enumerate([None, {"base": {"loss": 1.0}, "tuned": {"loss": 2.0}}]):
        model = wrong(gates, f"unproved-{number}", "public", evaluation)
        with pytest.raises(Denied) as caught:
            await gates.serve(OPERATOR, model)
        assert "what-went-wrong-is-measured-before-it-serves" in (caught.value.remedy or "")
    model = wrong(gates, "measured", "public", BETTER)
    asked = await needed(gates.serve(OPERATOR, model))
    assert f"its run went wrong: {WHAT}" in gates.register.one(asked).summary
    await gates.approve(APPROVER, asked)
    await gates.serve(OPERATOR, model)


@gated
async def test_who_approves_an_export_reads_it_too(gates: Gates) -> None:
    authority = gates.world.authority
    good, bad = model_of(gates.world, "good", "public", BETTER), wrong(gates, "bad", "public", BETTER)
    with authority.state.read() as session:
        for model, told in ((good, False), (bad, True)):
            request = {
                "reference": model,
                "request": ExportRequest(form="plain", recipients=()).model_dump(),
            }
            frozen = freeze_export(session, request, authority.state.now())
            assert (f"its run went wrong: {WHAT}" in frozen.summary) == told
            assert frozen.facts.went_wrong == told


@moment
async def test_a_run_is_not_repeated_on_its_own_base(here: World) -> None:
    await here.run("first")
    again = RunRequest(name="again", dataset="rows", base="base", evaluate=None, rebase_of="first")
    with pytest.raises(InvalidInput, match="base of the run itself"):
        await here.authority.requests.start_run(PEER, again)
    other = again.train.model_copy(update={"template": "chatml"})
    await here.authority.requests.start_run(PEER, again.model_copy(update={"train": other}))
