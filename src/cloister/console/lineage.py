"""What came of what, as lines of a tree: bases, the runs on them, the models merged from those."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.paint import NAME, ago, outside, state, styled
from cloister.console.picture import Picture
from cloister.console.widgets.rows import Line
from cloister.shown import duration, size, standing

if TYPE_CHECKING:
    from cloister.api import Job, Run, StoredObject


def lineage(picture: Picture, now: datetime) -> list[Line]:
    """Each base with what came of it; then runs on bases, and models of runs, that are gone."""
    lines: list[Line] = []
    known = {one.object_id for one in picture.bases}
    for base in picture.bases:
        sized = Text(size(base.sealed_bytes))
        lines.append(_stored(base, outside(base.name, NAME, "bold"), "base model", sized, now))
        lines += _runs(picture, [run for run in picture.runs if run.base == base.object_id], now)
    lines += _runs(picture, [run for run in picture.runs if run.base not in known], now)
    placed = {line.key for line in lines}
    lines += [_model(picture, one, "", now) for one in picture.models if one.object_id not in placed]
    return lines


def _runs(picture: Picture, runs: Sequence[Run], now: datetime) -> list[Line]:
    lines = []
    for number, run in enumerate(runs, 1):
        last = number == len(runs)
        came = [one for one in picture.models if run.adapter is not None and run.adapter in one.inputs]
        lines.append(
            Line(
                run.run_id,
                (
                    styled("└─ " if last else "├─ ", "dim") + outside(run.name, NAME),
                    Text("run"),
                    state(standing(run).state),
                    Text(_exact(run)),
                    Text(ago(run.created_at, now)),
                    outside(run.created_by, NAME),
                ),
            )
        )
        lead = "   " if last else "│  "
        lines += [_model(picture, one, lead + ("└─ " if one is came[-1] else "├─ "), now) for one in came]
    return lines


def _model(picture: Picture, model: StoredObject, lead: str, now: datetime) -> Line:
    served = any(one.model == model.object_id and one.state == "ready" for one in picture.deployments)
    told = state("served", "good") if served else state("merged", "off")
    return _stored(model, styled(lead, "dim") + outside(model.name, NAME), "merged model", told, now)


def _stored(one: StoredObject, named: Text, kind: str, told: Text, now: datetime) -> Line:
    when = Text(ago(one.created_at, now))
    return Line(one.object_id, (named, Text(kind), told, Text(""), when, outside(one.created_by, NAME)))


def far(job: Job) -> Text:
    """How far a job is, in a few columns."""
    progress = job.progress
    if job.state != "running" or progress is None or not progress.total:
        return Text("")
    return outside(f"{progress.stage} {progress.done / progress.total:.0%}", 16)


def left(job: Job) -> str:
    """How long it will take yet, or until it starts."""
    if job.state == "running" and job.progress is not None and job.progress.remaining_s is not None:
        return duration(job.progress.remaining_s)
    if job.state == "queued" and job.starts_in_s is not None:
        return f"in {duration(job.starts_in_s)}"
    return ""


def _exact(run: Run) -> str:
    tuned = (run.evaluation or {}).get("tuned", {}).get("exact_match")
    return f"{tuned:.1%}" if isinstance(tuned, int | float) else ""
