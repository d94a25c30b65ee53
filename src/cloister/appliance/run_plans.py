"""What a run would take, told before it is asked for: facts about base, dataset, machine and past runs, put together.

The arithmetic is `cloister.planning`'s; this gathers what it needs from the state, and starts and records nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from cloister.api import (
    DatasetReport,
    EvaluateConfig,
    JobState,
    ObjectKind,
    PlanRequest,
    RunPlan,
    TrainConfig,
)
from cloister.appliance.catalogue import find
from cloister.appliance.devices import each_of, gpu_of
from cloister.appliance.gpus import Gpus
from cloister.appliance.parts import Parts
from cloister.appliance.room import GIB, memory_of
from cloister.appliance.state import JobRow, ObjectRow, RunRow
from cloister.errors import Conflict, Diverged
from cloister.planning.lengths import Lengths
from cloister.planning.memory import training_parts
from cloister.planning.plan import Known, Machine, plan_run
from cloister.planning.shape import ModelShape
from cloister.planning.time import Seen, operations_a_token

PAST = 20
"""So many finished runs are looked at, the newest first."""
INDEX_BYTES = 9
"""Of a row, beside its content."""


class RunPlans:
    """One call a plan."""

    def __init__(self, parts: Parts, gpus: Gpus) -> None:
        self._state = parts.state
        self._settings = parts.settings
        self._devices = parts.devices
        self._gpus = gpus

    def plan(self, request: PlanRequest) -> RunPlan:
        """The plan of a run. Errors: NotFound; InvalidInput where it asks for more devices than there are; Conflict
        where too little is known of the base model."""
        self._devices.require(request.train.processes)
        machine = self._machine(request.train.processes)
        with self._state.read() as session:
            base = find(session, ObjectKind.BASE, request.base)
            dataset = find(session, ObjectKind.DATASET, request.dataset)
            shape, context = _shape(base), base.details.get("context_length")
            train, holdout = _lengths(session, dataset, base, request.train)
            evaluate = request.evaluate
            if request.holdout is not None:
                other = find(session, ObjectKind.DATASET, request.holdout)
                rows = other.counts.get("rows", 0)
                holdout = Lengths.guessed(rows, other.sealed_bytes, request.train.max_length)
                holdout = replace(holdout, texts=other.details.get("task") == "text")
            known = _known(session, base, machine)
            if evaluate is not None:
                known = replace(known, evaluations=_evaluated(session, base, machine, evaluate))
            warned = _went_wrong(session, dataset, base, request.train)
            lost = _lost(session, dataset, base, request.train)
        prices = self._settings.prices.planned
        found = plan_run(
            shape, request.train, train, holdout, machine, known, prices, evaluate, context=context
        )
        notes = [*filter(None, (lost,)), *found.notes, *filter(None, (warned,))]
        return found.model_copy(update={"notes": notes, "refused": found.refused or lost is not None})

    def _machine(self, count: int) -> Machine:
        """The roomiest device that a run may get, without the reserve; of several the least."""
        reserve = int(self._settings.queue.memory_reserve_gib * GIB)
        cores = self._settings.queue.threads or len(os.sched_getaffinity(0))
        watts = self._settings.prices.watts
        gpus = [
            gpu
            for gpu in self._gpus.listed()
            if f"cuda:{gpu.number}" in self._devices.places and gpu.memory_total is not None
        ]
        if not gpus:
            return Machine("cpu", max(0, memory_of("MemTotal") - reserve), cores, watts=watts)
        best = sorted(gpus, key=lambda gpu: -(gpu.memory_total or 0))[: max(1, count)][-1]
        return Machine("cuda", best.memory_total or 0, cores, gpu=best.name or "GPU", watts=watts)


def _went_wrong(session: Session, dataset: ObjectRow, base: ObjectRow, config: TrainConfig) -> str | None:
    """That a run on this dataset and base went wrong at no higher a learning rate; None where none did."""
    rows = session.execute(
        select(RunRow, JobRow)
        .join(JobRow, JobRow.job_id == RunRow.train_job)
        .where(
            JobRow.state == JobState.FAILED,
            RunRow.dataset == dataset.object_id,
            RunRow.base == base.object_id,
        )
        .order_by(JobRow.ended_at.desc())
        .limit(PAST)
    ).all()
    rates = [
        (TrainConfig.frozen(run.train).learning_rate, run.name)
        for run, job in rows
        if (job.error or {}).get("code") == Diverged.code
    ]
    rate, name = min(rates, default=(0.0, ""))
    if not name or config.learning_rate < rate:
        return None
    return f"The run {name}, on the same dataset and base, went wrong at a learning rate of {rate:g}: take a lower one."


def _shape(base: ObjectRow) -> ModelShape:
    shape = ModelShape.from_details(base.details)
    if shape is None:
        raise Conflict(
            "this base model was imported before its shape was written down",
            where=base.name,
            remedy="Import it again under another name: `cloister base import`.",
        )
    return shape


def _lengths(
    session: Session, dataset: ObjectRow, base: ObjectRow, config: TrainConfig
) -> tuple[Lengths, Lengths]:
    """Of both sides: counted by a report or a run with this base's tokenizer, else guessed from the dataset's size."""
    rows = max(1, dataset.counts.get("rows", 1))
    known = _counted(session, dataset, base, config)
    if known is None:
        content = max(0, dataset.sealed_bytes - INDEX_BYTES * rows)
        known = Lengths.guessed(rows, content, config.max_length)
    known = replace(known, texts=dataset.details.get("task") == "text")
    learnt = dataset.counts.get("train_rows", rows)
    sides = (min(learnt, config.max_rows or learnt), dataset.counts.get("holdout_rows", 0))
    train, holdout = (known.of(side) for side in sides)
    return train, holdout


def _lost(session: Session, dataset: ObjectRow, base: ObjectRow, config: TrainConfig) -> str | None:
    """What the newest report, rendered as the run's rows would be, found that a run refuses; how long a row may be is
    the run's to say. None where it found nothing, nobody looked, or only some rows are drawn."""
    for job in _read_alike(session, dataset, base, config):
        if job.verb != "report" or config.max_rows:
            continue
        report = DatasetReport.model_validate(job.result)
        if report.tokens is None and not report.lost:
            continue
        rules = {rule: rows for rule, rows in report.lost.items() if not rule.startswith("is longer than")}
        if not rules:
            return None
        said = "; ".join(f"{rule}: {rows} row{'s' if rows > 1 else ''}" for rule, rows in rules.items())
        return f"The last report found rows that a run refuses ({said}): take another template, or leave them out."
    return None


