"""The pipeline as lines: its stages with what is in each, what is queued and runs, devices and who holds them.

Words and numbers of one picture; nothing is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from cloister.console.machine import Machine
from cloister.console.paint import NAME, bar, outside, state
from cloister.console.picture import Picture
from cloister.console.widgets.rows import Line
from cloister.shown import counted, describe, size

if TYPE_CHECKING:
    from cloister.api import GpuStatus, Run

QUEUED = ("queued", "waiting-source", "running", "paused", "interrupted")
ENGINES = ("starting", "ready", "restarting")
OVER = ("stopped", "failed")
VERBS = ("import", "train", "evaluate", "merge")


def waiting(picture: Picture) -> list[Line]:
    """What waits for somebody's approval, in one line that leads to it."""
    asked = [one for one in picture.approvals if one.state == "pending"]
    told = ", ".join(f"{one.action} {one.name} of {one.requested_by}" for one in asked)
    cells = (Text("approval"), state(f"{len(asked)} pending", "wait"), outside(told, 200))
    return [Line("go:models/approvals", cells)] if asked else []


def stages(picture: Picture) -> list[Line]:
    """Data, train, evaluate, merge, serve."""
    runs, jobs = picture.runs, picture.jobs
    live = [one for one in picture.deployments if one.state not in OVER]
    busy = {verb: sum(job.verb == verb and job.state == "running" for job in jobs) for verb in VERBS}
    measured = [run for run in runs if run.evaluation is not None]
    rows = sum(one.counts.get("rows", 0) for one in picture.datasets)
    named = ", ".join(f"{one.name} {one.state}" for one in live)
    told = counted(rows, "row")
    return [
        _stage("data", "data", busy["import"], len(picture.datasets), "datasets", told, "i brings some in"),
        _stage("runs", "→ train", busy["train"], len(runs), "runs", _last(runs), "n starts one"),
        _stage(
            "runs/",
            "→ evaluate",
            busy["evaluate"],
            len(measured),
            "measured",
            _best(measured),
            "a run is, at its end",
        ),
        _stage(
            "models",
            "→ merge",
            busy["merge"],
            len(picture.models),
            "models",
            _sizes(picture),
            "3, then m on a run",
        ),
        _stage("serving", "→ serve", 0, len(live), "served", named, "5, then s serves a model"),
    ]


def _stage(place: str, name: str, busy: int, count: int, noun: str, more: str, first: str) -> Line:
    """`first` says what comes first, where there is nothing yet."""
    there = f"{count} {noun if count != 1 else noun.removesuffix('s')}"
    told = state(f"{busy} running", "busy") if busy else state(there, "good" if count else "off")
    return Line(f"go:{place}", (Text(name, "bold"), told, outside(more if count else first, 120)))


def _last(runs: Sequence[Run]) -> str:
    return "".join(f"last: {run.name}, {run.train_job.state}" for run in runs[-1:])


def _best(measured: Sequence[Run]) -> str:
    """Of the newest run that tells of it, how many answers were exact before and after."""
    for run in reversed(measured):
        evaluation = run.evaluation or {}
        before = evaluation.get("base", {}).get("exact_match")
        after = evaluation.get("tuned", {}).get("exact_match")
        if isinstance(before, int | float) and isinstance(after, int | float):
            return f"{run.name}: exact {before:.1%} → {after:.1%}"
    return ""


def _sizes(picture: Picture) -> str:
    return size(sum(one.sealed_bytes for one in picture.models)) if picture.models else ""


def queue(picture: Picture) -> list[Line]:
    """What runs, waits, or can be gone on with."""
    lines = []
    for job in picture.jobs:
        if job.state not in QUEUED:
            continue
        told = describe(job).partition(" · ")[2]
        named = f"{job.verb} {picture.subject_of(job)}"
        lines.append(
            Line(
                f"job:{job.job_id}",
                (outside(named, NAME + len(job.verb)), state(job.state), outside(told, 120)),
            )
        )
    return lines


def devices(picture: Picture, machine: Machine | None) -> list[Line]:
    """The memory, the load and the holders of each: the GPUs, then the CPU with what runs on it."""
    status = picture.status
    if status is None:
        return []
    lines = [_gpu(gpu, picture) for gpu in status.gpus]
    jobs = [job for job in picture.jobs if job.state == "running" and (job.device or "cpu") == "cpu"]
    engines = [one for one in picture.deployments if one.state in ENGINES and (one.device or "cpu") == "cpu"]
    held = ", ".join([*(picture.holder(job.job_id) for job in jobs), *(one.name for one in engines)])
    told = state("busy") if held else state("free", "good")
    words = []
    if machine is not None:
        words.append(_share(machine.memory_used, machine.memory_total))
        words.append(f"load {machine.load:.1f}/{machine.cores}")
    words.append(held or ("free" if status.gpus else "no GPU: everything runs here"))
    return [*lines, Line("gpu:cpu", (Text("CPU"), told, outside("  ".join(words), 200)))]


def _gpu(gpu: GpuStatus, picture: Picture) -> Line:
    words = [
        _share(gpu.memory_used or 0, gpu.memory_total) if gpu.memory_total else "",
        f"{gpu.utilisation_percent}% busy" if gpu.utilisation_percent is not None else "",
        ", ".join(picture.holder(reference) for reference in gpu.holders) or ("" if gpu.problem else "free"),
    ]
    told = state(gpu.problem, "bad") if gpu.problem else state("held" if gpu.holders else "free", "good")
    return Line(
        f"gpu:{gpu.number}",
        (Text(f"GPU {gpu.number}"), told, outside("  ".join(filter(None, words)), 200)),
    )


def _share(used: int, total: int) -> str:
    """A bar, and both in the unit of the whole."""
    share = used / total if total else 1.0
    whole, unit = size(total).split()
    return f"{bar(share, 8)} {share * float(whole):.1f} of {whole} {unit}"
