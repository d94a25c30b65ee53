"""Evaluations asked for after a run: entered, priced, kept beside the pair, held against by policies and approvals."""

from __future__ import annotations

from typing import Any

import pytest
from authority_world import PEER, World, moment
from sqlalchemy import select

from cloister.api import (
    ErrorsConfig,
    EvaluateConfig,
    EvaluationRequest,
    JobState,
    ObjectKind,
    ServeRequest,
    TableConfig,
)
from cloister.appliance.documents import worker_documents
from cloister.appliance.facts import facts_of
from cloister.appliance.freezing import freeze_deployment
from cloister.appliance.runs import after_job
from cloister.appliance.state import JobRow, ObjectRow, RunRow
from cloister.errors import Conflict, InvalidInput, NotFound
from cloister.policy.cedar import PolicySet, Question, default_policies
from cloister.policy.settings import PriceSettings
from cloister.policy.things import APPROVED

PAIR = {"base": {"loss": 3.0}, "tuned": {"loss": 0.5}, "rows": 150}
FULL = {
    "table": {"lines": []},
    "verdict": {"advice": "deploy", "against": "few-shot", "sentences": ["Fine-tuning is better."]},
    "bounds": {"rows": 40, "accuracy_low": 0.81, "gain_low": 0.2, "advice": "deploy"},
}


async def trained(world: World) -> None:
    """A run `one` on `rows`, with an adapter that only the state knows."""
    adapter = world.stored(ObjectKind.ADAPTER, "one")
    job = await world.run("one")
    world.go.touch()
    await world.reaches(job, JobState.DONE)
    with world.authority.state.change() as change:
        run = change.session.scalars(select(RunRow)).one()
        run.adapter = adapter


def run_row(world: World) -> RunRow:
    with world.authority.state.read() as session:
        return session.scalars(select(RunRow)).one()


@moment
async def test_an_evaluation_is_entered_and_queued_once(world: World) -> None:
    world.stored(ObjectKind.BASE, "big")
    await trained(world)
    evaluations = world.authority.evaluations
    world.authority.queue.paused = True
    with pytest.raises(InvalidInput, match="base of the run itself"):
        await evaluations.start(PEER, "one", EvaluationRequest(larger="base"))
    table = TableConfig(metric="score", metric_sha256="a" * 64)
    request = EvaluationRequest(config=EvaluateConfig(table=table), larger="big")
    ticket = await evaluations.start(PEER, "one", request)
    assert ticket.token is not None and ticket.job.state == JobState.WAITING_SOURCE
    entry = next(e for e in world.authority.ledger.entries(0, 100) if e["action"] == "evaluation.start")
    assert entry["digests"]["metric"] == "a" * 64 and len(entry["objects"]) == 3
    with pytest.raises(Conflict, match="measured already"):
        await evaluations.start(PEER, "one", EvaluationRequest())
    assert run_row(world).evaluate_job == ticket.job.job_id
    await world.authority.queue.cancel(PEER, ticket.job.job_id)
    again = await evaluations.start(PEER, "one", EvaluationRequest())
    assert again.token is None and again.job.state == JobState.QUEUED


@moment
async def test_the_prices_of_the_settings_go_to_the_worker_as_they_are_when_it_starts(world: World) -> None:
    await trained(world)
    world.authority.queue.paused = True
    ticket = await world.authority.evaluations.start(PEER, "one", EvaluationRequest())
    await world.restart(prices=PriceSettings(watts=500, kwh=0.4, staff_hour=60, case_minutes=2))
    await world.unlock()
    world.authority.queue.paused = True
    document, _ = worker_documents(world.authority.queue._parts, world.job(ticket.job.job_id), [], {})
    config = EvaluateConfig.model_validate(document.config)
    assert config.costs is not None and config.costs.hour == pytest.approx(0.2)
    assert config.costs.case == pytest.approx(2.0) and config.costs.preparation is None
    assert set(document.inputs) == {"dataset", "base", "adapter"}


def finish(world: World, result: dict[str, Any]) -> None:
    """As the intake does when an evaluation's job is done."""
    with world.authority.state.change() as change:
        run = change.session.scalars(select(RunRow)).one()
        job = change.session.get_one(JobRow, run.evaluate_job)
        job.state, job.result = JobState.DONE, result
        after_job(change, job, change.session.scalars(select(ObjectRow)).first())