def _counted(session: Session, dataset: ObjectRow, base: ObjectRow, config: TrainConfig) -> Lengths | None:
    """The newest count of this version's tokens by a report, or by a run, rendered as the run's rows would be."""
    for job in _read_alike(session, dataset, base, config):
        found = _of_report(job.result) if job.verb == "report" else _of_run(session, dataset, job)
        if found is not None:
            return found
    return None


def _read_alike(
    session: Session, dataset: ObjectRow, base: ObjectRow, config: TrainConfig
) -> Iterator[JobRow]:
    """Reports and runs of this version on this base, done and rendered as the run's rows would be, newest first."""
    done = select(JobRow).where(JobRow.state == JobState.DONE).order_by(JobRow.ended_at.desc())
    for job in session.scalars(done.where(JobRow.verb.in_(("report", "train"))).limit(PAST)):
        read = {role: (ref["object_id"], ref["version"]) for role, ref in job.inputs.items()}
        if read.get("dataset") != (dataset.object_id, dataset.version) or (
            read.get("base") != (base.object_id, base.version)
        ):
            continue
        if _rendering(job.config) == _rendering(config.model_dump()):
            yield job


def _rendering(config: Mapping[str, Any]) -> tuple[str, str]:
    """Whose template writes the rows, and what of them is learnt."""
    template = config.get("template") or "auto"
    return ("auto" if template == "model" else template), config.get("loss_on") or "assistant"


def _of_report(result: dict[str, Any]) -> Lengths | None:
    report = DatasetReport.model_validate(result)
    if report.tokens is None or not report.tokens.total:
        return None
    share = report.supervised_tokens / report.tokens.total
    return Lengths(report.rows, report.tokens.total, report.tokens.longest, share, measured=True)


def _of_run(session: Session, dataset: ObjectRow, job: JobRow) -> Lengths | None:
    run = session.scalars(select(RunRow).where(RunRow.train_job == job.job_id)).first()
    result = job.result
    named = ("tokens", "supervised_tokens", "longest", "steps", "epoch_rows", "epoch_tokens")
    told = [result.get(name) for name in named]
    tokens, supervised, longest, steps, rows, once = (n if isinstance(n, int) and n > 0 else 0 for n in told)
    if run is None or not (tokens and longest and steps):
        return None
    config, share = TrainConfig.frozen(run.train), supervised / tokens
    learnt = dataset.counts.get("train_rows", 0)
    learnt = min(learnt, config.max_rows or learnt)
    if not (learnt and rows and once):  # of a run that did not tell yet what one pass has
        return Lengths(steps * config.batch_size, tokens, longest, share, measured=True)
    windows = max(0, rows - learnt)  # of texts, beside the first of each; how long they are is not known then
    return Lengths(learnt, once - windows, once if windows else longest, share, measured=True)


