"""A run as a row: found by name or id, and what follows when one of its jobs is done."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import JobState, LoraConfig, ObjectKind, RunRequest, TrainConfig
from cloister.appliance.catalogue import find
from cloister.appliance.jobs import PENDING, new_job
from cloister.appliance.state import JobRow, ObjectRow, RunRow
from cloister.appliance.store import Change
from cloister.appliance.tombstones import refuse_shredded
from cloister.errors import Conflict, InvalidInput, NotFound


def find_run(session: Session, reference: str) -> RunRow:
    """The run of this name, id, or id of one of its jobs. Errors: NotFound, Shredded."""
    row: RunRow | None = session.scalars(
        select(RunRow)
        .where((RunRow.run_id == reference) | (RunRow.name == reference))
        .order_by((RunRow.run_id == reference).desc())
    ).first()
    if row is None:
        row = session.scalars(
            select(RunRow).where((RunRow.train_job == reference) | (RunRow.evaluate_job == reference))
        ).first()
    if row is None:
        refuse_shredded(session, "run", reference)
        raise NotFound(
            "there is no run of that name or id", where=reference[:64], remedy="See `cloister run list`."
        )
    return row


def require_adapter(session: Session, run: RunRow) -> str:
    """The id of a run's adapter. Errors: Conflict where there is none, saying whether there will be one."""
    if run.adapter is not None:
        return run.adapter
    state = session.get_one(JobRow, run.train_job).state
    if state in PENDING:
        raise Conflict(
            "the run has no adapter yet",
            where=run.name,
            remedy=f"Wait for it: `cloister run watch {run.name}`.",
        )
    retry, resume = f"`cloister run retry {run.name}`", f"`cloister run resume {run.name}`"
    raise Conflict(
        f"the run is {state} and has no adapter",
        where=run.name,
        remedy=f"See {retry if state == JobState.FAILED else resume}.",
    )


def went_wrong(session: Session, run: RunRow) -> str | None:
    """What went wrong with a run whose adapter is from before that; None where nothing did."""
    job = session.get_one(JobRow, run.train_job)
    if run.adapter is None or job.state != JobState.FAILED or job.error is None:
        return None
    return str(job.error.get("detail"))


def refuse_taken_run(session: Session, name: str) -> None:
    """Errors: Conflict."""
    if session.scalars(select(RunRow).where(RunRow.name == name)).first() is not None:
        raise Conflict("a run of that name exists", where=name, remedy="Choose another name.")


def run_inputs(session: Session, asked: RunRequest) -> dict[str, ObjectRow]:
    """What a run is made of, by role: dataset, base, holdout where another is named, and the adapter it goes on from.

    Errors: NotFound, Shredded; InvalidInput or Conflict where they do not go together.
    """
    inputs = {
        "dataset": find(session, ObjectKind.DATASET, asked.dataset),
        "base": find(session, ObjectKind.BASE, asked.base),
    }
    if asked.holdout is not None:
        inputs["holdout"] = find(session, ObjectKind.DATASET, asked.holdout)
    if asked.from_run is not None:
        earlier = find_run(session, asked.from_run)
        adapter = require_adapter(session, earlier)
        if earlier.base != inputs["base"].object_id:
            raise InvalidInput(
                "the run to go on from has another base model, and an adapter fits its own alone",
                where=earlier.name,
                remedy="Leave the base out; `cloister run rebase` repeats a run on another one.",
            )
        was = LoraConfig.model_validate(earlier.train.get("lora", {}))
        if was.model_copy(update={"dropout": asked.train.lora.dropout}) != asked.train.lora:
            raise InvalidInput(
                "the run to go on from has an adapter of another form (rank, alpha, rslora, dora)",
                where=earlier.name,
                remedy="Leave `lora` out: it is then the earlier run's.",
            )
        inputs["adapter"] = find(session, ObjectKind.ADAPTER, adapter)
    if asked.rebase_of is not None:
        repeated = find_run(session, asked.rebase_of)
        learnt = session.get_one(JobRow, repeated.train_job).inputs
        for role in ("dataset", "holdout"):
            before, after = learnt.get(role), inputs.get(role)
            if (before and (before["object_id"], before["version"])) != (
                after and (after.object_id, after.version)
            ):
                raise Conflict(
                    f"the {role} is not the version that the run was made of",
                    where=repeated.name,
                    remedy="Start a new run on each base: what is compared must have learnt the same rows.",
                )
        then, now = learnt.get("base"), inputs["base"]
        same = then and (then["object_id"], then["version"]) == (now.object_id, now.version)
        if same and "adapter" not in learnt and TrainConfig.frozen(repeated.train) == asked.train:
            raise InvalidInput(
                "that is the base of the run itself, and nothing would come out otherwise",
                where=now.name,
                remedy=f"Name another; `cloister run start --from-run {repeated.name}` goes on with what it learnt.",
            )
    return inputs


def earlier_adapter(session: Session, run: RunRow) -> ObjectRow | None:
    """The adapter that a run went on from; None for one that began anew."""
    reference = session.get_one(JobRow, run.train_job).inputs.get("adapter")
    return (
        session.get(ObjectRow, (reference["object_id"], reference["version"]))
        if reference is not None
        else None
    )


def went_on_from(session: Session, run: RunRow) -> str | None:
    """The id of the run whose adapter a run went on from, also where that is shredded by now."""
    reference = session.get_one(JobRow, run.train_job).inputs.get("adapter")
    if reference is None:
        return None
    found: str | None = session.scalars(
        select(RunRow.run_id).where(RunRow.adapter == reference["object_id"])
    ).first()
    return found


def after_job(change: Change, job: JobRow, stored: ObjectRow) -> None:
    """What follows from a job, in the same commit: a run's adapter, then its evaluation, where the run went well."""
    column = RunRow.train_job if job.verb == "train" else RunRow.evaluate_job
    run = change.session.scalars(select(RunRow).where(column == job.job_id)).first()
    if run is None:
        return
    if job.verb == "train":
        run.adapter = stored.object_id
        if (
            run.evaluate is not None and job.state == JobState.DONE
        ):  # what is kept of a failed one is measured when asked
            inputs = {
                role: change.session.get_one(ObjectRow, (reference["object_id"], reference["version"]))
                for role, reference in job.inputs.items()
            }
            inputs["adapter"] = stored
            row = new_job(
                change, job.requested_by, "evaluate", run.name, run.evaluate, inputs, priority=job.priority
            )
            run.evaluate_job = row.job_id
    else:
        run.evaluation = _with(run.evaluation, job.result)
    change.event("run.updated", run.run_id, name=run.name)


def _with(before: dict[str, Any] | None, result: dict[str, Any]) -> dict[str, Any]:
    """An evaluation's numbers beside those that were there: a whole table, which may be of fewer rows, leaves the pair
    as it was measured first; a pair leaves the table."""
    if before is None:
        return dict(result)
    if "full" in result:
        return {**before, "full": result["full"]}
    return {**{name: value for name, value in before.items() if name == "full"}, **result}