@moment
async def test_a_table_of_fewer_rows_leaves_the_pair_as_it_was(world: World) -> None:
    await trained(world)
    world.authority.queue.paused = True
    few = {**PAIR, "tuned": {"loss": 0.1}, "rows": 40}
    for result, expected in (
        (PAIR, PAIR),
        ({**few, "full": FULL}, {**PAIR, "full": FULL}),
        (few, {**few, "full": FULL}),
    ):
        await world.authority.evaluations.start(PEER, "one", EvaluationRequest())
        finish(world, result)
        assert run_row(world).evaluation == expected


@moment
async def test_policies_and_approvals_go_by_the_tables_bounds(world: World) -> None:
    await trained(world)
    adapter = run_row(world).adapter
    model = world.stored(ObjectKind.MODEL, "desk")

    def measured(evaluation: dict[str, Any]) -> tuple[Any, Any]:
        with world.authority.state.change() as change:
            change.session.get_one(ObjectRow, (model, 1)).inputs = [adapter]
            change.session.scalars(select(RunRow)).one().evaluation = evaluation
        with world.authority.state.read() as session:
            request = ServeRequest(name="desk", model="desk").model_dump(mode="json")
            frozen = freeze_deployment(session, request, world.authority.state.now())
            return facts_of(session, "Model", model), frozen

    files = {p.name: p.read_text() for p in default_policies().glob("*.cedar*")}
    files["own.cedar"] = """
@id("gains-are-sure")
forbid (principal, action == Action::"deployment.start", resource)
unless { resource.evaluation has gain_low && resource.evaluation.gain_low.greaterThan(decimal("0.1")) &&
         resource.evaluation has rows && resource.evaluation.rows >= 40 &&
         resource.evaluation has advice && resource.evaluation.advice == "deploy" };

@id("nothing-is-lost")
forbid (principal, action == Action::"deployment.start", resource)
when { resource.evaluation has general_change_low && resource.evaluation.general_change_low.lessThan(decimal("-0.2")) ||
       resource.evaluation has general_low && resource.evaluation.general_low.lessThan(decimal("0.5")) ||
       resource.evaluation has larger_gain_low && resource.evaluation.larger_gain_low.lessThan(decimal("-0.05")) };
"""
    policies = PolicySet(files, "own")

    def may(facts: Any) -> bool:
        question = Question(
            "x", frozenset({"sole"}), "deployment.start", "Deployment", facts=facts, consent=APPROVED
        )
        return policies.decide(question).allowed

    facts, first = measured({**PAIR, "full": FULL})
    assert may(facts) and facts.evaluation.numbers["accuracy_low"] == 0.81
    assert "verdict: Fine-tuning is better." in first.summary
    slower, same = {**FULL, "table": {"lines": [1]}}, measured({**PAIR, "full": FULL})[1]
    assert measured({**PAIR, "full": slower})[1].pinned == same.pinned, "what a query took binds nobody"
    whole = {"general_change_low": -0.1, "general_low": 0.6, "larger_gain_low": 0.0}
    facts, _ = measured({**PAIR, "full": {**FULL, "bounds": {**FULL["bounds"], **whole}}})
    assert may(facts) and facts.evaluation.numbers.items() >= whole.items()
    for worse in (
        {"gain_low": 0.05},
        {"rows": 39},
        {"advice": "cannot-tell"},
        {"advice": "weigh"},
        {"general_change_low": -0.3},
        {"general_low": 0.4},
        {"larger_gain_low": -0.1},
    ):
        facts, other = measured({**PAIR, "full": {**FULL, "bounds": {**FULL["bounds"], **worse}}})
        assert not may(facts) and other.pinned != first.pinned
    facts, pair = measured(PAIR)
    assert not may(facts) and pair.pinned["evaluation"] == PAIR


@moment
async def test_answers_are_shown_after_the_entry(world: World) -> None:
    await trained(world)
    evaluations = world.authority.evaluations
    with pytest.raises(NotFound, match="not measured"):
        await evaluations.show(PEER, "one", ErrorsConfig())
    kept = world.stored(ObjectKind.EVALUATION, "one")
    with world.authority.state.change() as change:
        change.session.get_one(ObjectRow, (kept, 1)).inputs = [run_row(world).adapter]
    ticket = await evaluations.show(PEER, "one", ErrorsConfig(worst=3))
    entry = world.authority.ledger.entries(0, 1000)
    told = next(one for one in entry if one["action"] == "evaluation.reveal")
    assert told["details"]["rows"] == 3 and kept in told["objects"]
    await evaluations.shown(ticket.job.job_id, {"rows": 3, "bytes": 99}, 0)
    done = world.job(ticket.job.job_id)
    assert done.state == JobState.DONE and done.result["rows"] == 3
    assert world.entered()[done.result["entry"]] == "evaluation.reveal"