def _known(session: Session, base: ObjectRow, machine: Machine) -> Known:
    """What finished runs on a device of that kind showed: on this base where there are any, else on others."""
    rows = session.execute(
        select(RunRow, JobRow)
        .join(JobRow, JobRow.job_id == RunRow.train_job)
        .where(JobRow.state == JobState.DONE)
        .order_by(JobRow.ended_at.desc())
        .limit(PAST)
    ).all()
    told = [
        (run.base == base.object_id, seen, peak)
        for run, job in rows
        for seen, peak in _seen(session, run, job, machine)
    ]
    same = [item for item in told if item[0]] or told
    return Known(runs=[seen for _, seen, _ in same], peaks=[peak for _, _, peak in same if peak is not None])


def _seen(
    session: Session, run: RunRow, job: JobRow, machine: Machine
) -> Iterator[tuple[Seen, float | None]]:
    """One finished run, where it says enough."""
    kind = "cpu" if gpu_of(each_of(job.device)[0]) is None else "cuda"
    base = session.scalars(
        select(ObjectRow).where(ObjectRow.object_id == run.base).order_by(ObjectRow.version.desc())
    ).first()
    shape = ModelShape.from_details(base.details) if base is not None else None
    result: dict[str, Any] = job.result
    numbers = [result.get(name) for name in ("tokens", "supervised_tokens", "tokens_per_s", "steps")]
    good = [float(number) for number in numbers if isinstance(number, int | float) and number > 0]
    if shape is None or kind != machine.device or len(good) < len(numbers):
        return
    tokens, supervised, rate, steps = good
    config = TrainConfig.frozen(run.train)
    rows = steps * config.batch_size
    share = supervised / tokens
    if kind == "cuda":
        rate /= config.processes  # those of a CPU share its cores
    seen = Seen(operations_a_token(shape, config, tokens / rows, share) * rate, 1.0)
    peak, longest = result.get("peak_bytes"), result.get("longest")
    ratio = None
    if isinstance(peak, int) and isinstance(longest, int) and not result.get("fell_back"):
        passes = max(1.0, config.epochs)
        lengths = Lengths(int(rows / passes), int(tokens / passes), longest, share, measured=True)
        held_out = round(_held_out(session, run) * tokens / rows)
        parts = training_parts(shape, config, lengths, machine.device, held_out=held_out)
        # Of a GPU torch tells what it holds itself, which what CUDA takes for the process is no part of.
        beside = sum(part.bytes for part in parts if part.name == "process" and kind == "cuda")
        ratio = (peak + beside) / sum(part.bytes for part in parts)
    yield seen, ratio


def _held_out(session: Session, run: RunRow) -> int:
    """Rows that a finished run was measured on while it learnt; 0 where they are gone."""
    found = session.scalars(
        select(ObjectRow)
        .where(ObjectRow.object_id == (run.holdout or run.dataset))
        .order_by(ObjectRow.version.desc())
    ).first()
    return 0 if found is None else int(found.counts.get("rows" if run.holdout else "holdout_rows", 0))


def _evaluated(session: Session, base: ObjectRow, machine: Machine, asked: EvaluateConfig) -> list[float]:
    """Seconds a row of finished evaluations of this base on a device of that kind: of pairs, or of whole tables."""
    jobs = session.scalars(
        select(JobRow)
        .where(JobRow.verb == "evaluate", JobRow.state == JobState.DONE)
        .order_by(JobRow.ended_at.desc())
        .limit(PAST)
    ).all()
    found = []
    for job in jobs:
        rows, read = job.result.get("rows"), job.inputs.get("base") or {}
        kind = "cpu" if gpu_of(job.device or "cpu") is None else "cuda"
        if read.get("object_id") != base.object_id or kind != machine.device or "larger" in job.inputs:
            continue
        if bool(job.config.get("table")) != (asked.table is not None):
            continue
        if job.started_at is None or job.ended_at is None or not isinstance(rows, int) or rows < 1:
            continue
        found.append((job.ended_at - job.started_at).total_seconds() / rows)
    return found
